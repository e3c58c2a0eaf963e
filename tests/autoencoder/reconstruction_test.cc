#include <gtest/gtest.h>

#include <set>

#include "refrain/autoencoder/plan.h"
#include "refrain/autoencoder/task.h"
#include "refrain/train/trainer.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

TEST(Curriculum, GoesThroughItsStagesInEqualShares) {
  const Stages stages({.window = "20 35 50", .teacher_forcing = "0.9 0.1", .min_window = 4});
  EXPECT_EQ(stages.window_at(0, 90), 20);
  EXPECT_EQ(stages.window_at(29, 90), 20);
  EXPECT_EQ(stages.window_at(30, 90), 35);
  EXPECT_EQ(stages.window_at(89, 90), 50);
  EXPECT_EQ(stages.forcing_at(44, 90), 0.9);
  EXPECT_EQ(stages.forcing_at(45, 90), 0.1);
  EXPECT_EQ(stages.longest(), 50);
}

TEST(Curriculum, RefusesWhatCannotBe) {
  const auto says = [](const Curriculum& c) { return error_of([&] { Stages stages(c); }); };
  EXPECT_EQ(says({.window = "20 3", .min_window = 5}), "window: expected 5 to 65536, found 3");
  EXPECT_EQ(says({.window = ""}), "window: expected a number or more, found none");
  EXPECT_EQ(says({.window = "20 x"}), "window: expected a whole number, found 'x'");
  EXPECT_EQ(says({.teacher_forcing = "0.5 1.5"}), "teacher_forcing: expected 0 to 1, found 1.5");
  EXPECT_EQ(says({.min_window = 0}), "min_window: expected 1 to 65536, found 0");
}

TEST(Windows, FollowOneAnotherAndARestThatIsTooShortIsLeftOut) {
  const std::vector<int32_t> document = {0, 1, 2, 3, 4, 5, 6, 7};
  const auto windows = cut_windows(document, 3, 2);
  ASSERT_EQ(windows.size(), 3u);
  EXPECT_EQ(windows[2].size(), 2u);
  EXPECT_EQ(windows[2][0], 6);
  EXPECT_EQ(cut_windows(document, 3, 3).size(), 2u);
  EXPECT_EQ(cut_windows(document, 20, 9).size(), 0u);
}

TEST(NearestWords, GoByDirectionNotByLength) {
  const std::vector<float> table = {1, 0, 0, 100, 3, 3}, y = {5, 4, 0, 0.1f, 9, 1};
  Workspace workspace;
  EXPECT_EQ(nearest_words({y.data(), {3, 2}}, {table.data(), {3, 2}}, workspace),
            (std::vector<int32_t>{2, 1, 0}));
}

// A model that has learned a little, over words of its own.
WordAutoencoder small_model(bool learned = false) {
  const Words words = {"a", "b", "c", "d", "e", "f", "g"};
  AutoencoderConfig config;
  config.width = 6;
  config.vocab_size = learned ? std::ssize(words) : 0;
  config.hidden = 16;
  config.layers = 1;
  config.bottleneck = 8;
  config.heads = 2;
  WordAutoencoder model{
      std::make_unique<Autoencoder>(config),
      learned ? Embeddings(words, 0, {}, "words") : random_embeddings(words, 6, 1), 6, 2};
  model.model->parameters().initialize(1);
  model.model->parameters().allocate_gradients();
  return model;
}

Documents small_documents() {
  Documents all;
  for (int32_t d = 0; d < 6; ++d) {
    all.emplace_back();
    for (int32_t i = 0; i < 5 + 3 * d; ++i) all.back().push_back((i * (d + 1) + d) % 7);
  }
  return all;
}

Plan unbounded(const WordAutoencoder& model, const TrainConfig& config, const Curriculum& c) {
  return plan_reconstruction(model, config, Stages(c), true, {});
}

