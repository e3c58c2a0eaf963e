#include "refrain/generate/beam.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "generate/tiny_model.h"
#include "support/error_of.h"
#include "support/threads.h"

namespace refrain {
namespace {

using BeamTest = OneThread;
using Results = std::vector<std::vector<Hypothesis>>;

std::vector<Hypothesis> search(const LanguageModel& model, const BeamConfig& config,
                               const BeamRequest& request, std::vector<int32_t> end_tokens,
                               const std::vector<int32_t>& never = {}) {
  return BeamSearch(model, config, std::move(end_tokens), never).search({&request, 1}, 1)[0];
}

// Everything that a result says, to the bit.
std::vector<std::string> told(const std::vector<Hypothesis>& result) {
  std::vector<std::string> all;
  for (const Hypothesis& h : result) {
    all.push_back(fmt::format("{} {} {}", h.logprob, h.score, to_text(h.reason)));
    for (const int32_t token : h.tokens) all.back() += fmt::format(" {}", token);
  }
  return all;
}

// What the scores are made of: the log probabilities of all tokens after these.
std::vector<double> log_probabilities(const LanguageModel& model,
                                      const std::vector<int32_t>& tokens) {
  const std::vector<float> logits = last_logits(model, tokens);
  const LogSoftmax log_p(logits);
  std::vector<double> all;
  for (const float logit : logits) all.push_back(log_p(logit));
  return all;
}

// Every sequence that begins with `so_far` and ends, or is as long as the request allows.
std::vector<Hypothesis> enumerate(const LanguageModel& model, const BeamRequest& request,
                                  const std::vector<int32_t>& allowed, int32_t end,
                                  double length_penalty, const Hypothesis& so_far = {}) {
  std::vector<int32_t> before = request.prompt;
  before.insert(before.end(), so_far.tokens.begin(), so_far.tokens.end());
  const std::vector<double> logprobs = log_probabilities(model, before);
  const int64_t length = std::ssize(so_far.tokens) + 1;
  std::vector<Hypothesis> all;
  for (const int32_t token : allowed) {
    Hypothesis next = so_far;
    next.logprob += logprobs[static_cast<size_t>(token)];
    next.score = next.logprob / std::pow(static_cast<double>(length), length_penalty);
    if (token != end) next.tokens.push_back(token);
    if (token == end || length == request.max_new_tokens) {
      next.reason = token == end ? StopReason::kEndToken : StopReason::kLength;
      all.push_back(next);
      continue;
    }
    const auto longer = enumerate(model, request, allowed, end, length_penalty, next);
    all.insert(all.end(), longer.begin(), longer.end());
  }
  return all;
}

// A beam that has a place for every sequence finds the best of them all, in their order.
TEST_F(BeamTest, AWideBeamIsExhaustive) {
  const std::vector<int32_t> allowed = {2, 5, 7, 11, 13};
  const int32_t end = 7;
  std::vector<int32_t> never;
  for (int32_t token = 0; token < 20; ++token)
    if (std::find(allowed.begin(), allowed.end(), token) == allowed.end()) never.push_back(token);
  int orders = 0;
  for (uint64_t seed : {1, 2, 3}) {
    const TinyModel model(2, seed);
    std::vector<std::vector<int32_t>> best;
    for (double penalty : {0.0, 0.6, 1.0, 2.0}) {
      const BeamRequest request = {random_tokens(6, seed), 4};
      std::vector<Hypothesis> all = enumerate(model, request, allowed, end, penalty);
      ASSERT_EQ(all.size(), 1u + 4 + 16 + 64 * 5);
      std::stable_sort(all.begin(), all.end(),
                       [](const Hypothesis& a, const Hypothesis& b) { return a.score > b.score; });
      const auto found = search(model, {1000, penalty, 50}, request, {end}, never);
      ASSERT_EQ(found.size(), 50u);
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_EQ(found[i].tokens, all[i].tokens) << i;
        EXPECT_EQ(found[i].reason, all[i].reason) << i;
        EXPECT_EQ(found[i].logprob, all[i].logprob) << i;  // stepped gives whole's bits
        EXPECT_EQ(found[i].score, all[i].score) << i;
      }
      best.push_back(found[0].tokens);
      // Fewer are there than are wanted.
      EXPECT_EQ(search(model, {4000, penalty, 4000}, request, {end}, never).size(), all.size());
    }
    orders += best.front() != best.back();
  }
  EXPECT_GT(orders, 0) << "the length penalty made no difference: a dull test";
}

// A token whose log probability is -inf never follows, whatever there is room for: of a long
// sequence its score would be -inf / inf.
TEST_F(BeamTest, WhatCannotBeIsNoChoice) {
  TinyModel model;
  const std::vector<int32_t> prompt = random_tokens(6, 1);
  constexpr int64_t kPossible = 3;
  // The head of all other tokens reads the largest part of the last row's state, and overflows.
  float* head = nullptr;
  model.parameters().visit([&](const ParamSpec& spec, Param& param) {
    if (spec.shape.size() == 2 && spec.shape[0] == 20) head = param.w.data;
  });
  ASSERT_NE(head, nullptr);
  const int64_t D = model.config().d_model;
  const std::vector<float> saved(head, head + 20 * D);
  int found_one = 0;
  for (int64_t dim = 0; dim < D && !found_one; ++dim)
    for (const float huge : {3e38f, -3e38f}) {
      std::copy(saved.begin(), saved.end(), head);
      for (int64_t token = kPossible; token < 20; ++token) head[token * D + dim] = huge;
      const std::vector<float> logits = last_logits(model, prompt);
      if (std::ranges::count(logits, -INFINITY) != 20 - kPossible) continue;
      ++found_one;
      const auto results = search(model, {8, 100, 8}, {prompt, 1}, {0});
      EXPECT_EQ(results.size(), static_cast<size_t>(kPossible));
      for (const Hypothesis& h : results) EXPECT_TRUE(std::isfinite(h.logprob));
    }
  EXPECT_GT(found_one, 0);
}

TEST_F(BeamTest, ABeamOfOneIsGreedy) {
  const TinyModel attention, recurrent(2, 1, "gla lstm");
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    GenerationRequest request = request_of(random_tokens(static_cast<int64_t>(seed), seed), 30, 0);
    request.eos = static_cast<int32_t>(seed % 20);
    request.more_eos = {static_cast<int32_t>(seed * 7 % 20)};
    request.context = 100;
    const LanguageModel& model = seed % 3 == 0 ? recurrent : attention;
    Generator generator(model);
    const GenerationResult greedy = generator.generate(request);
    double logprob = 0;
    std::vector<int32_t> tokens;
    for (const SampledToken& choice : greedy.choices) {
      tokens.push_back(choice.token);
      logprob += static_cast<double>(choice.logprob);
    }
    for (double penalty : {0.0, 1.0}) {
      const auto found =
          search(model, {1, penalty, 1}, {request.prompt, 30}, {request.eos, request.more_eos[0]});
      ASSERT_EQ(found.size(), 1u);
      EXPECT_EQ(found[0].tokens, tokens);
      EXPECT_EQ(found[0].reason, greedy.reason);
      if (greedy.reason == StopReason::kLength) {
        EXPECT_NEAR(found[0].logprob, logprob, 1e-5);  // those are floats
      }
    }
  }
}

