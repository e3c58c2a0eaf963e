#include "refrain/train/run_directory.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <vector>

#include "refrain/io/file.h"
#include "refrain/train/training_loop.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

namespace fs = std::filesystem;

TEST(TrainerState, IsReadAsItWasWritten) {
  TrainerState state;
  state.step = 7;
  state.tokens_seen = 100;
  state.evaluated_step = 6;
  state.position = {2, 3};
  for (const bool has_best : {false, true}) {
    if (has_best) {
      state.best_loss = 1.25;
      state.best_step = 4;
    }
    const io::Json json = to_json(state);
    EXPECT_EQ(json["best_metric"].is_null(), !has_best);
    const TrainerState again = parse_trainer_state(json, "state");
    EXPECT_EQ(to_json(again), json);
  }
}

TEST(TrainerState, OfEarlierVersions) {
  TrainerState state;
  state.step = state.best_step = 7;
  io::Json json = to_json(state);
  json.erase("evaluated_global_step");  // they evaluated before they saved
  EXPECT_EQ(parse_trainer_state(json, "state").evaluated_step, 7);
  for (const bool absent : {false, true}) {
    json["best_metric"] = nullptr;  // a NaN as JSON has it
    if (absent) json.erase("best_metric");
    EXPECT_EQ(parse_trainer_state(json, "state").best_step, 0);
  }
}

TEST(RunDirectory, LeavesNothingUntilItIsARun) {
  const TemporaryFolder folder;
  const std::string path = folder / "run";
  {
    const RunDirectory directory = RunDirectory::create(path, false);
    EXPECT_EQ(directory.place(), path + "/.preparing");
    io::write_file(directory.place() + "/config.json", "{}");
    EXPECT_FALSE(RunDirectory::is_run(path));
    EXPECT_NE(error_of([&] { RunDirectory::create(path, true); }).find("in use by process"),
              std::string::npos);
  }
  EXPECT_FALSE(fs::exists(path));
  fs::create_directory(path);
  { const RunDirectory directory = RunDirectory::create(path, false); }
  EXPECT_TRUE(fs::is_empty(path));  // it was there
  {
    const RunDirectory directory = RunDirectory::create(path, false);
    io::write_file(directory.place() + "/config.json", "{}");
    io::make_directories(directory.place() + "/data");
    io::write_file(directory.place() + "/data/train.tokens", "ids");
    directory.write_settings({{"a", 1}});
    EXPECT_EQ(directory.place(), path);
  }
  EXPECT_EQ(io::read_file(path + "/data/train.tokens"), "ids");
  EXPECT_EQ(RunDirectory::open(path).read_settings(), (io::Json{{"a", 1}}));
  EXPECT_EQ(std::distance(fs::directory_iterator(path), {}), 3);
}

// The process died at each of the steps in which a run comes into being.
TEST(RunDirectory, ComesIntoBeingWheneverItsMakerDied) {
  for (int moved = -1; moved <= 3; ++moved) {
    const TemporaryFolder folder;
    const std::string path = folder / "run";
    io::make_directories(path + "/.preparing");
    const std::vector<std::string> names = {"config.json", "tokenizer.json", "training_args.json"};
    folder.put("run/.preparing/.refrain", "");
    for (int i = 0; i < 3; ++i)
      if (moved >= 0 || i < 2)
        folder.put(fmt::format("run/{}{}", i < moved ? "" : ".preparing/", names[size_t(i)]), "{}");
    EXPECT_EQ(RunDirectory::is_run(path), moved >= 0);
    if (moved < 0) {  // not all was made: it goes
      { const RunDirectory directory = RunDirectory::create(path, false); }
      EXPECT_TRUE(fs::is_empty(path));
      continue;
    }
    EXPECT_THROW(RunDirectory::create(path, false), Error);
    { const RunDirectory directory = RunDirectory::open(path); }
    EXPECT_FALSE(fs::exists(path + "/.preparing"));
    for (const std::string& name : names) EXPECT_TRUE(fs::exists(path + "/" + name)) << moved;
  }
}

