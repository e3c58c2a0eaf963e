// The cache type of a whole model: which models have one, and that all forms are one function in
// it.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "refrain/base/random.h"
#include "refrain/model/form_check.h"
#include "refrain/model/reference.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"
#include "support/error_of.h"

namespace refrain {
namespace {

using kernels::CacheType;

class SmallModel : public LanguageModel {
 public:
  explicit SmallModel(const std::string& pattern)
      : LanguageModel(ModelConfig{.vocab_size = 30,
                                  .d_model = 32,
                                  .layers = 3,
                                  .heads = 4,
                                  .kv_heads = 2,
                                  .head_dim = 20,
                                  .d_ff = 48,
                                  .context = 64,
                                  .pattern = pattern}) {
    // Large, so that attention is far from uniform.
    Random random(7);
    parameters().visit([&](const ParamSpec& spec, Param& param) {
      for (float& w : param.w)
        w = static_cast<float>(spec.shape.size() == 1 ? 1 + 0.2 * random.normal()
                                                      : 0.25 * random.normal());
    });
  }
};

std::vector<int32_t> tokens_of(int64_t n) {
  Random random(3);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(random.below(30)));
  return tokens;
}

size_t state_bytes(const LanguageModel& model, int64_t tokens) {
  return SequenceState(model, tokens).bytes().size();
}

const std::vector<std::string> kPatterns = {
    "attention", "attention:window=40 attention:window=30,stride=4 attention", "gla attention"};

TEST(CacheType, AllFormsOfAModelAgreeInIt) {
  for (const std::string& pattern : kPatterns)
    for (const CacheType type : {CacheType::kFloat32, CacheType::kBf16, CacheType::kQ8_0}) {
      SmallModel model(pattern);
      model.set_cache_type(type);
      const std::vector<int32_t> tokens = tokens_of(150);
      for (const FormDifference& d : check_forms(model, tokens, {.gradient_tokens = 8})) {
        SCOPED_TRACE(pattern + ", " + kernels::name_of(type) + ": " + d.what + " " + d.between);
        EXPECT_TRUE(d.passed()) << d.largest << " of " << d.scale;
        // A stack of attention is the same to the bit.
        if (pattern.find("gla") == pattern.npos && d.between.find("64") == d.between.npos) {
          EXPECT_EQ(d.largest, 0);
        }
      }
      EXPECT_EQ(model.cache_type(), type);
    }
}

// Whole, without a state: logits differ from float32's, by little.
TEST(CacheType, ChangesWhatIsComputed) {
  SmallModel model("attention");
  const std::vector<int32_t> tokens = tokens_of(60);
  const std::vector<double> exact = ReferenceModel<double>(model).logits(tokens);
  double largest = 0;
  for (const double v : exact) largest = std::max(largest, std::abs(v));
  for (const CacheType type : {CacheType::kBf16, CacheType::kQ8_0}) {
    model.set_cache_type(type);
    const std::vector<double> rounded = ReferenceModel<double>(model).logits(tokens);
    double most = 0;
    for (size_t i = 0; i < exact.size(); ++i)
      most = std::max(most, std::abs(rounded[i] - exact[i]));
    EXPECT_GT(most, 1e-4 * largest);
    EXPECT_LT(most, 0.1 * largest);
  }
}

TEST(CacheType, StatesTakeLess) {
  // A line of 64 for each of three blocks may be filled up.
  SmallModel model("attention");
  const size_t all = state_bytes(model, 100);
  model.set_cache_type(CacheType::kBf16);
  EXPECT_NEAR(static_cast<double>(state_bytes(model, 100)), static_cast<double>(all) / 2, 3 * 64);
  model.set_cache_type(CacheType::kQ8_0);  // 20 bytes and a scale of 2
  EXPECT_NEAR(static_cast<double>(state_bytes(model, 100)), static_cast<double>(all) * 22 / 80,
              3 * 64);
  model.set_cache_type(CacheType::kFloat32);
  EXPECT_EQ(state_bytes(model, 100), all);
}

TEST(CacheType, AStackWithoutACacheHasNone) {
  SmallModel model("gla lstm");
  model.set_cache_type(CacheType::kFloat32);
  EXPECT_EQ(error_of([&] { model.set_cache_type(CacheType::kBf16); }),
            "cache_type: expected f32, because no block of the pattern 'gla lstm' has a cache of "
            "keys and values; found bf16");
  EXPECT_EQ(model.cache_type(), CacheType::kFloat32);
}

TEST(CacheType, TrainingRefusesIt) {
  SmallModel model("attention");
  model.allocate_gradients();
  model.set_cache_type(CacheType::kBf16);
  const std::vector<int32_t> tokens = tokens_of(5);
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(1, 5);
  std::vector<float> losses(5);
  const auto train = [&] {
    Workspace().run({}, [&](ExecutionContext& ctx, Arena& saved) {
      model.train(ctx, batch, {.tokens = tokens, .targets = tokens}, {}, {losses.data(), {5}},
                  saved);
    });
  };
  EXPECT_EQ(error_of(train), "cache_type: expected f32 in training, found bf16");
  model.set_cache_type(CacheType::kFloat32);
  EXPECT_EQ(error_of(train), "(no error)");
}

}  // namespace
}  // namespace refrain
