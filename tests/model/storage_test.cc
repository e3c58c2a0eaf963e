// Models whose weights are stored in few bits: every mixer, all three forms.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "refrain/base/random.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/model/reference.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"
#include "support/threads.h"

namespace refrain {
namespace {

constexpr int64_t kVocabulary = 97;

struct Case {
  std::string name, pattern;
  int64_t width = 64;
  bool tied = true;
  std::string block = "pre_norm";
};

ModelConfig config_of(const Case& c) {
  return with_settings(
      {
          .vocab_size = kVocabulary,
          .d_model = c.width,
          .layers = 2,
          .heads = 2,
          .kv_heads = 1,
          .d_ff = 2 * c.width,
          .context = 64,
          .tie_embeddings = c.tied,
          .pattern = c.pattern,
          .block = c.block,
      },
      SettingMap({{"gla.conv", "3"}, {"mm_rec.slots", "4"}, {"mm_rec.stretch", "2"}}));
}

std::unique_ptr<LanguageModel> model_of(const Case& c, Storage type) {
  auto model = std::make_unique<LanguageModel>(config_of(c));
  Random random(7);
  model->parameters().visit([&](const ParamSpec& spec, Param& param) {
    const double size = 1 / std::sqrt(static_cast<double>(spec.shape.back()));
    for (float& w : param.w)
      w = static_cast<float>(spec.shape.size() == 1 ? 1 + 0.2 * random.normal()
                                                    : size * random.normal());
  });
  model->pack_weights(type);
  return model;
}

std::vector<int32_t> tokens_of(uint64_t key, int64_t n) {
  Random random(key);
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random.below(kVocabulary));
  return tokens;
}

// The logits of all rows of some sequences, each in windows of `step` tokens; 0: whole, without a
// state.
std::vector<float> logits_of(const LanguageModel& model,
                             const std::vector<std::vector<int32_t>>& all, int64_t step) {
  const auto T = std::ssize(all.front());
  std::vector<SequenceState> states;
  for (size_t b = 0; b < all.size(); ++b) states.emplace_back(model, T);
  std::vector<SequenceState*> pointers;
  for (SequenceState& s : states) pointers.push_back(&s);
  const StateView view(pointers, model.config().layers);
  std::vector<float> logits(all.size() * static_cast<size_t>(T * kVocabulary));
  Workspace workspace;
  RaggedBatchBuilder builder;
  for (int64_t at = 0; at<T; at += step> 0 ? step : T) {
    const int64_t n = step > 0 ? std::min(step, T - at) : T;
    std::vector<int32_t> tokens, offset = {0}, positions, rows;
    for (const auto& sequence : all) {
      tokens.insert(tokens.end(), sequence.begin() + at, sequence.begin() + at + n);
      offset.push_back(static_cast<int32_t>(tokens.size()));
      positions.push_back(static_cast<int32_t>(at));
    }
    rows.resize(tokens.size());
    std::iota(rows.begin(), rows.end(), 0);
    const auto R = std::ssize(rows);
    std::vector<float> some(static_cast<size_t>(R * kVocabulary));
    const RaggedBatch batch = builder.set(offset, positions);
    workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
      model.logits(ctx, batch, tokens, step > 0 ? view.states() : std::span<const State>(), rows,
                   {some.data(), {R, kVocabulary}});
    });
    for (size_t b = 0; b < all.size(); ++b) {
      states[b].advance(n);
      std::copy_n(some.begin() + static_cast<ptrdiff_t>(b) * n * kVocabulary, n * kVocabulary,
                  logits.begin() + (static_cast<ptrdiff_t>(b) * T + at) * kVocabulary);
    }
  }
  return logits;
}

double largest_of(const std::vector<float>& values) {
  double largest = 0;
  for (const float v : values) largest = std::max(largest, std::abs(static_cast<double>(v)));
  return largest;
}

constexpr Storage kTypes[] = {Storage::kBf16, Storage::kFloat16, Storage::kQ8_0, Storage::kQ4};

class StoredModel : public testing::TestWithParam<Case> {};