// The score that is reported is the one of the tokens that are reported: each sequence carried a
// state of its own, whatever the mixers keep in it.
TEST_F(BeamTest, ScoresAreThoseOfTheTokens) {
  for (const std::string pattern :
       {"attention", "gla attention", "attention_rnn lstm", "simple_rnn gru"}) {
    SCOPED_TRACE(pattern);
    const TinyModel model(2, 1, pattern);
    const BeamRequest request = {random_tokens(5, 9), 12};
    const int32_t end = 3;
    const auto found = search(model, {8, 0.7, 8}, request, {end});
    ASSERT_EQ(found.size(), 8u);
    for (size_t i = 0; i < found.size(); ++i) {
      std::vector<int32_t> text = request.prompt, chosen = found[i].tokens;
      if (found[i].reason == StopReason::kEndToken) chosen.push_back(end);
      double logprob = 0;
      for (const int32_t token : chosen) {
        logprob += log_probabilities(model, text)[static_cast<size_t>(token)];
        text.push_back(token);
      }
      // Attention's steps have the bits of the whole, other mixers' are rounded on another way.
      const double rounding = pattern == "attention" ? 0 : 1e-3;
      EXPECT_NEAR(found[i].logprob, logprob, rounding);
      EXPECT_EQ(found[i].score,
                found[i].logprob / std::pow(static_cast<double>(chosen.size()), 0.7));
      EXPECT_LE(found[i].score, found[0].score);
      for (size_t j = 0; j < i; ++j) EXPECT_NE(found[i].tokens, found[j].tokens);
    }
  }
}

// Stopping early is no more than not computing what could not matter: a search that has to go on to
// the end finds the same. Here that is one that wants all of its beam.
TEST_F(BeamTest, StopsWhenNothingBetterCanCome) {
  const TinyModel model;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const BeamRequest request = {random_tokens(4, seed), 15};
    const std::vector<int32_t> ends = {2, 5, 8, 11, 14};
    for (double penalty : {0.0, 0.5, 1.0}) {
      const auto all = told(search(model, {6, penalty, 6}, request, ends));
      for (int64_t n : {1, 2, 3}) {
        const auto few = told(search(model, {6, penalty, n}, request, ends));
        ASSERT_EQ(few.size(), static_cast<size_t>(n));
        for (size_t i = 0; i < few.size(); ++i) EXPECT_EQ(few[i], all[i]) << seed << " " << i;
      }
    }
  }
}

