// What backward computes again changes no bit of the gradients; long sequences in chunks have the
// gradients of whole ones.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "refrain/base/random.h"
#include "refrain/io/scratch_file.h"
#include "refrain/model/language_model.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

struct Stack {
  const char* pattern;
  const char* block = "pre_norm";
  std::vector<std::pair<const char*, const char*>> settings{};
};

class RecomputeTest : public ::testing::TestWithParam<Stack> {
 protected:
  static constexpr int64_t kVocabulary = 23, kChunk = 64;

  RecomputeTest() : model_(with_settings(config(), settings())) {
    model_.initialise(7);
    model_.allocate_gradients();
    // A short one between long ones, none before and after it, and one that ends where a chunk
    // does.
    const std::vector<int32_t> lengths = {150, 0, 20, 0, 128, 31, 70};
    offset_ = {0};
    for (const int32_t n : lengths) offset_.push_back(offset_.back() + n);
    Random random(3);
    for (int32_t i = 0; i < offset_.back(); ++i) {
      tokens_.push_back(static_cast<int32_t>(random.bits() % kVocabulary));
      targets_.push_back(i % 11 == 5 ? -1 : static_cast<int32_t>(random.bits() % kVocabulary));
    }
  }

  static ModelConfig config() {
    ModelConfig c;
    c.vocab_size = kVocabulary;
    c.d_model = 16;
    c.layers = 3;
    c.heads = 2;
    c.context = 160;
    c.pattern = GetParam().pattern;
    c.block = GetParam().block;
    return c;
  }
  static SettingMap settings() {
    SettingMap options;
    for (const auto& [name, value] : GetParam().settings) options.set(name, value);
    return options;
  }

  struct Result {
    std::vector<float> gradients, losses;
    bool operator==(const Result& o) const {
      return gradients.size() == o.gradients.size() && losses.size() == o.losses.size() &&
             std::memcmp(gradients.data(), o.gradients.data(), gradients.size() * 4) == 0 &&
             std::memcmp(losses.data(), o.losses.data(), losses.size() * 4) == 0;
    }
  };

  // `together`: sequences of a window.
  Result train(const TrainingOptions& options, size_t together = 7) {
    model_.clear_gradients();
    Result result;
    const size_t all = offset_.size() - 1;
    for (size_t first = 0; first < all; first += together) {
      const size_t last = std::min(all, first + together);
      std::vector<int32_t> offset;
      for (size_t b = first; b <= last; ++b) offset.push_back(offset_[b] - offset_[first]);
      RaggedBatchBuilder data;
      const RaggedBatch w =
          data.set(offset, std::vector<int32_t>(last - first), static_cast<int64_t>(first));
      const auto rows = static_cast<size_t>(w.rows());
      const auto row = static_cast<size_t>(offset_[first]);
      const TrainingBatch batch{.tokens = std::span(tokens_).subspan(row, rows),
                                .targets = std::span(targets_).subspan(row, rows)};
      std::vector<float> losses(rows, NAN);
      workspace_.run({.rate = 0.1f, .key = 5}, [&](ExecutionContext& ctx, Arena& saved) {
        model_.train(ctx, w, batch, options, {losses.data(), {w.rows()}}, saved);
      });
      result.losses.insert(result.losses.end(), losses.begin(), losses.end());
    }
    model_.finish_gradients();
    const auto gradients = model_.parameters().gradients();
    result.gradients.assign(gradients.begin(), gradients.end());
    return result;
  }

  LanguageModel model_;
  std::vector<int32_t> offset_, tokens_, targets_;
  Workspace workspace_;
};

const Recompute kPolicies[] = {
    {.feed_forwards = true},
    {.mixers = true},
    {.mixers = true, .feed_forwards = true},
    {.blocks = 1},
    {.blocks = 2, .feed_forwards = true},
    {.blocks = Recompute::kAllBlocks},
    {.checkpoint_interval = 48},
    {.parts = {"gates"}},
    {.checkpoint_interval = 32, .parts = {"memory_attention"}},
    {.blocks = 1, .mixers = true, .checkpoint_interval = 16},
    {.chunks = true},
    {.feed_forwards = true, .checkpoint_interval = 32, .chunks = true},
    {.blocks = Recompute::kAllBlocks, .chunks = true},
};

TEST_P(RecomputeTest, ChangesNoBit) {
  for (const auto compute_type : {kernels::ComputeType::kFloat32, kernels::ComputeType::kBf16,
                                  kernels::ComputeType::kInt16}) {
    SCOPED_TRACE(static_cast<int>(compute_type));
    const TrainingOptions plain{.compute_type = compute_type, .chunk_length = kChunk};
    const Result want = train(plain);
    for (const float g : want.gradients) ASSERT_TRUE(std::isfinite(g));
    for (const Recompute& policy : kPolicies) {
      TrainingOptions options = plain;
      options.recompute = policy;
      EXPECT_EQ(train(options), want) << "policy " << &policy - kPolicies;
    }
    EXPECT_EQ(train(plain, 1), want) << "one sequence at a time";
    EXPECT_EQ(train(plain, 2), want) << "two sequences at a time";
    TrainingOptions slices = plain;
    slices.head_rows = kernels::kReductionGroupRows;
    EXPECT_EQ(train(slices), want) << "small slices of logits";
  }
}

