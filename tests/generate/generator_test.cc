#include "refrain/generate/generator.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <set>

#include "generate/tiny_model.h"
#include "support/error_of.h"
#include "support/threads.h"

namespace refrain {
namespace {

using GeneratorTest = OneThread;

std::vector<int32_t> tokens_of(const GenerationResult& result) {
  std::vector<int32_t> tokens;
  for (const SampledToken& choice : result.choices) tokens.push_back(choice.token);
  return tokens;
}

// What a request must give, by a model that reads everything anew for every token.
std::vector<std::string> expected(const LanguageModel& model, const GenerationRequest& request,
                                  int64_t context) {
  Sampler sampler(request.sampling);
  std::vector<int32_t> tokens = request.prompt;
  GenerationResult result;
  result.prompt_tokens = static_cast<int64_t>(tokens.size());
  int64_t begin = 0;
  for (int64_t i = 0; i < request.max_new_tokens; ++i) {
    while (static_cast<int64_t>(tokens.size()) - begin > context) begin += context - context / 2;
    const std::vector<int32_t> seen(tokens.begin() + begin, tokens.end());
    result.choices.push_back(sampler.choose(last_logits(model, seen), tokens, request.logprobs));
    tokens.push_back(result.choices.back().token);
  }
  return told(result);
}

TEST_F(GeneratorTest, SteppedEqualsWhole) {
  for (int64_t kv_heads : {1, 2, 4}) {
    const TinyModel model(kv_heads);
    Generator generator(model);
    for (double temp : {0.0, 1.0}) {
      GenerationRequest request = request_of(random_tokens(5, 1), 40, temp);
      request.logprobs = 3;
      request.sampling.repeat_penalty = 1.1;
      const GenerationResult result = generator.generate(request);
      EXPECT_EQ(told(result), expected(model, request, 64)) << kv_heads << " " << temp;
      const auto tokens = tokens_of(result);
      EXPECT_GT(std::set<int32_t>(tokens.begin(), tokens.end()).size(), 3u) << "a dull test";
    }
  }
}

TEST_F(GeneratorTest, ALongPromptIsReadInPieces) {
  const TinyModel model;
  Generator generator(model);
  for (int64_t n : {511, 512, 513, 1300}) {
    GenerationRequest request = request_of(random_tokens(n, 2), 3, 0);
    request.context = 2000;
    EXPECT_EQ(told(generator.generate(request)), expected(model, request, 2000)) << n;
  }
}

TEST_F(GeneratorTest, BeyondTheContext) {
  const TinyModel model;
  for (int64_t context : {1, 2, 7, 8}) {
    for (int64_t prompt : {1, 5, 8, 9, 30}) {
      GenerationRequest request = request_of(random_tokens(prompt, 4), 25, 0.7);
      request.context = context;
      const auto want = expected(model, request, context);
      EXPECT_EQ(told(Generator(model).generate(request)), want) << context << " " << prompt;
      if (context < 8 || prompt < 30) continue;
      for (int n : {2, 3}) {
        set_threads(n);
        EXPECT_EQ(told(Generator(model).generate(request)), want) << n << " threads";
      }
      set_threads(1);
    }
  }
  // By default, what it was trained on.
  const GenerationRequest request = request_of(random_tokens(50, 4), 60, 0.7);
  EXPECT_EQ(told(Generator(model).generate(request)), expected(model, request, 64));
}

TEST_F(GeneratorTest, ABatchGivesWhatEachGivesAlone) {
  const TinyModel model;
  Generator generator(model);
  std::vector<GenerationRequest> requests;
  for (int64_t i = 0; i < 24; ++i) {
    requests.push_back(request_of(random_tokens(1 + i * 7 % 40, static_cast<uint64_t>(i)),
                                  i * 5 % 23, i % 3 == 0 ? 0 : 0.9));
    requests.back().sampling.seed = i / 2;
    requests.back().eos = static_cast<int32_t>(i % 20);
    requests.back().logprobs = i % 4;
    if (i % 5 == 0) requests.back().context = 6;
  }
  requests.push_back(request_of(random_tokens(700, 50), 4, 0));  // more than one window
  requests.back().context = 1000;
  std::vector<std::vector<std::string>> alone;
  std::set<StopReason> reasons;
  for (const GenerationRequest& request : requests) {
    const GenerationResult result = generator.generate(request);
    alone.push_back(told(result));
    reasons.insert(result.reason);
  }
  EXPECT_EQ(reasons, (std::set<StopReason>{StopReason::kLength, StopReason::kEndToken}));
  for (int n : {1, 2}) {
    set_threads(n);
    for (int64_t max_tokens : {1, 100, 100000}) {
      if (n == 2 && max_tokens < 100000) continue;
      const auto results = generator.generate_batch(requests, max_tokens);
      ASSERT_EQ(results.size(), alone.size());
      for (size_t i = 0; i < alone.size(); ++i)
        EXPECT_EQ(told(results[i]), alone[i]) << i << " " << max_tokens << " " << n;
    }
  }
  EXPECT_TRUE(generator.generate_batch({}, 100).empty());
  EXPECT_EQ(error_of([&] { generator.generate_batch(requests, 0); }),
            "max_tokens: expected 1 or more, found 0");
}

// More sequences under way than rows in a window.
TEST_F(GeneratorTest, AWideBatch) {
  const TinyModel model;
  Generator generator(model);
  std::vector<GenerationRequest> requests;
  for (uint64_t i = 0; i < 1200; ++i)
    requests.push_back(request_of(random_tokens(2, i), 1 + static_cast<int64_t>(i % 3), 0));
  const auto results = generator.generate_batch(requests, 100000);
  for (size_t i = 0; i < requests.size(); i += 100)
    EXPECT_EQ(told(results[i]), told(generator.generate(requests[i]))) << i;
}

TEST_F(GeneratorTest, EndTokens) {
  const TinyModel model;
  Generator generator(model);
  GenerationRequest request = request_of(random_tokens(5, 1), 30, 1);
  const std::vector<int32_t> all = tokens_of(generator.generate(request));
  const int32_t end = all[6];
  const auto first = std::find(all.begin(), all.end(), end);
  const std::vector<int32_t> before(all.begin(), first);

  const auto expect_end = [&](const char* reason) {
    const GenerationResult result = generator.generate(request);
    EXPECT_EQ(tokens_of(result), before);
    EXPECT_EQ(to_text(result.reason), reason);
  };
  request.eos = end;
  expect_end("eos");
  request.pad = end;
  expect_end("eos");
  request.eos = -1;
  expect_end("pad");
  request.pad = -1;
  request.more_eos = {-1, end};
  expect_end("eos");
  request.max_new_tokens = static_cast<int64_t>(before.size());
  expect_end("length");
  request.max_new_tokens = 30;
  request.pad = end;
  request.ignore_eos = true;
  EXPECT_EQ(tokens_of(generator.generate(request)), all);
}

TEST_F(GeneratorTest, TheCallerStops) {
  const TinyModel model;
  Generator generator(model);
  const GenerationRequest request = request_of(random_tokens(5, 1), 30, 1);
  const GenerationResult whole = generator.generate(request);
  for (StopReason why : {StopReason::kStopText, StopReason::kCancelled}) {
    std::vector<int32_t> seen;
    const GenerationResult result =
        generator.generate(request, [&](const SampledToken& choice) -> std::optional<StopReason> {
          seen.push_back(choice.token);
          if (seen.size() == 4) return why;
          return {};
        });
    EXPECT_EQ(result.reason, why);
    EXPECT_EQ(tokens_of(result), seen);
    EXPECT_EQ(seen.size(), 4u);
    for (size_t i = 0; i < 4; ++i) EXPECT_EQ(seen[i], whole.choices[i].token);
  }
}

TEST_F(GeneratorTest, StopsWhenUnsure) {
  const TinyModel model;
  Generator generator(model);
  GenerationRequest request = request_of(random_tokens(5, 1), 60, 1);
  const GenerationResult whole = generator.generate(request);
  std::set<size_t> lengths;
  for (double least : {0.2, 0.4, 0.6, 1.0}) {
    for (int64_t patience : {1, 2, 3, 100}) {
      request.sampling.min_confidence = least;
      request.sampling.patience_tokens = patience;
      size_t want = 0;
      for (int64_t low = 0; want < whole.choices.size() && low < patience; ++want)
        low = whole.choices[want].confidence < least ? low + 1 : 0;
      const GenerationResult result = generator.generate(request);
      EXPECT_EQ(result.choices.size(), want) << least << " " << patience;
      const bool ended = want < 60;
      EXPECT_EQ(to_text(result.reason), ended ? "unsure" : "length");
      lengths.insert(want);
    }
  }
  EXPECT_GT(lengths.size(), 4u) << "a dull test";
}

// Stacks of recurrent mixers, and of attention with a window, carry all they know in a state of one
// size.
TEST_F(GeneratorTest, RecurrentStacksForgetWhatTheyHaveRead) {
  SettingMap window;
  window.set("attention.window", "16");
  for (const std::string pattern :
       {"gla", "attention_rnn lstm", "simple_rnn gru", "attention", "attention gla"}) {
    SCOPED_TRACE(pattern);
    const TinyModel model(2, 1, pattern, window);
    EXPECT_EQ(context_limit(model, 0), kMaxTokens);
    Generator generator(model);
    GenerationRequest request = request_of(random_tokens(100, 1), 12000, 1);
    request.keep_choices = false;
    std::vector<int32_t> told;
    Sequence sequence(model);
    const GenerationResult result =
        generator.generate(request, sequence, [&](const SampledToken& choice) {
          told.push_back(choice.token);
          EXPECT_LE(sequence.tokens().size(), 5000u);
          return std::optional<StopReason>();
        });
    EXPECT_TRUE(result.choices.empty());
    EXPECT_EQ(result.tokens, 12000);
    EXPECT_EQ(sequence.size(), 12100);
    EXPECT_GT(sequence.forgotten(), 4096);

    // What is forgotten does not matter, and what the sampler looks back at is not forgotten.
    request.sampling.repeat_penalty = 1.5;
    request.sampling.repeat_last_n = 6000;
    request.max_new_tokens = 200;
    request.prompt = random_tokens(12000, 2);
    Sequence shorter(model);
    generator.generate(request, shorter);
    request.prompt.clear();
    generator.generate(request, shorter, [&](const SampledToken&) {
      EXPECT_GE(shorter.tokens().size(), 6000u);
      return std::optional<StopReason>();
    });
  }
}

// A prompt is cut where it does not depend on its company: a batch gives what each gives alone.
TEST_F(GeneratorTest, RecurrentStacksGiveTheSameInABatch) {
  for (const std::string pattern : {"gla attention", "attention_rnn", "lstm simple_rnn"}) {
    SCOPED_TRACE(pattern);
    const TinyModel model(2, 1, pattern);
    Generator generator(model);
    std::vector<GenerationRequest> requests;
    for (const int64_t n : {700, 3, 450, 129, 64, 1}) {
      GenerationRequest request = request_of(random_tokens(n, static_cast<uint64_t>(n)), 12, 1);
      request.context = 800;
      requests.push_back(request);
    }
    const auto together = generator.generate_batch(requests, 4000);
    for (size_t i = 0; i < requests.size(); ++i)
      EXPECT_EQ(told(together[i]), told(generator.generate(requests[i]))) << i;
  }
}

TEST_F(GeneratorTest, TellsItsSpeed) {
  const TinyModel model;
  Generator generator(model);
  GenerationRequest request = request_of(random_tokens(5, 1), 10, 1);
  GenerationResult result = generator.generate(request);
  EXPECT_EQ(result.prompt_tokens, 5);
  EXPECT_EQ(result.steps, 9);  // the first token is the prompt's
  EXPECT_GT(result.prompt_tokens_per_second(), 0);
  EXPECT_GT(result.tokens_per_second(), 0);
  EXPECT_DOUBLE_EQ(result.tokens_per_second() * result.generation_seconds, 9);
  request.max_new_tokens = 0;
  result = generator.generate(request);
  EXPECT_TRUE(result.choices.empty());
  EXPECT_GT(result.prompt_seconds, 0);
  EXPECT_EQ(result.tokens_per_second(), 0);
}

TEST_F(GeneratorTest, RefusesBadRequests) {
  const TinyModel model;
  const auto refused = [&](auto set) {
    GenerationRequest request = request_of({1, 2}, 5, 0);
    set(request);
    const std::string alone = error_of([&] { Generator(model).generate(request); });
    EXPECT_EQ(error_of([&] { Generator(model).generate_batch({&request, 1}, 9); }), alone);
    return alone;
  };
  using R = GenerationRequest;
  EXPECT_EQ(refused([](R& r) { r.prompt = {}; }),
            "prompt: expected at least one token, found none");
  EXPECT_EQ(refused([](R& r) { r.prompt = {3, 20}; }), "prompt token: expected 0 to 19, found 20");
  EXPECT_EQ(refused([](R& r) { r.prompt = {-1}; }), "prompt token: expected 0 to 19, found -1");
  EXPECT_EQ(refused([](R& r) { r.max_new_tokens = -1; }),
            "max_new_tokens: expected 0 to 2147483647, found -1");
  EXPECT_EQ(refused([](R& r) { r.context = -1; }), "context: expected 0 to 2147483647, found -1");
  EXPECT_EQ(refused([](R& r) { r.logprobs = -1; }), "logprobs: expected 0 to 2147483647, found -1");
  EXPECT_EQ(refused([](R& r) { r.sampling.top_p = 2; }), "top_p: expected 0 to 1, found 2");
}

TEST_F(GeneratorTest, ABrokenModelIsAnError) {
  TinyModel model;
  model.parameters().weights()[0] = std::numeric_limits<float>::quiet_NaN();
  const std::string error = error_of([&] { Generator(model).generate(request_of({0, 1}, 5, 0)); });
  EXPECT_TRUE(error.starts_with("the model's logit of token 0 is ")) << error;
}

}  // namespace
}  // namespace refrain