TEST(ReconstructionTask, LearnsAndItsDirectoryIsTheModel) {
  for (const bool learned : {false, true}) {
    const TemporaryFolder folder;
    const RunDirectory directory = RunDirectory::create(folder / "run", false);
    WordAutoencoder model = small_model(learned);
    TrainConfig config;
    config.max_steps = "400";
    config.batch_size = 8;
    config.learning_rate = 0.01;
    config.warmup_steps = 5;
    const Curriculum curriculum{.window = "4 6", .teacher_forcing = "0.5 0", .min_window = 2};
    Workspace workspace;
    const double before = score_reconstruction(model, small_documents(), workspace).cosine;
    EXPECT_TRUE(
        score_reconstruction(model, small_documents(), workspace, 1, [] { return true; }).stopped);
    const Plan plan = unbounded(model, config, curriculum);
    ReconstructionTask task(model, small_documents(), small_documents(), config, curriculum, plan);
    Trainer trainer(task, config, directory, plan);
    EXPECT_EQ(trainer.run({}), TrainingEnd::kFinished);
    const ReconstructionScores after = score_reconstruction(model, small_documents(), workspace);
    EXPECT_GT(after.cosine, before + 0.3);
    EXPECT_GT(after.recovery, 0.3);
    EXPECT_EQ(after.words, 75);  // of 75, in windows of 6 and what is left

    model.write_files(directory.path());
    const WordAutoencoder loaded = WordAutoencoder::load(directory.path());
    EXPECT_EQ(score_reconstruction(loaded, small_documents(), workspace).cosine, after.cosine);
  }
}

TEST(ReconstructionTask, NeedsAWindow) {
  WordAutoencoder model = small_model();
  const Curriculum curriculum{.window = "9", .teacher_forcing = "0", .min_window = 9};
  TrainConfig config;
  EXPECT_EQ(error_of([&] {
              ReconstructionTask(model, {{1, 2, 3}}, {}, config, curriculum, {});
            }),
            "expected a document to learn from of at least 9 words that have vectors (min_window), "
            "found none");
}

TEST(ReconstructionTask, PlansTakeTheCheapestThatFits) {
  WordAutoencoder model = small_model();
  model.window = 60;
  TrainConfig config;
  config.batch_size = 32;
  const Curriculum curriculum{.window = "60", .teacher_forcing = "0.5", .min_window = 2};
  const auto plan = [&](size_t budget) {
    return plan_reconstruction(model, config, Stages(curriculum), false, {.budget = budget});
  };
  const Plan free = plan(0);
  EXPECT_EQ(free.sequences, 32);
  EXPECT_EQ(free.recompute, Recompute());
  std::set<std::pair<int64_t, bool>> seen;
  size_t budget = free.total();
  for (; budget > 0; --budget) {
    Plan found;
    try {
      found = plan(budget);
    } catch (const Error&) {
      break;
    }
    EXPECT_LE(found.total(), budget);
    seen.insert({found.sequences, found.recompute.checkpoint_interval > 0});
    budget = found.total();
  }
  EXPECT_TRUE(seen.contains({32, false}));
  EXPECT_TRUE(seen.contains({16, false}));
  EXPECT_TRUE(seen.contains({1, true}));
  EXPECT_FALSE(seen.contains({32, true}));  // half of the windows take less and cost less
  config.gradient_checkpointing = "7";
  EXPECT_EQ(plan(free.total()).recompute.checkpoint_interval, 7);
  EXPECT_EQ(plan(free.total()).sequences, 32);
  EXPECT_NE(error_of([&] { plan(1); }).find("needs at least"), std::string::npos);
}

TEST(ReconstructionTask, EpochsAreWordsOfTheData) {
  WordAutoencoder model = small_model();
  const Documents documents = {std::vector<int32_t>(3), std::vector<int32_t>(20),
                               std::vector<int32_t>(7)};
  // By hand: windows of 4 and at least 2 words begin at 19 places of the second and 6 of the third.
  for (const auto& [length, all] : {std::pair<int64_t, double>{4, 17 * 4 + 3 + 2 + 4 * 4 + 3 + 2},
                                    {50, 20 * 21 / 2.0 - 1 + 7 * 8 / 2.0 - 1}}) {
    const Documents two = {documents[1], documents[2]};
    EXPECT_DOUBLE_EQ(mean_window(two, 2, length), all / 25);
  }
  EXPECT_EQ(mean_window(documents, 21, 30), 0);
  TrainConfig config;
  config.batch_size = 2;
  const Curriculum curriculum{.window = "4", .teacher_forcing = "0", .min_window = 4};
  const auto steps = [&](const char* length) {
    config.max_steps = length;
    return ReconstructionTask(model, documents, {}, config, curriculum, {}).total_steps();
  };
  EXPECT_EQ(steps("100"), 100);
  EXPECT_EQ(steps("80e"), 270);  // of 27 words each, 8 of them a step
  EXPECT_EQ(steps("800t"), 100);
  EXPECT_EQ(steps("0.001e"), 1);
}

}  // namespace
}  // namespace refrain