TEST(RunDirectory, TakesNobodysPlaceWhenItMovesIn) {
  const TemporaryFolder folder;
  io::make_directories(folder / "run/.preparing");
  for (const char* name : {".refrain", "config.json", "training_args.json"})
    folder.put(std::string("run/.preparing/") + name, "ours");
  folder.put("run/config.json", "theirs");
  EXPECT_NE(error_of([&] { RunDirectory::open(folder / "run"); }).find("is in the way of"),
            std::string::npos);
  EXPECT_EQ(io::read_file(folder / "run/config.json"), "theirs");
}

// A loop around one weight, to which things happen at steps.
class Loop : public testing::Test {
 protected:
  TrainingEnd run(const TrainerEvents& events = {}) {
    Param param{.w = Tensor(weight.data(), {1}), .g = Tensor(gradient.data(), {1})};
    const ParamSpec spec{.name = "w", .shape = {1}, .init = {}, .decay = false};
    Optimizer optimizer(
        {[&](const ParamVisitor& visit) { visit(spec, param); },
         [&] { return std::span<float>(weight); }, [&] { return std::span<float>(gradient); }},
        config);
    const RunDirectory directory =
        RunDirectory::is_run(path) ? RunDirectory::open(path) : RunDirectory::create(path, false);
    directory.write_settings({});
    TrainerState state;
    const auto found = directory.load_newest([](const std::string&) {}, optimizer);
    if (found) state = *found;
    TrainingLoop::Learner learner{
        .next_gradient =
            [&] {
              state.position.index = state.step + 1;
              if (state.step + 1 == gradient_fails_at) throw_error("no gradient");
              if (state.step + 1 == overflow_at) weight[0] = INFINITY;
              return TrainingLoop::Gradient{.loss = 1, .tokens = 1};
            },
        .epoch = [] { return 0.0; },
        .evaluate =
            [&](const ShouldStop& should_stop) {
              if (should_stop()) return TrainingLoop::Score{.evaluation = {.stopped = true}};
              if (state.step == evaluation_fails_at) throw_error("no evaluation");
              evaluated.push_back(state.step);
              return TrainingLoop::Score{
                  .evaluation = {.loss = losses.at(static_cast<size_t>(state.step)), .tokens = 1}};
            },
        .write_weights = [&](const std::string& to) { io::write_file(to, "weights"); },
        .describe = [](const std::string&) {}};
    return TrainingLoop(learner, config, 6, directory, optimizer, state).run(events, 0);
  }
  TrainerState saved() const {
    const TrainerState state =
        parse_trainer_state(io::read_json(path + "/trainer_state.json"), "state");
    EXPECT_EQ(io::read_file(path + "/trainer_state.json"),
              io::read_file(fmt::format("{}/checkpoint-{}/trainer_state.json", path, state.step)));
    return state;
  }
  int64_t lines() const {
    const std::string text = io::read_file(path + "/metrics.jsonl");
    return std::ranges::count(text, '\n');
  }

  const TemporaryFolder folder;
  const std::string path = folder / "run";
  std::vector<float> weight{1}, gradient{0};
  TrainConfig config;
  int64_t gradient_fails_at = 0, overflow_at = 0, evaluation_fails_at = 0;
  std::vector<double> losses = {0, 6, 5, 4, 3, 2, 1};
  std::vector<int64_t> evaluated;
};

TEST_F(Loop, NoErrorOfAnEvaluationCostsAStep) {
  for (const int64_t at : {4, 6}) {  // among steps, at the end
    config.eval_steps = 2;
    evaluation_fails_at = at;
    EXPECT_EQ(error_of([&] { run(); }), "no evaluation");
    EXPECT_EQ(saved().step, at);
    EXPECT_EQ(saved().evaluated_step, at - 2);
  }
  evaluation_fails_at = 0;
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  EXPECT_EQ(evaluated, (std::vector<int64_t>{2, 4, 6}));
  EXPECT_EQ(saved().best_step, 6);
  EXPECT_EQ(lines(), 3 + 1);                 // three evaluations, the record of the last step
  EXPECT_EQ(run(), TrainingEnd::kFinished);  // nothing left to do
  EXPECT_EQ(evaluated.size(), 3u);
}