TEST_P(StoredModel, AllFormsAreThoseOfWhatIsStored) {
  const std::vector<int32_t> tokens = tokens_of(3, 40);
  for (const Storage type : kTypes) {
    SCOPED_TRACE(kernels::name_of(type));
    const auto model = model_of(GetParam(), type);
    ASSERT_EQ(model->parameters().storage(), type);
    const std::vector<double> exact = ReferenceModel<double>(*model).logits(tokens);
    // float16 is multiplied with as it is. Otherwise inputs are rounded to 8 bits of a mantissa, or
    // to 127 steps of a block.
    const double tolerance = type == Storage::kFloat16 ? 1e-4 : 0.05;
    for (const int64_t step : {0, 1, 7}) {
      const std::vector<float> got = logits_of(*model, {tokens}, step);
      const double bound = tolerance * largest_of(got);
      for (size_t i = 0; i < exact.size(); ++i)
        ASSERT_NEAR(got[i], exact[i], bound) << i << ", in steps of " << step;
    }
  }
}

TEST_P(StoredModel, GivesTheSameBytesAloneAndAmongOthersAndWithAnyThreads) {
  std::vector<std::vector<int32_t>> all;
  for (uint64_t b = 0; b < 16; ++b) all.push_back(tokens_of(b, 12));
  for (const Storage type : kTypes) {
    SCOPED_TRACE(kernels::name_of(type));
    const auto model = model_of(GetParam(), type);
    for (const int64_t step : {1, 5}) {
      set_threads(1);
      const std::vector<float> together = logits_of(*model, all, step);
      set_threads(3);
      EXPECT_EQ(logits_of(*model, all, step), together);
      for (const size_t b : {size_t{0}, size_t{9}}) {
        const std::vector<float> alone = logits_of(*model, {all[b]}, step);
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(),
                               together.begin() + static_cast<ptrdiff_t>(b * alone.size())));
      }
      set_threads(0);
    }
  }
}

TEST_P(StoredModel, ComesBackFromItsDirectory) {
  const std::vector<int32_t> tokens = tokens_of(3, 10);
  for (const Storage type : kTypes) {
    const TemporaryFolder folder;
    const auto model = model_of(GetParam(), type);
    save_packed_model(folder.path(), *model, {});
    const auto loaded = load_model(folder.path());
    EXPECT_EQ(loaded->parameters().storage(), type);
    EXPECT_EQ(logits_of(*loaded, {tokens}, 1), logits_of(*model, {tokens}, 1));
    // It cannot be trained.
    LanguageModel rows(config_of(GetParam()));
    EXPECT_EQ(error_of([&] { load_weights(folder.path(), rows); }),
              folder.path() +
                  "/model.safetensors: expected weights of float32, bfloat16 or float16 "
                  "as rows, found a quantised model's (" +
                  std::string(kernels::name_of(type)) + ")");
  }
}

TEST_P(StoredModel, LoadsFromRowsAsIfItHadBeenPacked) {
  const std::vector<int32_t> tokens = tokens_of(3, 10);
  LanguageModel rows(config_of(GetParam()));
  rows.initialise(5);
  const TemporaryFolder folder;
  save_model(folder.path(), rows, {});
  for (const Storage type : {Storage::kFloat32, Storage::kQ8_0}) {
    const auto loaded = load_packed_model(folder.path(), nullptr, {}, type);
    LanguageModel packed(config_of(GetParam()));
    packed.initialise(5);
    packed.pack_weights(type);
    EXPECT_TRUE(std::ranges::equal(loaded->parameters().packed(), packed.parameters().packed()));
    EXPECT_EQ(logits_of(*loaded, {tokens}, 3), logits_of(packed, {tokens}, 3));
    if (type == Storage::kFloat32) {
      EXPECT_EQ(logits_of(*loaded, {tokens}, 0), logits_of(rows, {tokens}, 0));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, StoredModel,
                         testing::Values(Case{"attention", "attention"},
                                         Case{"untied", "attention", 96, false},
                                         Case{"attention_rnn", "attention_rnn"}, Case{"gla", "gla"},
                                         Case{"rnn", "rnn", 64, true, "bare"},
                                         Case{"lstm", "lstm", 80}, Case{"gru", "gru", 72, false},
                                         Case{"mm_rec", "mm_rec"}, Case{"hybrid", "gla attention"}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace refrain
