#include "refrain/model/reference.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "refrain/base/random.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"

namespace refrain {
namespace {

using Complex = std::complex<double>;

const std::vector<int32_t> kTokens = {3, 1, 4, 1, 5, 9, 2};
const std::vector<int32_t> kTargets = {1, 4, -1, 5, 9, 2, 6};  // the third is not supervised

struct Case {
  std::string name;
  bool tied = false;
  std::string pairing = "half", pattern = "attention", block = "pre_norm";
  std::string feed_forward = "swiglu";
  bool encoder = false;  // layer norms and biases
  std::string precision = "accurate";
  bool learned_positions = false;
};

class ReferenceTest : public testing::TestWithParam<Case> {
 protected:
  ReferenceTest()
      : model_(with_settings(
            {
                .vocab_size = 11,
                .d_model = 8,
                .layers = 2,
                .heads = 2,
                .kv_heads = 1,
                .d_ff = 12,
                .context = 16,
                .tie_embeddings = GetParam().tied,
                .pattern = GetParam().pattern,
                .block = GetParam().block,
                .feed_forward = GetParam().feed_forward,
                .feed_forward_bias = GetParam().encoder,
                .norm = GetParam().encoder ? "layer_norm" : "rms_norm",
                .activation_precision = GetParam().precision,
                .learned_positions = GetParam().learned_positions,
            },
            SettingMap({{"attention.rope_theta", "100"},
                        {"attention.rope_pairing", GetParam().pairing},
                        {"gla.conv", "3"},
                        {"mm_rec.slots", "4"},
                        {"mm_rec.stretch", "2"}}))) {
    // Large weights, so that attention is far from uniform and norms are far from one.
    Random random(7);
    model_.parameters().visit([&](const ParamSpec& spec, Param& param) {
      for (float& w : param.w)
        w = static_cast<float>(spec.shape.size() == 1 ? 1 + 0.2 * random.normal()
                                                      : 0.5 * random.normal());
    });
  }

  LanguageModel model_;
};

TEST_P(ReferenceTest, FastLogitsAndStatesAreItsOwn) {
  const int64_t T = static_cast<int64_t>(kTokens.size()), V = 11;
  std::vector<int32_t> rows(kTokens.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> fast(static_cast<size_t>(T * V));
  SequenceState state(model_, T);
  SequenceState* const sequences[] = {&state};
  const StateView view(sequences, 2);
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(1, T);
  Workspace().run({}, [&](ExecutionContext& ctx, Arena&) {
    model_.logits(ctx, batch, kTokens, view.states(), rows, {fast.data(), {T, V}});
  });

  std::vector<std::vector<double>> states;
  const std::vector<double> exact = ReferenceModel<double>(model_).logits(kTokens, &states);

  // Packed weights give the same bits.
  std::vector<float> packed(fast.size()), whole(fast.size());
  for (std::vector<float>* logits : {&whole, &packed}) {
    if (logits == &packed) model_.pack_weights();
    Workspace().run({}, [&](ExecutionContext& ctx, Arena&) {
      model_.logits(ctx, batch, kTokens, {}, rows, {logits->data(), {T, V}});
    });
  }
  EXPECT_EQ(packed, whole);
  EXPECT_EQ(ReferenceModel<double>(model_).logits(kTokens), exact);
  // float32's rounding of sums of some ten terms of magnitude about ten, through two blocks
  for (size_t i = 0; i < exact.size(); ++i) EXPECT_NEAR(fast[i], exact[i], 1e-4) << i;
  ASSERT_EQ(states.size(), 2u);
  for (size_t l = 0; l < 2; ++l) {
    ASSERT_EQ(states[l].size() * sizeof(float), model_.state_bytes(static_cast<int64_t>(l), T));
    const auto* row = reinterpret_cast<const float*>(state.row(l));
    for (size_t i = 0; i < states[l].size(); ++i) EXPECT_NEAR(row[i], states[l][i], 1e-5) << i;
  }
}

TEST_P(ReferenceTest, FastGradientsAreItsComplexStep) {
  model_.allocate_gradients();
  std::vector<float> losses(kTokens.size());
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(1, static_cast<int64_t>(kTokens.size()));
  Workspace().run({}, [&](ExecutionContext& ctx, Arena& saved) {
    model_.train(ctx, batch, {.tokens = kTokens, .targets = kTargets}, {},
                 {losses.data(), {batch.rows()}}, saved);
  });
  model_.finish_gradients();

  ReferenceModel<Complex> exact(model_);
  EXPECT_NEAR(exact.loss(kTokens, kTargets).real(),
              std::accumulate(losses.begin(), losses.end(), 0.0), 1e-4);
  constexpr double kStep = 1e-30;
  for (const auto& [name, shape, w, gradient] : model_.parameters().file_tensors()) {
    std::vector<Complex>& weights = exact.weights().at(name);
    double largest = 0;
    for (size_t i = 0; i < weights.size(); ++i) {
      weights[i] += Complex(0, kStep);
      const double want = exact.loss(kTokens, kTargets).imag() / kStep;
      weights[i] = weights[i].real();
      largest = std::max(largest, std::abs(want));
      EXPECT_NEAR(gradient.data[i], want, 1e-4) << name << " " << i;
    }
    // The comparison is of something. Without rotary positions a bias of keys adds the same to all
    // scores of a query, and so nothing.
    const bool has_none = GetParam().name == "gpt2" && name.ends_with("k_proj.bias");
    EXPECT_TRUE(has_none || largest > 1e-3) << name;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Models, ReferenceTest,
    testing::Values(
        Case{"untied"}, Case{"tied", true}, Case{"adjacent", false, "adjacent"},
        Case{"bare", false, "half", "attention", "bare"}, Case{"convolved", false, "half", "gla"},
        Case{"gelu", false, "half", "attention", "pre_norm", "gelu"},
        Case{"layer_norms", false, "half", "attention_rnn attention", "pre_norm", "relu", true},
        Case{"biases", true, "half", "attention", "pre_norm", "gelu", true},
        Case{"fast", false, "half", "gru lstm", "pre_norm", "swiglu", false, "fast"},
        Case{"gpt2", true, "half", "attention:rope=false,output_bias=true,qkv_bias=true",
             "pre_norm", "gelu_tanh", true, "accurate", true},
        Case{"fast_gelu", false, "half", "attention", "pre_norm", "gelu_tanh", false, "fast"},
        Case{"qwen3", true, "half", "attention:qk_norm=true attention:qk_norm=true,window=3"},
        Case{"bare_norms", false, "half", "attention:qk_norm=true", "bare"},
        Case{"memories", false, "half", "mm_rec attention"}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace refrain
