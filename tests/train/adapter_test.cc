// Adapters beside frozen weights: what they compute, their gradients, and storage of the weights.
#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <memory>

#include "refrain/base/random.h"
#include "refrain/formats/peft.h"
#include "refrain/mixers/gla/gla.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "refrain/train/plan.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

struct Stack {
  const char* name;
  const char* pattern = "attention";
  const char* ff = "swiglu";
  bool tied = false;
  std::vector<std::pair<const char*, const char*>> settings{};
};

ModelConfig config_of(const Stack& stack) {
  SettingMap settings;
  for (const auto& [name, value] : stack.settings) settings.set(name, value);
  ModelConfig c;
  c.vocab_size = 70;
  c.d_model = std::string_view(stack.name) == "small" ? 32 : 64;  // most maps stay as rows
  c.layers = 3;
  c.heads = 4;
  c.kv_heads = std::string_view(stack.pattern) == "attention" ? 2 : 0;
  c.d_ff = 96;
  c.context = 64;
  c.pattern = stack.pattern;
  c.tie_embeddings = stack.tied;
  c.feed_forward = stack.ff;
  c = with_settings(c, settings);
  if (std::string_view(stack.name) == "gla_parts")
    for (MixerConfig& mixer : c.mixers) mixer.as<GlaConfig>().fused = false;
  return c;
}

// A model with weights, adapters that add something, and one batch of two micro-batches.
class Trial {
 public:
  explicit Trial(const Stack& stack, std::vector<std::string> targets = {"all-linear"},
                 float dropout = 0)
      : model(config_of(stack)) {
    model.initialise(7, {.init_std = 0.1});
    const LoraConfig config{.rank = 3,
                            .alpha = 6,
                            .targets = std::move(targets),
                            .rank_pattern = {{"v_proj", 5}, {"down_proj", 40}}};
    lora = std::make_unique<Lora>(model.parameters(), select_modules(model, config), dropout);
    lora->parameters().allocate();
    lora->initialize(3);
    Random random(5);
    for (const auto& entry : lora->parameters().entries())
      for (float& w : entry.param->w) w = static_cast<float>(0.1 * random.normal());
    for (int32_t i = 0; i < kOffset.back(); ++i) {
      tokens_.push_back(static_cast<int32_t>(random.below(70)));
      targets_.push_back(i % 7 == 5 ? -1 : static_cast<int32_t>(random.below(70)));
    }
  }

  // The losses of all rows.
  std::vector<float> train(kernels::ComputeType compute = kernels::ComputeType::kFloat32,
                           Recompute recompute = {}) {
    model.allocate_gradients();
    model.clear_gradients();
    std::vector<float> all;
    for (size_t b = 0; b + 1 < kOffset.size(); b += 2) {
      RaggedBatchBuilder data;
      const std::vector<int32_t> offset = {0, kOffset[b + 1] - kOffset[b],
                                           kOffset[b + 2] - kOffset[b]};
      const RaggedBatch w = data.set(offset, std::vector<int32_t>(2), static_cast<int64_t>(b));
      const auto first = static_cast<size_t>(kOffset[b]), rows = static_cast<size_t>(w.rows());
      std::vector<float> losses(rows);
      workspace_.run({.key = 9}, [&](ExecutionContext& ctx, Arena& saved) {
        model.train(ctx, w,
                    {.tokens = std::span(tokens_).subspan(first, rows),
                     .targets = std::span(targets_).subspan(first, rows)},
                    {.scale = 0.02f, .compute_type = compute, .recompute = recompute},
                    {losses.data(), {w.rows()}}, saved);
      });
      all.insert(all.end(), losses.begin(), losses.end());
    }
    model.finish_gradients();
    return all;
  }
  std::map<std::string, std::vector<float>> gradients() {
    std::map<std::string, std::vector<float>> all;
    for (const auto& [name, shape, w, g] : model.trained().file_tensors())
      if (g) all[name] = {g.begin(), g.end()};
    return all;
  }

  LanguageModel model;
  std::unique_ptr<Lora> lora;

 private:
  inline static const std::vector<int32_t> kOffset = {0, 40, 47, 57, 60};
  std::vector<int32_t> tokens_, targets_;
  Workspace workspace_;
};

double largest(std::span<const float> x) {
  double most = 0;
  for (const float v : x) most = std::max(most, std::abs(static_cast<double>(v)));
  return most;
}
void expect_near(std::span<const float> found, std::span<const float> want, double tolerance,
                 const std::string& what) {
  ASSERT_EQ(found.size(), want.size()) << what;
  double most = 0;
  for (size_t i = 0; i < found.size(); ++i)
    most = std::max(most, std::abs(static_cast<double>(found[i]) - static_cast<double>(want[i])));
  EXPECT_LE(most, tolerance * (1e-6 + largest(want))) << what;
}

class Adapters : public ::testing::TestWithParam<Stack> {};

