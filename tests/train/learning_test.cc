// Every mixer learns, in blocks and bare, as it starts by itself: a text whose next token follows
// from the one before and from what has been seen so far is told better than by counting tokens.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "refrain/train/optimizer.h"

namespace refrain {
namespace {

constexpr int64_t kVocab = 16, kTokens = 24, kSequences = 16;

// Every sequence is about one of four topics of four tokens each, and has a way of its own from
// token to token: mostly to the next of the topic, now and then to any of it.
std::vector<int32_t> markov_text(uint64_t key) {
  Random random(mix_key(1, "markov text", key));
  std::vector<int32_t> text;
  for (int64_t b = 0; b < kSequences; ++b) {
    const auto topic = static_cast<int32_t>(4 * random.below(kVocab / 4));
    auto at = static_cast<int32_t>(random.below(4));
    for (int64_t t = 0; t <= kTokens; ++t) {
      text.push_back(topic + at);
      at = random.below(8) > 0 ? (at + 1) % 4 : static_cast<int32_t>(random.below(4));
    }
  }
  return text;
}

// Of what is to be predicted, by counts of the same.
double unigram_entropy(uint64_t texts) {
  std::vector<double> count(kVocab);
  double all = 0, entropy = 0;
  for (uint64_t key = 0; key < texts; ++key) {
    const std::vector<int32_t> text = markov_text(key);
    for (size_t i = 0; i < text.size(); ++i)
      if (i % (kTokens + 1) > 0) ++count[static_cast<size_t>(text[i])], ++all;
  }
  for (double n : count) entropy -= n / all * std::log(n / all);
  return entropy;
}

class Learning : public ::testing::TestWithParam<std::string> {
 protected:
  // The mean loss of the last tenth of the steps: nothing is seen twice.
  static double learn(const std::string& mixer, const std::string& block, uint64_t steps) {
    ModelConfig config;
    config.vocab_size = kVocab;
    config.d_model = 32;
    config.layers = 2;
    config.heads = 2;
    config.context = kTokens;
    config.pattern = mixer;
    config.block = block;
    LanguageModel model(config);
    model.initialise(1);
    model.allocate_gradients();
    Optimizer optimizer(model.parameters(), TrainConfig());

    std::vector<int32_t> offsets, tokens(kSequences * kTokens), targets(tokens.size());
    for (int64_t b = 0; b <= kSequences; ++b) offsets.push_back(static_cast<int32_t>(b * kTokens));
    RaggedBatchBuilder data;
    const RaggedBatch batch = data.set(offsets, std::vector<int32_t>(kSequences, 0));
    std::vector<float> losses(tokens.size());
    Workspace workspace;
    double sum = 0;
    for (uint64_t step = 0; step < steps; ++step) {
      const std::vector<int32_t> text = markov_text(step);
      for (size_t i = 0; i < tokens.size(); ++i) {
        const size_t at = i + i / kTokens;
        tokens[i] = text[at];
        targets[i] = text[at + 1];
      }
      model.clear_gradients();
      workspace.run({}, [&](ExecutionContext& ctx, Arena& saved) {
        model.train(ctx, batch, {.tokens = tokens, .targets = targets},
                    {.scale = 1.0f / static_cast<float>(targets.size())},
                    {losses.data(), {batch.rows()}}, saved);
      });
      model.finish_gradients();
      optimizer.step(3e-3);
      if (step >= steps - steps / 10)
        for (float loss : losses) sum += static_cast<double>(loss);
    }
    return sum / static_cast<double>(steps / 10 * targets.size());
  }
};

TEST_P(Learning, FallsBelowTheUnigramLoss) {
  constexpr uint64_t kSteps = 150;
  const double bound = unigram_entropy(kSteps);
  ASSERT_GT(bound, 0.99 * std::log(16.0));
  for (const char* block : {"pre_norm", "bare"}) {
    const double loss = learn(GetParam(), block, kSteps);
    EXPECT_LT(loss, 0.7 * bound) << block;
  }
}

INSTANTIATE_TEST_SUITE_P(Mixers, Learning, ::testing::ValuesIn(mixer_kinds()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace refrain