TEST_F(Loop, NoErrorOfAGradientCostsTheStepsBefore) {
  gradient_fails_at = 4;
  EXPECT_EQ(error_of([&] { run(); }), "no gradient");
  EXPECT_EQ(saved().step, 3);
  EXPECT_EQ(saved().position.index, 3);  // not of the step that failed
}

TEST_F(Loop, WhatIsNoNumberIsNeverTheBest) {
  config.eval_steps = 1;
  losses = {0, NAN, 5, NAN, INFINITY, 4, NAN};
  std::vector<bool> best;
  TrainerEvents events;
  events.on_evaluation = [&](int64_t, const Evaluation&, bool b) { best.push_back(b); };
  EXPECT_EQ(run(events), TrainingEnd::kFinished);
  EXPECT_EQ(best, (std::vector<bool>{false, true, false, false, true, false}));
  EXPECT_EQ(saved().best_loss, 4);
  EXPECT_EQ(saved().evaluations_without_gain, 1);
  losses.assign(7, NAN);
  fs::remove_all(path);
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  EXPECT_EQ(saved().best_step, 0);
  EXPECT_FALSE(fs::exists(path + "/best"));
}

TEST_F(Loop, WeightsThatAreNoNumbersReplaceNothing) {
  config.save_steps = 1;
  config.save_total_limit = 1;
  config.eval_steps = 1;
  overflow_at = 4;
  EXPECT_NE(error_of([&] { run(); }).find("step 4: the weights hold what is not a finite number"),
            std::string::npos);
  EXPECT_EQ(saved().step, 3);
  EXPECT_EQ(saved().best_step, 3);
}

TEST(CheckEvaluations, WantsHeldOutData) {
  TrainConfig config;
  check_evaluations(config, false);
  config.eval_steps = 1;
  check_evaluations(config, true);
  for (const char* name : {"eval_steps", "patience"}) {
    EXPECT_EQ(error_of([&] { check_evaluations(config, false); }),
              fmt::format("{}: expected held-out data to evaluate on (--valid, or a --valid-split "
                          "above 0), found none",
                          name));
    config.patience = 1;
  }
}

TEST_F(Loop, PatienceHasEnded) {
  config.eval_steps = 1;
  config.patience = 2;
  losses = {0, 1, 2, 2, 0, 0, 0};
  for (int again = 0; again < 3; ++again) {
    EXPECT_EQ(run(), TrainingEnd::kPatience);
    EXPECT_EQ(saved().step, 3);
    EXPECT_EQ(evaluated.size(), 3u);
  }
}

TEST_F(Loop, WhoIsAskedToStopDoesNotEvaluateFirst) {
  config.eval_steps = 3;
  bool stop = false;
  TrainerEvents events;
  events.should_stop = [&] { return stop; };
  for (const int64_t at : {3, 6}) {
    events.on_step = [&](const Progress& p) { stop = p.step == at; };
    EXPECT_EQ(run(events), TrainingEnd::kInterrupted);
    EXPECT_EQ(saved().step, at);
    EXPECT_EQ(saved().evaluated_step, at - 3);
    stop = false;
  }
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  EXPECT_EQ(evaluated, (std::vector<int64_t>{3, 6}));
}

TEST_F(Loop, ShowsTheNewestCheckpointWheneverItDied) {
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  const std::string state = io::read_file(path + "/trainer_state.json");
  io::write_file(path + "/trainer_state.json", "{\"global_step\": 5}");
  io::remove_all(path + "/model.safetensors");
  run();
  EXPECT_EQ(io::read_file(path + "/trainer_state.json"), state);
  EXPECT_EQ(io::read_file(path + "/model.safetensors"), "weights");
}

}  // namespace
}  // namespace refrain
