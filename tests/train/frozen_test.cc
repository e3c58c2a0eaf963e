// Models of which some tensors are frozen: nobody else's gradient, and no step, is another for it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "refrain/base/random.h"
#include "refrain/mixers/attention_rnn/attention_rnn.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "refrain/train/optimizer.h"
#include "refrain/train/plan.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

struct Stack {
  const char* name;
  const char* pattern;
  const char* block = "pre_norm";
  bool tied = false;
  const char* ff = "swiglu";
  std::vector<std::pair<const char*, const char*>> settings{};
};

// Given a tensor's name and its number, is it trained?
using Trainable = std::function<bool(const std::string&, int64_t)>;

ModelConfig config_of(const Stack& stack) {
  SettingMap settings;
  for (const auto& [name, value] : stack.settings) settings.set(name, value);
  ModelConfig c;
  c.vocab_size = 23;
  c.d_model = 16;
  c.layers = 2;
  c.heads = 2;
  c.context = 64;
  c.pattern = stack.pattern;
  c.block = stack.block;
  c.tie_embeddings = stack.tied;
  c.feed_forward = stack.ff;
  c = with_settings(c, settings);
  if (std::string_view(stack.name) == "plain")
    for (MixerConfig& mixer : c.mixers) mixer.as<AttentionRnnConfig>().fused = false;
  return c;
}

class Trial {
 public:
  Trial(const Stack& stack, const Trainable& trainable) : model(config_of(stack)) {
    int64_t number = 0;
    model.parameters().set_trainable(
        [&](const ParamSpec& spec) { return trainable(spec.name, number++); });
    model.initialise(7);
    model.allocate_gradients();
    Random random(3);
    for (int32_t i = 0; i < kOffset.back(); ++i) {
      tokens_.push_back(static_cast<int32_t>(random.below(23)));
      targets_.push_back(i % 11 == 5 ? -1 : static_cast<int32_t>(random.below(23)));
    }
  }

  // Gradients of two micro-batches, the first with a sequence that goes in chunks where it can.
  void train(kernels::ComputeType compute_type = kernels::ComputeType::kFloat32) {
    model.clear_gradients();
    for (size_t b = 0; b + 1 < kOffset.size(); b += 2) {
      RaggedBatchBuilder data;
      const std::vector<int32_t> offset = {0, kOffset[b + 1] - kOffset[b],
                                           kOffset[b + 2] - kOffset[b]};
      const RaggedBatch w = data.set(offset, std::vector<int32_t>(2), static_cast<int64_t>(b));
      const auto first = static_cast<size_t>(kOffset[b]), rows = static_cast<size_t>(w.rows());
      std::vector<float> losses(rows);
      workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
        model.train(ctx, w,
                    {.tokens = std::span(tokens_).subspan(first, rows),
                     .targets = std::span(targets_).subspan(first, rows)},
                    {.scale = 0.02f, .compute_type = compute_type, .chunk_length = 16},
                    {losses.data(), {w.rows()}}, saved);
      });
    }
    model.finish_gradients();
  }
  std::vector<float> weights() {
    const auto w = model.parameters().weights();
    return {w.begin(), w.end()};
  }

  LanguageModel model;

 private:
  inline static const std::vector<int32_t> kOffset = {0, 40, 47, 57, 60};
  std::vector<int32_t> tokens_, targets_;
  Workspace workspace_;
};

// Of what is trained of `some`, which has fewer gradients than `whole`.
void expect_same_gradients(Trial& some, Trial& whole) {
  const auto all = whole.model.parameters().file_tensors();
  size_t i = 0;
  for (const auto& [name, shape, w, g] : some.model.parameters().file_tensors()) {
    const Tensor want = all[i++].g;
    if (!g) continue;
    EXPECT_TRUE(same_bits(std::vector<float>(g.begin(), g.end()),
                          std::vector<float>(want.begin(), want.end())))
        << name;
  }
}

class Frozen : public ::testing::TestWithParam<Stack> {};

