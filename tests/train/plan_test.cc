// Plans: what they cost, what they take, and what is said of budgets that cannot be kept.
#include "refrain/train/plan.h"

#include <gtest/gtest.h>

#include <cstdio>

#include "refrain/base/bytes.h"
#include "support/error_of.h"
#include "support/threads.h"

namespace refrain {
namespace {

ModelConfig small(const std::string& pattern, int64_t context) {
  ModelConfig c;
  c.vocab_size = 50;
  c.d_model = 32;
  c.heads = 2;
  c.layers = 3;
  c.pattern = pattern;
  c.context = context;
  return c;
}

TrainConfig batch_of(int64_t sequences) {
  TrainConfig c;
  c.batch_size = sequences;
  return c;
}

TEST(Bytes, AreRead) {
  EXPECT_EQ(parse_bytes("memory", "65536"), 65536u);
  EXPECT_EQ(parse_bytes("memory", "800M"), size_t{800} << 20);
  EXPECT_EQ(parse_bytes("memory", "1.5G"), size_t{3} << 29);
  EXPECT_EQ(parse_bytes("memory", "2GiB"), size_t{2} << 30);
  EXPECT_EQ(parse_bytes("memory", "3KB"), size_t{3} << 10);
  EXPECT_EQ(parse_bytes("memory", "1T"), size_t{1} << 40);
  for (const char* bad : {"", "0", "-5", "2.5.3G", "G", "1X", "1GG", "1 G", "0x10", "nan", "inf",
                          "1e400", "1iB", "99999999T", "1G ", "0.1"})
    EXPECT_EQ(
        error_of([&] { parse_bytes("memory", bad); }),
        fmt::format("memory: expected an amount of memory such as 800M or 2G, found '{}'", bad));
  EXPECT_EQ(error_of([] { parse_bytes("memory", "2"); }),
            "memory: expected an amount of memory such as 800M or 2G, found '2', which is 2 bytes");
  EXPECT_EQ(bytes_text(1023), "1 KiB");
  EXPECT_EQ(bytes_text(size_t{5} << 20), "5 MiB");
  EXPECT_EQ(bytes_text(size_t{3} << 29), "1.50 GiB");
  EXPECT_EQ(bytes_text_above(size_t{5} << 20), "5 MiB");
  EXPECT_EQ(bytes_text_above((size_t{5} << 20) + 1), "6 MiB");
  EXPECT_EQ(bytes_text_above(1), "1 MiB");
  EXPECT_EQ(bytes_text_above(size_t{3} << 29), "1536 MiB");
  EXPECT_EQ(bytes_text_below(1023), "1023 bytes");
  EXPECT_EQ(bytes_text_below(2047), "1 KiB");
  EXPECT_EQ(bytes_text_below((size_t{6} << 20) - 1), "5 MiB");
  EXPECT_EQ(bytes_text_below((size_t{3} << 29) - 1), "1.49 GiB");
}

TEST(Checkpointing, IsReadAndWritten) {
  for (const char* text :
       {"off", "blocks", "blocks:3", "mixers", "feed_forwards", "64", "chunks",
        "blocks:2,feed_forwards,chunks,16", "gates,memory_attention", "mixers,feed_forwards"})
    EXPECT_EQ(to_text(parse_checkpointing(text).value()), text);
  EXPECT_FALSE(parse_checkpointing("auto").has_value());
  for (const char* bad : {"", "on", "0", "-1", "blocks:", "blocks:0", "64,", ",64", "off,64",
                          "auto,64", "1.5", "99999999999"})
    EXPECT_NE(error_of([&] { parse_checkpointing(bad); }).find(fmt::format("found '{}'", bad)),
              std::string::npos);
}

constexpr size_t kMebibyte = size_t{1} << 20;
// What a named least budget has above what is needed: pages that come and go, and what threads take
// at their most when they read.
constexpr size_t kUnsteady = size_t{16} << 10, kUnsteadyPeak = size_t{256} << 10;

size_t least_named_by(const Planner& planner, size_t budget) {
  const std::string refused = error_of([&] { planner.within(budget); });
  size_t least = 0;
  const size_t at = refused.find("needs at least ");
  if (at == refused.npos ||
      std::sscanf(refused.c_str() + at, "needs at least %zu MiB", &least) != 1)
    ADD_FAILURE() << refused;
  return least;
}

class Plans : public ::testing::TestWithParam<const char*> {};

TEST_P(Plans, TradeBytesForTime) {
  LanguageModel model(small(GetParam(), 128), LanguageModel::Memory::kLater);
  const Planner planner(model, batch_of(8), true, 1 << 20);
  const std::vector<Plan>& plans = planner.frontier();
  ASSERT_GE(plans.size(), 4u);
  for (size_t i = 1; i < plans.size(); ++i) {
    EXPECT_GE(plans[i].total(), plans[i - 1].total());
    EXPECT_LT(plans[i].cost, plans[i - 1].cost);
  }
  // The most that is spared is much, and the fastest plan computes nothing again.
  EXPECT_LT(plans.front().activations() * 4, plans.back().activations());
  EXPECT_EQ(plans.back().recompute, Recompute());
  EXPECT_EQ(plans.back().sequences, 8);

  for (const Plan& plan : plans) {
    const Plan chosen = planner.within(plan.total());
    EXPECT_EQ(chosen.total(), plan.total());
    EXPECT_EQ(chosen.budget, plan.total());
  }
  const size_t least = plans.front().total();
  EXPECT_EQ(fmt::format("{} MiB", least_named_by(planner, least - 1)),
            bytes_text_above(least + kUnsteady));
}

TEST_P(Plans, TheLeastThatIsNamedIsEnoughAndOneLessIsNot) {
  LanguageModel model(small(GetParam(), 128), LanguageModel::Memory::kLater);
  // A process of whatever size; one that has taken more than it has now.
  for (size_t process = kMebibyte; process < 2 * kMebibyte; process += 123'456)
    for (const size_t taken : {size_t{0}, process + 20 * kMebibyte}) {
      const Planner planner(model, batch_of(8), true, process, taken);
      const size_t named = least_named_by(planner, 1);
      EXPECT_LE(planner.within(named * kMebibyte).total(), named * kMebibyte);
      EXPECT_LE(taken, named * kMebibyte);
      const std::string refused = error_of([&] {
        planner.within((named - 1) * kMebibyte - (taken > 0 ? kUnsteadyPeak : kUnsteady));
      });
      EXPECT_NE(refused.find(fmt::format(" {} MiB is too little: this run needs at least {} MiB (",
                                         named - 2, named)),
                std::string::npos)
          << refused;
      EXPECT_EQ(refused.find("reading the data has taken") != std::string::npos, taken > 0);
    }
}

INSTANTIATE_TEST_SUITE_P(Patterns, Plans,
                         ::testing::Values("attention", "gla", "attention_rnn", "lstm",
                                           "gla gla attention"));

TEST(Plan, CountsByTokens) {
  LanguageModel model(small("attention", 64), LanguageModel::Memory::kLater);
  TrainConfig config;
  config.max_tokens = 512;
  config.gradient_accumulation_steps = 2;
  const Planner planner(model, config, false, 0);
  EXPECT_EQ(planner.frontier().back().tokens, 1024);
  EXPECT_EQ(planner.frontier().front().tokens, 64);  // the longest sequence must have room
  EXPECT_EQ(planner.unbounded().tokens, 512);
  EXPECT_EQ(planner.unbounded().evaluation, 0u);
}

// Larger micro-batches are no faster: without a budget too, they are cut.
TEST(Plan, TakesNoMoreRowsThanAreFast) {
  set_threads(2);
  const auto sequences = [](const std::string& pattern, int64_t batch, bool int16) {
    LanguageModel model(small(pattern, 128), LanguageModel::Memory::kLater);
    TrainConfig config = batch_of(batch);
    config.compute_type = int16 ? "int16" : "f32";
    return Planner(model, config, false, 0).unbounded().sequences;
  };
  EXPECT_EQ(sequences("attention", 64, false), 8);
  EXPECT_EQ(sequences("attention", 64, true), 16);
  EXPECT_EQ(sequences("gla attention", 12, false), 6);
  EXPECT_EQ(sequences("gla attention", 5, false), 5);
  EXPECT_EQ(sequences("gla lstm", 64, false), 64);  // goes step by step
  set_threads(4);
  EXPECT_EQ(sequences("attention", 64, false), 16);
  LanguageModel model(small("attention", 256), LanguageModel::Memory::kLater);
  TrainConfig config;
  config.max_tokens = 8192;
  EXPECT_EQ(Planner(model, config, false, 0).unbounded().tokens, 2048);
  set_threads(0);
}

TEST(Plan, KeepsToTheRecomputationThatWasGiven) {
  LanguageModel model(small("gla", 64), LanguageModel::Memory::kLater);
  TrainConfig config = batch_of(4);
  config.gradient_checkpointing = "blocks:2,16";
  for (const Plan& plan : Planner(model, config, false, 0).frontier())
    EXPECT_EQ(to_text(plan.recompute), "blocks:2,16");
}

// A long sequence through recurrent mixers takes what one segment takes, and its states.
TEST(Plan, LongSequencesDoNotGrow) {
  size_t before = 0;
  for (const int64_t context : {16384, 65536}) {
    LanguageModel model(small("gla", context), LanguageModel::Memory::kLater);
    const Plan least = Planner(model, batch_of(1), true, 0).frontier().front();
    EXPECT_TRUE(least.recompute.chunks);
    if (before > 0) {
      EXPECT_LT(least.activations(), before + before / 4);
    }
    before = least.activations();
  }
  LanguageModel model(small("attention", 16384), LanguageModel::Memory::kLater);
  EXPECT_FALSE(Planner(model, batch_of(1), true, 0).frontier().front().recompute.chunks);
}

TEST(Plan, TruncatedStretchesCountTheStatesTheyCarry) {
  LanguageModel model(small("gla", 4096), LanguageModel::Memory::kLater);
  TrainConfig config = batch_of(4);
  config.tbptt = 128;
  const Plan plan = Planner(model, config, true, 0).unbounded();
  size_t states = 0;
  for (int64_t l = 0; l < 3; ++l) states += 4 * model.state_bytes(l, 4096);
  EXPECT_GE(plan.batch, states);
  EXPECT_EQ(evaluation_chunk(model, config), 128);
}

}  // namespace
}  // namespace refrain
