// A small model of random weights, large enough that it has opinions.
#pragma once
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/generate/generator.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "support/threads.h"

namespace refrain {

// Models this small are fastest with one thread; tests of more set them.
class OneThread : public testing::Test {
 protected:
  void SetUp() override { set_threads(1); }
  void TearDown() override { set_threads(0); }
};

class TinyModel : public LanguageModel {
 public:
  explicit TinyModel(int64_t kv_heads = 2, uint64_t seed = 1,
                     const std::string& pattern = "attention",
                     const SettingMap& mixer_settings = {})
      : LanguageModel(with_settings(config_of(kv_heads, pattern), mixer_settings)) {
    initialise(seed);
    parameters().visit([](const ParamSpec& spec, Param& param) {
      if (spec.shape.size() == 2)
        for (float& w : param.w) w *= 12;
    });
  }

 private:
  static ModelConfig config_of(int64_t kv_heads, const std::string& pattern) {
    ModelConfig config;
    config.vocab_size = 20;
    config.d_model = 16;
    config.layers = 2;
    config.heads = 4;
    config.kv_heads = kv_heads;
    config.d_ff = 32;
    config.context = 64;
    config.pattern = pattern;
    return config;
  }
};

inline std::vector<int32_t> random_tokens(int64_t n, uint64_t key) {
  Random random(key);
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(random.below(20)));
  return tokens;
}

// Logits of the last token, whole and without a state.
inline std::vector<float> last_logits(const LanguageModel& model,
                                      const std::vector<int32_t>& tokens) {
  std::vector<float> logits(static_cast<size_t>(model.config().vocab_size));
  const auto T = static_cast<int64_t>(tokens.size());
  const std::vector<int32_t> last = {static_cast<int32_t>(T - 1)};
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(1, T);
  Workspace workspace;
  workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
    model.logits(ctx, batch, tokens, {}, last, {logits.data(), {1, model.config().vocab_size}});
  });
  return logits;
}

inline GenerationRequest request_of(std::vector<int32_t> prompt, int64_t n, double temp) {
  GenerationRequest request;
  request.prompt = std::move(prompt);
  request.max_new_tokens = n;
  request.sampling.temp = temp;
  request.sampling.min_p = 0;
  request.sampling.seed = 3;
  return request;
}

// Everything that a result says, but for times.
inline std::vector<std::string> told(const GenerationResult& result) {
  std::vector<std::string> all;
  for (const SampledToken& c : result.choices) {
    all.push_back(fmt::format("{} {} {}", c.token, c.logprob, c.confidence));
    for (const auto& [token, logprob] : c.top) all.back() += fmt::format(" {}:{}", token, logprob);
  }
  all.push_back(fmt::format("{} of {}", to_text(result.reason), result.prompt_tokens));
  return all;
}

}  // namespace refrain