// Backward has the activations of one block at a time, and so have forward's scratch memory and
// what is saved together.
TEST(Recompute, OfBlocksLeavesOneBlock) {
  const auto bytes = [](int64_t layers, int64_t blocks) {
    ModelConfig c;
    c.vocab_size = 23;
    c.d_model = 64;
    c.layers = layers;
    c.heads = 2;
    c.context = 256;
    c.pattern = "mm_rec";
    c.feed_forward = "gelu";
    LanguageModel model(with_settings(c, {}), LanguageModel::Memory::kLater);
    RaggedBatchBuilder data;
    const RaggedBatch batch = data.whole(4, 256);
    const std::vector<int32_t> ids(static_cast<size_t>(batch.rows()));
    return count_bytes([&](ExecutionContext& ctx, Arena& saved) {
      model.train(ctx, batch, {ids, ids}, {.recompute = {.blocks = blocks}},
                  {nowhere(), {batch.rows()}}, saved);
    });
  };
  const size_t row = 4 * 256 * 64 * sizeof(float);
  const StepBytes saved = bytes(4, 0), recomputed = bytes(4, Recompute::kAllBlocks);
  EXPECT_LE(recomputed.scratch, saved.scratch);
  EXPECT_LT(recomputed.saved, saved.saved / 4 + 4 * row);  // and the inputs of four blocks
  const size_t one_more = bytes(5, Recompute::kAllBlocks).total() - recomputed.total();
  EXPECT_LE(one_more, row + row / 16);
}

TEST_P(RecomputeTest, OffloadedStatesComeBack) {
  const TemporaryFolder folder;
  io::ScratchFile file(folder.path());
  const Result want = train({.chunk_length = kChunk});
  EXPECT_EQ(train({.chunk_length = kChunk, .recompute = {.chunks = true}, .offload = &file}), want);
}

TEST_P(RecomputeTest, ChunksAreExact) {
  const Result whole = train({.chunk_length = 1 << 20}), cut = train({.chunk_length = kChunk});
  double squares = 0, differences = 0;
  for (size_t i = 0; i < whole.gradients.size(); ++i) {
    const double a = static_cast<double>(whole.gradients[i]);
    const double d = static_cast<double>(cut.gradients[i]) - a;
    squares += a * a;
    differences += d * d;
  }
  EXPECT_LT(std::sqrt(differences / squares), 2e-6);
  for (size_t i = 0; i < whole.losses.size(); ++i)
    ASSERT_NEAR(whole.losses[i], cut.losses[i], 1e-5) << i;
}

// Chunks within the chunks of truncated backpropagation leave the states they should.
TEST_P(RecomputeTest, StatesGoOn) {
  const int32_t length = 300;
  const std::vector<int32_t> ids(tokens_.begin(), tokens_.begin() + length);
  std::vector<std::vector<std::byte>> left;
  for (const bool chunks : {false, true}) {
    SequenceState state(model_, 2 * length);
    SequenceState* const one[] = {&state};
    const StateView view(one, model_.config().layers);
    std::vector<float> losses(ids.size());
    model_.clear_gradients();
    for (int32_t start : {0, length}) {
      RaggedBatchBuilder data;
      const RaggedBatch w = data.set(std::vector<int32_t>{0, length}, std::vector<int32_t>{start});
      const TrainingBatch batch{ids, ids, view.states()};
      const TrainingOptions options{.chunk_length = kChunk, .recompute = {.chunks = chunks}};
      workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
        model_.train(ctx, w, batch, options, {losses.data(), {w.rows()}}, saved);
      });
    }
    std::vector<std::byte> bytes;
    for (int64_t l = 0; l < model_.config().layers; ++l) {
      const std::byte* row = state.row(static_cast<size_t>(l));
      bytes.insert(bytes.end(), row, row + model_.state_bytes(l, 2 * length));
    }
    for (const float g : model_.parameters().gradients()) {
      const auto* from = reinterpret_cast<const std::byte*>(&g);
      bytes.insert(bytes.end(), from, from + sizeof g);
    }
    left.push_back(bytes);
  }
  EXPECT_EQ(left[0], left[1]);
}

INSTANTIATE_TEST_SUITE_P(
    Stacks, RecomputeTest,
    ::testing::Values(Stack{"attention"}, Stack{"gla"}, Stack{"attention_rnn"}, Stack{"lstm"},
                      Stack{"gru"}, Stack{"rnn"}, Stack{"simple_rnn", "bare"},
                      Stack{"mm_rec gla", "pre_norm", {{"mm_rec.stretch", "16"}}},
                      Stack{"gla", "pre_norm", {{"gla.conv", "4"}, {"gla.gate", "sigmoid"}}},
                      Stack{"gla gla attention"},
                      Stack{"attention gla", "pre_norm", {{"attention.window", "24"}}}),
    [](const auto& info) { return "stack" + std::to_string(info.index); });

}  // namespace
}  // namespace refrain