TEST_P(Frozen, GradientsOfTheOthersAreTheSameToTheBit) {
  for (const auto compute_type : {kernels::ComputeType::kFloat32, kernels::ComputeType::kBf16}) {
    Trial whole(GetParam(), [](const std::string&, int64_t) { return true; });
    whole.train(compute_type);
    const int64_t tensors = static_cast<int64_t>(whole.model.parameters().entries().size());
    for (int64_t frozen = 0; frozen <= tensors; ++frozen) {  // each alone; then all
      Trial some(GetParam(),
                 [&](const std::string&, int64_t i) { return frozen < tensors && i != frozen; });
      some.train(compute_type);
      expect_same_gradients(some, whole);
    }
  }
}

TEST_P(Frozen, StepsChangeTheTrainableAloneAndAsIfAllHadGradients) {
  const Trainable mixers = [](const std::string& name, int64_t) {
    return name.find(".mixer.") != std::string::npos;
  };
  const Trainable others = [&](const std::string& name, int64_t i) { return !mixers(name, i); };
  for (const Trainable& trainable : {mixers, others}) {
    Trial some(GetParam(), trainable);
    Trial whole(GetParam(), [](const std::string&, int64_t) { return true; });
    const std::vector<float> before = some.weights();
    ASSERT_EQ(before, whole.weights());
    TrainConfig config;
    config.max_grad_norm = 1e-3;  // so that the norm counts
    config.weight_decay = 0.1;
    config.decay_all = true;
    Optimizer optimizer(some.model.parameters(), config);
    for (int step = 0; step < 3; ++step) {
      some.train();
      whole.train();
      expect_same_gradients(some, whole);
      EXPECT_GT(optimizer.step(1e-2), config.max_grad_norm);
      std::ranges::copy(some.weights(), whole.model.parameters().weights().begin());
    }
    const std::vector<float> after = some.weights();
    for (const auto& [spec, param, offset, at] : some.model.parameters().entries()) {
      const auto n = static_cast<size_t>(spec.size());
      EXPECT_EQ(std::equal(after.begin() + static_cast<int64_t>(offset),
                           after.begin() + static_cast<int64_t>(offset + n),
                           before.begin() + static_cast<int64_t>(offset)),
                !param->trainable)
          << spec.name;
    }
  }
}

TEST_P(Frozen, PlansCountGradientsOfTheTrainableAlone) {
  TrainConfig config;
  config.batch_size = 4;
  LanguageModel whole(config_of(GetParam()), LanguageModel::Memory::kLater);
  LanguageModel some(config_of(GetParam()), LanguageModel::Memory::kLater);
  some.parameters().set_trainable([](const ParamSpec& spec) { return spec.shape.size() == 1; });
  size_t frozen = 0;  // floats
  for (const auto& [spec, param, offset, at] : some.parameters().entries())
    if (!param->trainable) frozen += (static_cast<size_t>(spec.size()) + 15) / 16 * 16;
  EXPECT_GT(frozen, 0u);
  const size_t lookup = GetParam().tied ? 23 * 16 : 0;  // its second gradient
  const Plan all = Planner(whole, config, true, 0).unbounded();
  const Plan less = Planner(some, config, true, 0).unbounded();
  EXPECT_EQ(less.model, some.training_bytes());
  EXPECT_EQ(less.model + (3 * frozen + lookup) * sizeof(float), all.model);
  EXPECT_LE(less.step.total(), all.step.total());
}

INSTANTIATE_TEST_SUITE_P(
    Stacks, Frozen,
    ::testing::Values(
        Stack{"attention", "attention"}, Stack{"tied", "attention", "pre_norm", true, "gelu"},
        Stack{"gla", "gla", "pre_norm", false, "swiglu", {{"gla.conv", "3"}}},
        Stack{"gated",
              "gla",
              "bare",
              false,
              "swiglu",
              {{"gla.gate", "sigmoid"}, {"gla.bias", "true"}}},
        Stack{"simple_rnn", "simple_rnn", "bare"}, Stack{"attention_rnn", "attention_rnn"},
        Stack{"plain", "attention_rnn", "bare"}, Stack{"rnn", "rnn", "bare"},
        Stack{"lstm_gru", "lstm gru", "pre_norm", true},
        Stack{"mm_rec", "mm_rec", "pre_norm", false, "swiglu", {{"mm_rec.stretch", "3"}}}),
    [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace refrain