TEST_F(BeamTest, ABatchGivesWhatEachGivesAlone) {
  std::vector<BeamRequest> requests;
  for (int64_t i = 0; i < 24; ++i)
    requests.push_back({random_tokens(1 + i * 7 % 40, static_cast<uint64_t>(i)), 1 + i * 5 % 23});
  requests.push_back({random_tokens(700, 50), 4});  // more than one window
  requests.push_back({random_tokens(512, 51), 1});
  const BeamConfig config = {5, 1.0, 3};
  for (const std::string pattern :
       {"attention", "gla attention", "attention_rnn", "lstm simple_rnn"}) {
    SCOPED_TRACE(pattern);
    const TinyModel model(2, 1, pattern);
    std::vector<std::vector<std::string>> alone;
    for (const BeamRequest& request : requests)
      alone.push_back(told(search(model, config, request, {4})));
    for (int n : {1, 2, 3}) {
      set_threads(n);
      BeamSearch beam(model, config, {4});
      for (int64_t max_tokens : {1, 700, 100000}) {
        if (n > 1 && max_tokens == 1) continue;
        const Results results = beam.search(requests, max_tokens);
        ASSERT_EQ(results.size(), alone.size());
        for (size_t i = 0; i < alone.size(); ++i)
          EXPECT_EQ(told(results[i]), alone[i]) << i << " " << max_tokens << " " << n;
      }
    }
    set_threads(1);
    EXPECT_TRUE(BeamSearch(model, config, {4}).search({}, 100).empty());
  }
}

TEST_F(BeamTest, NeverChoosesWhatIsRuledOut) {
  const TinyModel model;
  const BeamRequest request = {random_tokens(5, 1), 20};
  const auto free = search(model, {4, 1.0, 4}, request, {4});
  const std::vector<int32_t> never = {free[0].tokens[0], free[0].tokens[1]};
  for (const Hypothesis& h : search(model, {4, 1.0, 4}, request, {4}, never))
    for (const int32_t token : h.tokens)
      EXPECT_EQ(std::count(never.begin(), never.end(), token), 0);
}

// All tokens are equally likely: beginnings in their order, tokens by their ids.
TEST_F(BeamTest, TiesHaveAnOrder) {
  TinyModel model;
  for (float& w : model.parameters().weights()) w = 0;
  const auto found = search(model, {3, 1.0, 3}, {{1, 2}, 2}, {});
  ASSERT_EQ(found.size(), 3u);
  for (int32_t i = 0; i < 3; ++i)
    EXPECT_EQ(found[static_cast<size_t>(i)].tokens, (std::vector<int32_t>{0, i}));
}

TEST_F(BeamTest, RefusesBadRequests) {
  const TinyModel model;
  const auto config = [&](const BeamConfig& c) {
    return error_of([&] { BeamSearch(model, c, {4}); });
  };
  EXPECT_EQ(config({0, 1, 1}), "beam_size: expected 1 to 4096, found 0");
  EXPECT_EQ(config({4, 1, 5}), "n_best: expected 1 to beam_size 4, found 5");
  EXPECT_EQ(config({4, 1, 0}), "n_best: expected 1 to beam_size 4, found 0");
  EXPECT_EQ(config({4, -1, 1}), "length_penalty: expected 0 to 100, found -1");
  EXPECT_NE(config({4, std::nan(""), 1}), "(no error)");
  std::vector<int32_t> all(20);
  for (int32_t i = 0; i < 20; ++i) all[static_cast<size_t>(i)] = i;
  EXPECT_EQ(error_of([&] { BeamSearch(model, {}, {}, all); }),
            "beam search: every token of the vocabulary is ruled out");
  const auto request = [&](const BeamRequest& r) {
    return error_of([&] { search(model, {}, r, {4}); });
  };
  EXPECT_EQ(request({{}, 5}), "prompt: expected at least one token, found none");
  EXPECT_EQ(request({{1, 20}, 5}), "prompt token: expected 0 to 19, found 20");
  EXPECT_EQ(request({{1}, 0}), "max_new_tokens: expected 1 to 2147483646, found 0");
  EXPECT_EQ(error_of([&] { BeamSearch(model, {}, {4}).search({}, 0); }),
            "max_tokens: expected 1 to 2147483647, found 0");
}

TEST_F(BeamTest, ABrokenModelIsAnError) {
  TinyModel model;
  model.parameters().weights()[0] = std::numeric_limits<float>::quiet_NaN();
  const std::string error = error_of([&] { search(model, {}, {{0, 1}, 5}, {4}); });
  EXPECT_TRUE(error.starts_with("the model's logit of token 0 is ")) << error;
}

}  // namespace
}  // namespace refrain
