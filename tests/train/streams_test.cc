// Streams whose state goes on from one step to the next, and evaluation that carries the state.
#include <gtest/gtest.h>

#include "refrain/base/random.h"
#include "refrain/train/language_model_task.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

data::DataSet text_of(const TemporaryFolder& folder, int64_t tokens, int32_t vocabulary) {
  data::TokenFileWriter file(folder / "text", {data::TokenTask::kLm, static_cast<uint64_t>(vocabulary), 0});
  Random random(7);
  file.mark_boundary();
  for (int64_t i = 0; i < tokens; ++i)
    file.add(static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary))));
  file.commit(tokens);
  return data::DataSet::open(folder / "text");
}

ModelConfig recurrent(const std::string& pattern) {
  ModelConfig config;
  config.vocab_size = 11;
  config.d_model = 16;
  config.layers = 2;
  config.heads = 2;
  config.context = 20;
  config.pattern = pattern;
  return config;
}

double whole_loss(const LanguageModel& model, const data::DataSet& data, int64_t context) {
  Workspace workspace;
  return evaluate(model, data, {.context = context, .batch_size = 1}, workspace).loss;
}

TEST(Streams, EvaluationCarriesTheStateThroughTheText) {
  const TemporaryFolder folder;
  const data::DataSet data = text_of(folder, 301, 11);
  for (const char* pattern : {"lstm", "gla", "attention_rnn simple_rnn", "mm_rec"}) {
    LanguageModel model(recurrent(pattern));
    model.initialise(3);
    const double want = whole_loss(model, data, 300);
    for (const int64_t chunk : {300, 64, 7, 1}) {
      Workspace workspace;
      const EvaluationResult result =
          evaluate_streams(model, data, {.chunk_length = chunk}, workspace);
      EXPECT_EQ(result.tokens, 300);
      // Sums of float32 in another order.
      EXPECT_NEAR(result.loss, want, 2e-6 * want) << pattern << " " << chunk;
    }
    EXPECT_GT(std::abs(whole_loss(model, data, 20) - want), 1e-5 * want) << pattern;
  }
}

TEST(Streams, HowManyAreReadTogetherChangesNoBit) {
  const TemporaryFolder folder;
  const data::DataSet data = text_of(folder, 250, 11);
  LanguageModel model(recurrent("lstm"));
  model.initialise(3);
  Workspace workspace;
  StreamOptions options{.streams = 7, .chunk_length = 10};  // the last stream is shorter
  const EvaluationResult one = evaluate_streams(model, data, options, workspace);
  EXPECT_EQ(one.tokens, 249);
  for (options.together = 2; options.together < 9; ++options.together)
    EXPECT_EQ(evaluate_streams(model, data, options, workspace).loss, one.loss);
  // Each begins from nothing.
  options.streams = 1;
  EXPECT_NE(evaluate_streams(model, data, options, workspace).loss, one.loss);
  options.streams = 1000;  // more than there are targets
  EXPECT_EQ(evaluate_streams(model, data, options, workspace).tokens, 249);
}

TEST(Streams, StepsOfAnEpochReadThemWhole) {
  const TemporaryFolder folder;
  const data::DataSet data = text_of(folder, 4 * 57 + 1, 11);
  TrainConfig training;
  training.carry_state = true;
  training.tbptt = 9;
  training.batch_size = 4;
  training.optimizer = "sgd";
  LanguageModel model(recurrent("lstm"));
  model.initialise(3);
  model.allocate_gradients();
  const Plan plan = Planner(model, training, false, 0).unbounded();
  LanguageModelTask task(model, data, {}, training, plan, {});
  TaskMemory memory{{}, io::ScratchFile(folder.path())};
  TrainerState state;
  Workspace workspace;
  const double want =
      evaluate_streams(model, data, {.streams = 4, .chunk_length = 57}, workspace).loss;
  // No weight changes between the steps: the second epoch is the first.
  for (int epoch = 0; epoch < 2; ++epoch) {
    double sum = 0;
    int64_t tokens = 0;
    for (int step = 0; step < 7; ++step) {
      const StepGradient gradient = task.next_gradient(state, memory);
      sum += gradient.loss * static_cast<double>(gradient.tokens);
      tokens += gradient.tokens;
    }
    EXPECT_EQ(tokens, 4 * 57);
    EXPECT_NEAR(sum / static_cast<double>(tokens), want, 2e-6 * want);
  }
}

TEST(Streams, StatesOfCheckpointsAreChecked) {
  const TemporaryFolder folder;
  const data::DataSet data = text_of(folder, 101, 11);
  TrainConfig training;
  training.carry_state = true;
  training.tbptt = 5;
  training.batch_size = 2;
  LanguageModel model(recurrent("lstm"));
  model.initialise(3);
  model.allocate_gradients();
  const Plan plan = Planner(model, training, false, 0).unbounded();
  LanguageModelTask task(model, data, {}, training, plan, {});
  TaskMemory memory{{}, io::ScratchFile(folder.path())};
  TrainerState state;
  state.position = task.next_gradient(state, memory).position;
  state.step = 1;
  state.tokens_seen = 10;
  task.save_progress(folder.path());
  const double next = task.next_gradient(state, memory).loss;

  LanguageModelTask again(model, data, {}, training, plan, {});
  again.resume_from(state, "state");
  again.load_progress(folder.path());
  EXPECT_EQ(again.next_gradient(state, memory).loss, next);
  LanguageModelTask without(model, data, {}, training, plan, {});
  without.resume_from(state, "state");
  EXPECT_NE(error_of([&] { without.load_progress(folder / "nowhere"); }), "");

  LanguageModel other(recurrent("gru"));
  LanguageModelTask others(other, data, {}, training, plan, {});
  EXPECT_NE(error_of([&] { others.load_progress(folder.path()); }).find("'stream.0'"),
            std::string::npos);
}

TEST(Streams, NeedAStateThatDoesNotGrow) {
  const TemporaryFolder folder;
  const data::DataSet data = text_of(folder, 101, 11);
  TrainConfig training;
  training.carry_state = true;
  LanguageModel model(recurrent("lstm attention"));
  const Plan plan{};
  EXPECT_NE(
      error_of([&] { LanguageModelTask(model, data, {}, training, plan, {}); }).find("carry_state"),
      std::string::npos);
  training.max_tokens = 100;
  EXPECT_NE(error_of([&] { training.check(); }).find("carry_state"), std::string::npos);
}

}  // namespace
}  // namespace refrain
