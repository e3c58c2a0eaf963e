#include "refrain/train/run_directory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <tuple>
#include <vector>

#include "refrain/io/file.h"
#include "refrain/train/trainer.h"
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
  state.step = state.best_step = state.tokens_seen = 7;
  io::Json json = to_json(state);
  json.erase("evaluated_global_step");  // they evaluated before they saved
  EXPECT_EQ(parse_trainer_state(json, "state").evaluated_step, 7);
  for (const bool absent : {false, true}) {
    json["best_metric"] = nullptr;  // a NaN as JSON has it
    if (absent) json.erase("best_metric");
    EXPECT_EQ(parse_trainer_state(json, "state").best_step, 0);
  }
}

TEST(TrainerState, IsWhatARunCanComeTo) {
  TrainerState state;
  state.step = 7;
  state.position = {2, 5};
  state.tokens_seen = 70;
  state.evaluated_step = 6;
  state.best_step = 4;
  state.best_loss = 1.5;
  state.evaluations_without_gain = 2;
  const io::Json good = to_json(state);
  EXPECT_EQ(to_json(parse_trainer_state(good, "state")), good);
  for (const auto& [key, value] :
       std::vector<std::pair<const char*, io::Json>>{{"global_step", -7},
                                                     {"global_step", 3},
                                                     {"epoch", -1},
                                                     {"epoch", 8},
                                                     {"batches_of_epoch", 6},
                                                     {"num_input_tokens_seen", 6},
                                                     {"num_input_tokens_seen", uint64_t{1} << 60},
                                                     {"best_metric", -2},
                                                     {"best_global_step", 0},
                                                     {"best_global_step", 7},
                                                     {"evaluations_without_gain", 3},
                                                     {"evaluated_global_step", 8}}) {
    io::Json bad = good;
    bad[key] = value;
    EXPECT_THROW(parse_trainer_state(bad, "state"), Error) << key << ' ' << value;
  }
  check_tokens_seen(state, 10, "state");
  EXPECT_EQ(error_of([&] { check_tokens_seen(state, 9, "state"); }),
            "state: num_input_tokens_seen: expected at most 7 steps of 9, found 70");
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

// One weight, to which things happen at steps.
struct OneWeight : TrainingTask {
  OneWeight() {
    store.declare([this](const ParamVisitor& v) {
      v({.name = "w", .shape = {1}, .init = Init::constant(1), .decay = false}, weight);
    });
    store.allocate();
    store.initialize(0);
    store.allocate_gradients();
  }
  ParameterStore& parameters() override { return store; }
  int64_t total_steps() const override { return steps; }
  StepGradient next_gradient(const TrainerState& state, TaskMemory&) override {
    at = state.step + 1;
    if (at == gradient_fails_at) throw_error("no gradient");
    if (at == overflow_at) weight.w.data[0] = INFINITY;
    return {.loss = 1, .tokens = 1, .position = {0, at}};
  }
  double epoch(const TrainerState&) const override { return 0; }
  bool has_held_out() const override { return held_out; }
  EvaluationResult evaluate(TaskMemory&, const ShouldStop& should_stop) override {
    if (should_stop()) return {.stopped = true};
    if (at == evaluation_fails_at) throw_error("no evaluation");
    evaluated.push_back(at);
    return {.loss = losses.at(static_cast<size_t>(at)), .tokens = 1};
  }
  void resume_from(const TrainerState& state, const std::string&) override { at = state.step; }
  void write_weights(const std::string& to) const override { io::write_file(to, "weights"); }
  void load_weights(const std::string&) override {}
  void write_model_files(const std::string&) const override {}

  Param weight;
  ParameterStore store;
  int64_t steps = 6, at = 0;
  int64_t gradient_fails_at = 0, overflow_at = 0, evaluation_fails_at = 0;
  bool held_out = true;
  std::vector<double> losses = {0, 6, 5, 4, 3, 2, 1, 1, 1, 1, 1};
  std::vector<int64_t> evaluated;
};

class Loop : public testing::Test, protected OneWeight {
 protected:
  TrainingEnd run(const TrainerEvents& events = {}) {
    const RunDirectory directory =
        RunDirectory::is_run(path) ? RunDirectory::open(path) : RunDirectory::create(path, false);
    directory.write_settings({});
    Trainer trainer(*this, config, directory, {});
    trainer.resume();
    return trainer.run(events);
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
  TrainConfig config;
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
  events.on_evaluation = [&](int64_t, const EvaluationResult&, bool b) { best.push_back(b); };
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

TEST_F(Loop, EvaluationsWantHeldOutData) {
  config.eval_steps = 1;
  for (const char* name : {"eval_steps", "patience"}) {
    held_out = false;
    EXPECT_EQ(error_of([&] { run(); }),
              fmt::format("{}: expected held-out data to evaluate on, found none", name));
    config.patience = 1;
  }
  config.eval_steps = config.patience = 0;
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  EXPECT_TRUE(evaluated.empty());
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

TEST_F(Loop, WhatIsDamagedIsNotGoneOnWith) {
  config.save_steps = 3;
  run();
  const std::string newest = path + "/checkpoint-6/";
  for (const char* name : {"model.safetensors", "optimizer.safetensors"}) {
    const std::string content = io::read_file(newest + name);
    std::string damaged = content;
    damaged.back() = static_cast<char>(damaged.back() ^ 1);
    io::write_file(newest + name, damaged);
    const std::string error = error_of([&] { run(); });
    EXPECT_TRUE(error.starts_with(newest + name + ": damaged: its hash is ")) << error;
    EXPECT_TRUE(error.ends_with("; without " + path + "/checkpoint-6 it goes on after step 3"));
    io::write_file(newest + name, content);
  }
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  // Earlier versions wrote no hashes.
  io::Json state = io::read_json(newest + "trainer_state.json");
  state.erase("hashes");
  io::write_file(newest + "trainer_state.json", io::to_text(state));
  io::write_file(newest + "model.safetensors", "other");
  EXPECT_EQ(run(), TrainingEnd::kFinished);
}

TEST_F(Loop, NoTwoFilesAreOne) {
  config.eval_steps = 6;
  run();
  for (const char* name : {"model.safetensors", "trainer_state.json"}) {
    EXPECT_EQ(io::read_file(path + "/" + name), io::read_file(path + "/checkpoint-6/" + name));
    EXPECT_EQ(fs::hard_link_count(path + "/" + name), 1u) << name;
  }
  EXPECT_TRUE(io::read_json(path + "/trainer_state.json").contains("hashes"));  // after evaluating
}

TEST_F(Loop, OnlyItsOwnCheckpointsAreTakenOrRemoved) {
  config.save_steps = 2;
  config.save_total_limit = 1;
  run();
  const std::vector<std::string> strays = {"checkpoint-1", "checkpoint-3", "checkpoint-05",
                                           "checkpoint-999999"};
  for (const std::string& name : strays) io::make_directories(path + "/" + name);
  fs::copy(path + "/checkpoint-6", path + "/checkpoint-2");  // its state is of step 6
  folder.put("run/checkpoint-5", "a file");
  std::vector<std::string> notes;
  EXPECT_EQ(RunDirectory::open(path).checkpoints([&](const std::string& n) { notes.push_back(n); }),
            (std::vector<int64_t>{2, 6}));
  std::ranges::sort(notes);
  EXPECT_EQ(notes, (std::vector<std::string>{
                       path + "/checkpoint-1: left aside: not a checkpoint (no model.safetensors "
                              "in it)",
                       path + "/checkpoint-3: left aside: not a checkpoint (no model.safetensors "
                              "in it)",
                       path + "/checkpoint-5: left aside: not a checkpoint (a file)",
                       path + "/checkpoint-999999: left aside: not a checkpoint (no "
                              "model.safetensors in it)"}));
  steps = 8;
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  EXPECT_EQ(saved().step, 8);
  for (const std::string& name : strays) EXPECT_TRUE(fs::exists(path + "/" + name)) << name;
  EXPECT_TRUE(fs::exists(path + "/checkpoint-2"));
  EXPECT_TRUE(fs::exists(path + "/checkpoint-5"));
  EXPECT_FALSE(fs::exists(path + "/checkpoint-6"));
  // In the way of one that is to come.
  io::make_directories(path + "/checkpoint-9");
  steps = 10;
  EXPECT_EQ(error_of([&] { run(); }),
            path +
                "/checkpoint-9: is in the way of the checkpoint of step 9, and is none (no "
                "model.safetensors in it); name it otherwise");
  EXPECT_EQ(saved().step, 8);
}

TEST_F(Loop, OneMoreCheckpointThanItKeepsGoes) {
  config.save_steps = 2;
  config.save_total_limit = 0;
  run();
  config.save_total_limit = 2;  // as if it had died before it removed one
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  EXPECT_EQ(RunDirectory::open(path).checkpoints(), (std::vector<int64_t>{4, 6}));
}

TEST_F(Loop, SavesNowAndThen) {
  std::vector<int64_t> saves;
  TrainerEvents events;
  events.on_save = [&](int64_t step) { saves.push_back(step); };
  config.save_minutes = 1e-9;
  run(events);
  EXPECT_EQ(saves, (std::vector<int64_t>{1, 2, 3, 4, 5, 6}));
  for (const auto& [steps, minutes, want] :
       std::vector<std::tuple<int64_t, double, std::vector<int64_t>>>{
           {0, 0, {6}}, {0, 10, {6}}, {4, 1e-9, {4, 6}}}) {
    fs::remove_all(path);
    saves.clear();
    config.save_steps = steps;
    config.save_minutes = minutes;
    run(events);
    EXPECT_EQ(saves, want);
  }
}

TEST_F(Loop, WhatIsInTheWayIsFoundBeforeTheFirstStep) {
  steps = 3;
  run();
  steps = 6;
  for (const char* name :
       {"metrics.jsonl", "model.safetensors", "trainer_state.json", "plan.json"}) {
    const std::string at = path + "/" + name;
    const bool was = fs::exists(at);
    if (was) fs::rename(at, at + ".kept");
    io::make_directories(at);
    EXPECT_EQ(error_of([&] { run(); }),
              at + ": expected a file, or nothing, where the run writes one; found a directory");
    fs::remove(at);
    ASSERT_EQ(mkfifo(at.c_str(), 0600), 0);
    EXPECT_EQ(error_of([&] { run(); }),
              at + ": expected a file, or nothing, where the run writes one; found what is none");
    fs::remove(at);
    if (was) fs::rename(at + ".kept", at);
  }
  for (const char* name : {"best", "data"}) {
    fs::remove_all(path + "/" + name);
    folder.put(std::string("run/") + name, "a file");
    EXPECT_EQ(error_of([&] { run(); }),
              path + "/" + name +
                  ": expected a directory, or nothing, where the run has one; found a file");
    fs::remove(path + "/" + name);
  }
  EXPECT_EQ(saved().step, 3);
  EXPECT_EQ(run(), TrainingEnd::kFinished);
  EXPECT_EQ(saved().step, 6);
}

// Whoever removed it, and perhaps made another there, finds it as it was left.
TEST_F(Loop, ARunThatWasRemovedIsNotBegunAgain) {
  config.logging_steps = 1;
  config.save_steps = 1;
  for (const bool again : {false, true}) {
    fs::remove_all(path);
    TrainerEvents events;
    events.on_step = [&](const Progress& p) {
      if (p.step != 3) return;
      fs::remove_all(path);
      if (!again) return;
      io::make_directories(path);
      folder.put("run/training_args.json", "{}");
      folder.put("run/.refrain.lock", "1 elsewhere\n");
    };
    const std::string error = error_of([&] { run(events); });
    EXPECT_EQ(error, fmt::format("{}: was removed, or its {} was, while a process trains in it; it "
                                 "writes no more",
                                 path, again ? ".refrain.lock" : "training_args.json"));
    EXPECT_EQ(fs::exists(path), again);
    if (again) {
      EXPECT_EQ(std::distance(fs::directory_iterator(path), {}), 2);
    }
  }
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