// L(W + s B A) has dL/dB = s dW Aᵀ and dL/dA = s Bᵀ dW. Products in float32 of at most a few
// hundred terms, in another order.
TEST_P(Adapters, GradientsFollowFromThoseOfTheMergedModel) {
  Trial adapted(GetParam()), merged(GetParam());
  merged.lora->merge_into(merged.model.parameters());
  const std::vector<float> want = merged.train();
  adapted.model.adapt(adapted.lora.get());
  expect_near(adapted.train(), want, 1e-5, "losses");
  const auto full = merged.gradients();
  const auto own = adapted.gradients();
  size_t compared = 0;
  std::map<std::string, ConstTensor> weights;
  for (const auto& [name, shape, w, g] : adapted.lora->parameters().file_tensors())
    weights[name] = w;
  for (const auto& [name, a] : weights) {
    constexpr std::string_view kA = ".lora_A.weight";
    if (!name.ends_with(kA)) continue;
    const std::string module = name.substr(0, name.size() - kA.size());
    const ConstTensor b = weights.at(module + ".lora_B.weight");
    const std::vector<float>& dw = full.at(module + ".weight");
    const int64_t r = a.rows(), in = a.cols(), out = b.rows();
    const double s = 6.0 / static_cast<double>(r);
    std::vector<float> da(static_cast<size_t>(r * in)), db(static_cast<size_t>(out * r));
    for (int64_t i = 0; i < r; ++i)
      for (int64_t j = 0; j < in; ++j) {
        double sum = 0;
        for (int64_t o = 0; o < out; ++o)
          sum += double{b.row(o)[i]} * double{dw[static_cast<size_t>(o * in + j)]};
        da[static_cast<size_t>(i * in + j)] = static_cast<float>(s * sum);
      }
    for (int64_t o = 0; o < out; ++o)
      for (int64_t i = 0; i < r; ++i) {
        double sum = 0;
        for (int64_t j = 0; j < in; ++j)
          sum += double{a.row(i)[j]} * double{dw[static_cast<size_t>(o * in + j)]};
        db[static_cast<size_t>(o * r + i)] = static_cast<float>(s * sum);
      }
    expect_near(own.at(name), da, 2e-4, name);
    expect_near(own.at(module + ".lora_B.weight"), db, 2e-4, module + " B");
    ++compared;
  }
  EXPECT_GE(compared, 9u);
}

// Beside weights in storage, the bits are those beside rows of the values that they stand for.
TEST_P(Adapters, StorageOfTheBaseIsItsValues) {
  if (std::string_view(GetParam().name) == "gla_parts") GTEST_SKIP() << "panels have whole maps";
  for (const Storage type : {Storage::kBf16, Storage::kQ8_0})
    for (const auto compute : {kernels::ComputeType::kFloat32, kernels::ComputeType::kBf16}) {
      SCOPED_TRACE(kernels::name_of(type));
      Trial packed(GetParam()), rows(GetParam());
      ParameterStore& store = packed.model.parameters();
      store.declare_packed(type, ParameterStore::Use::kTraining);
      store.allocate();
      const auto entries = store.entries();
      for (size_t i = 0; i < entries.size(); ++i) {
        const Tensor w = rows.model.parameters().entries()[i].param->w;
        store.set_rows(entries[i], 0, w);
        store.read_rows(entries[i], w);
      }
      for (Trial* trial : {&packed, &rows}) trial->model.adapt(trial->lora.get());
      EXPECT_LT(packed.model.training_bytes(), rows.model.training_bytes());
      EXPECT_TRUE(same_bits(packed.train(compute), rows.train(compute)));
      const auto found = packed.gradients(), want = rows.gradients();
      ASSERT_EQ(found.size(), want.size());
      for (const auto& [name, g] : found) {
        EXPECT_TRUE(same_bits(g, want.at(name))) << name;
        EXPECT_GT(largest(g), 0) << name;
      }
    }
}

TEST_P(Adapters, RecomputationChangesNoBit) {
  for (const float dropout : {0.0f, 0.3f}) {
    Trial plain(GetParam(), {"all-linear"}, dropout), again(GetParam(), {"all-linear"}, dropout);
    plain.model.adapt(plain.lora.get());
    again.model.adapt(again.lora.get());
    const auto losses = plain.train();
    EXPECT_TRUE(same_bits(
        losses, again.train(kernels::ComputeType::kFloat32, {.blocks = Recompute::kAllBlocks})));
    const auto found = again.gradients();
    for (const auto& [name, g] : plain.gradients()) EXPECT_TRUE(same_bits(g, found.at(name)));
  }
}

INSTANTIATE_TEST_SUITE_P(Stacks, Adapters,
                         ::testing::Values(Stack{"attention"}, Stack{"small"},
                                           Stack{"tied", "attention", "swiglu", true},
                                           Stack{"gelu", "attention", "gelu"},
                                           Stack{
                                               "gla", "gla", "swiglu", false, {{"gla.conv", "3"}}},
                                           Stack{"gla_parts", "gla"}),
                         [](const auto& info) { return info.param.name; });

// Blocks below the lowest adapter save nothing, and the others' gradients are the same.
TEST(Lora, BackwardEndsAtTheLowestAdapter) {
  const Stack stack{"attention"};
  Trial all(stack), some(stack, {"layers.2.mixer.q_proj", "layers.2.mixer.v_proj"});
  for (Trial* trial : {&all, &some}) trial->model.adapt(trial->lora.get());
  some.train();
  EXPECT_EQ(some.gradients().size(), 4u);
  TrainConfig config;
  EXPECT_LT(Planner(some.model, config, false, 0).unbounded().step.saved,
            Planner(all.model, config, false, 0).unbounded().step.saved * 2 / 3);
}

TEST(Lora, AtFirstAddsNothing) {
  const Stack stack{"attention"};
  Trial plain(stack), adapted(stack);
  adapted.lora->initialize(3);
  adapted.model.adapt(adapted.lora.get());
  EXPECT_TRUE(same_bits(plain.train(), adapted.train()));
}

}  // namespace
}  // namespace refrain
