#include "refrain/generate/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "support/error_of.h"

namespace refrain {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Nothing but a draw from the model's probabilities.
SamplingConfig plain() {
  SamplingConfig config;
  config.temp = 1;
  config.top_k = 0;
  config.top_p = 1;
  config.min_p = 0;
  return config;
}

std::vector<int64_t> counts(const SamplingConfig& config, const std::vector<float>& logits,
                            int64_t draws, const std::vector<int32_t>& recent = {}) {
  Sampler sampler(config);
  std::vector<int64_t> n(logits.size());
  for (int64_t i = 0; i < draws; ++i)
    ++n[static_cast<size_t>(sampler.choose(logits, recent, 0).token)];
  return n;
}

std::set<size_t> drawn(const SamplingConfig& config, const std::vector<float>& logits,
                       const std::vector<int32_t>& recent = {}) {
  std::set<size_t> tokens;
  const auto n = counts(config, logits, 3000, recent);
  for (size_t i = 0; i < n.size(); ++i)
    if (n[i] > 0) tokens.insert(i);
  return tokens;
}

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  for (double p : probabilities) logits.push_back(static_cast<float>(std::log(p) + 5));
  return logits;
}

void expect_distribution(const SamplingConfig& config, const std::vector<float>& logits,
                         const std::vector<double>& probabilities) {
  constexpr int64_t kDraws = 40000;
  const auto n = counts(config, logits, kDraws);
  double chi_square = 0;
  size_t freedom = 0;
  for (size_t i = 0; i < n.size(); ++i) {
    if (probabilities[i] == 0) {
      EXPECT_EQ(n[i], 0) << i;
      continue;
    }
    const double want = kDraws * probabilities[i];
    chi_square += (static_cast<double>(n[i]) - want) * (static_cast<double>(n[i]) - want) / want;
    ++freedom;
  }
  // Mean freedom - 1, variance twice that: five deviations.
  const double mean = static_cast<double>(freedom) - 1;
  EXPECT_LT(chi_square, mean + 5 * std::sqrt(2 * mean)) << freedom;
}

TEST(Sampler, DrawsFromTheProbabilities) {
  const std::vector<double> p = {0.05, 0.4, 0.1, 0.25, 0.2};
  expect_distribution(plain(), logs(p), p);

  SamplingConfig warm = plain();
  warm.temp = 2;
  std::vector<double> flat;
  double sum = 0;
  for (double x : p) sum += std::sqrt(x);
  for (double x : p) flat.push_back(std::sqrt(x) / sum);
  expect_distribution(warm, logs(p), flat);
}

TEST(Sampler, StepsComeInTheirOrder) {
  const std::vector<double> p = {0.05, 0.4, 0.1, 0.25, 0.2};
  SamplingConfig config = plain();
  config.top_k = 3;
  expect_distribution(config, logs(p), {0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85});
  // Top-p counts shares of what top-k left: 0.65 / 0.85 > 0.76, 0.65 < 0.76.
  config.top_p = 0.76;
  expect_distribution(config, logs(p), {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
  config.top_k = 0;
  expect_distribution(config, logs(p), {0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85});
  config.min_p = 0.55;
  expect_distribution(config, logs(p), {0, 0.4 / 0.65, 0, 0.25 / 0.65, 0});
  // The temperature comes last: it changes shares, not who is in.
  config.temp = 1000;
  expect_distribution(config, logs(p), {0, 0.5, 0, 0.5, 0});
}

// Against a sort of all: many equal logits, some tokens ruled out, some penalised.
TEST(Sampler, MostLikelyOfALargeVocabulary) {
  constexpr size_t kVocabulary = 3000;
  std::vector<float> logits(kVocabulary);
  for (size_t i = 0; i < kVocabulary; ++i) logits[i] = static_cast<float>(i * 7919 % 211) / 8;
  const std::vector<int32_t> never = {1, 63, 210, 2999};
  const std::vector<int32_t> recent = {50, 50, 2800, 63, 421};
  for (const int64_t k : {1, 2, 40, 300}) {
    SamplingConfig config = plain();
    config.top_k = k;
    config.temp = 1e6;
    config.repeat_penalty = 1.25;
    std::vector<std::pair<float, size_t>> all;  // to sort: the largest logit, the smallest id
    for (size_t i = 0; i < kVocabulary; ++i) {
      const auto is = [&](int32_t id) { return id == static_cast<int32_t>(i); };
      const bool again = std::ranges::any_of(recent, is);
      if (!std::ranges::any_of(never, is))
        all.emplace_back(again ? -logits[i] / 1.25f : -logits[i], i);
    }
    std::sort(all.begin(), all.end());
    std::set<size_t> expected, found;
    for (size_t i = 0; i < static_cast<size_t>(k); ++i) expected.insert(all[i].second);
    Sampler sampler(config, {}, never);
    for (int64_t i = 0; i < 20 * k + 100; ++i)
      found.insert(static_cast<size_t>(sampler.choose(logits, recent, 0).token));
    EXPECT_EQ(found, expected) << k;
    config.temp = 0;
    EXPECT_EQ(static_cast<size_t>(Sampler(config, {}, never).choose(logits, recent, 0).token),
              all[0].second);
  }
}

TEST(Sampler, Edges) {
  const std::vector<float> logits = {1, 3, 2, 3, 0};
  const std::set<size_t> all = {0, 1, 2, 3, 4};
  SamplingConfig config = plain();
  EXPECT_EQ(drawn(config, logits), all);
  for (int64_t k : {5, 6, 1000000}) {
    config.top_k = k;
    EXPECT_EQ(drawn(config, logits), all);
  }
  config.top_k = 1;  // of equals the lower id
  EXPECT_EQ(drawn(config, logits), std::set<size_t>{1});
  config.top_k = 2;
  EXPECT_EQ(drawn(config, logits), (std::set<size_t>{1, 3}));

  config = plain();
  config.top_p = 0;
  EXPECT_EQ(drawn(config, logits), std::set<size_t>{1});
  config.top_p = 0.5;  // reached by the first of two
  EXPECT_EQ(drawn(config, {0, 0}), std::set<size_t>{0});
  config = plain();
  config.min_p = 1;  // those that are as likely as the most likely one
  EXPECT_EQ(drawn(config, logits), (std::set<size_t>{1, 3}));
  for (double temp : {1e-9, 1e-300, std::numeric_limits<double>::denorm_min()}) {
    config = plain();
    config.temp = temp;
    EXPECT_EQ(drawn(config, logits), (std::set<size_t>{1, 3}));
  }
  config = plain();
  config.temp = 1e6;
  EXPECT_EQ(drawn(config, {-kInfinity, 0, 100, -kInfinity}), (std::set<size_t>{1, 2}));
  EXPECT_EQ(drawn(SamplingConfig(), {7}), std::set<size_t>{0});
  EXPECT_EQ(drawn(plain(), {-3e38f, 3e38f, 0}), std::set<size_t>{1});
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  SamplingConfig config;
  config.temp = 0;
  config.top_k = 2;
  EXPECT_EQ(drawn(config, {1, 3, 2, 3, 0}), std::set<size_t>{1});
  EXPECT_EQ(drawn(config, {-0.0f, 0.0f}), std::set<size_t>{0});
  config.repeat_penalty = 2;
  EXPECT_EQ(drawn(config, {1, 3, 2, 3, 0}, {1}), std::set<size_t>{3});
}

TEST(Sampler, RepetitionPenalty) {
  SamplingConfig config;
  config.temp = 0;
  config.repeat_penalty = 1.5;
  const auto greedy = [&](const std::vector<float>& logits, const std::vector<int32_t>& recent) {
    return Sampler(config).choose(logits, recent, 0).token;
  };
  EXPECT_EQ(greedy({3, 2.1f}, {}), 0);
  EXPECT_EQ(greedy({3, 2.1f}, {0}), 1);        // 3 / 1.5 = 2
  EXPECT_EQ(greedy({3, 1.9f}, {0, 0, 0}), 0);  // once, however often it was there
  EXPECT_EQ(greedy({-2, -2.9f}, {0}), 1);      // -2 * 1.5 = -3
  EXPECT_EQ(greedy({-2, -3.1f}, {0}), 0);
  EXPECT_EQ(greedy({0, -1}, {0}), 0);
  config.repeat_penalty = 0.5;  // below 1 it is a reward
  EXPECT_EQ(greedy({3, 2}, {1}), 1);
  EXPECT_EQ(greedy({-1, -1.5f}, {1}), 1);

  config.repeat_penalty = 1.5;
  config.repeat_last_n = 2;
  EXPECT_EQ(greedy({3, 2.1f, 0}, {0, 2, 2}), 0);
  EXPECT_EQ(greedy({3, 2.1f, 0}, {0, 2}), 1);
  config.repeat_last_n = 0;
  EXPECT_EQ(greedy({3, 2.1f, 0}, {0, 0}), 0);
  config.repeat_last_n = -1;
  std::vector<int32_t> long_ago(1000, 2);
  long_ago[0] = 0;
  EXPECT_EQ(greedy({3, 2.1f, 0}, long_ago), 1);

  // What is reported is the unmodified model.
  const std::vector<float> logits = {2, 0};
  const SampledToken choice = Sampler(config).choose(logits, std::vector<int32_t>{0}, 0);
  EXPECT_FLOAT_EQ(choice.confidence, 1 / (1 + std::exp(-2.0f)));
  EXPECT_FLOAT_EQ(choice.logprob, -std::log(1 + std::exp(-2.0f)));
}

TEST(Sampler, TheDrawIsAFunctionOfSeedAndPlace) {
  const std::vector<float> logits(50, 0.5f), others = {1, 2, 3};
  std::vector<int32_t> want;
  Sampler one(plain());
  for (int i = 0; i < 20; ++i) want.push_back(one.choose(logits, {}, 0).token);

  Sampler two(plain());  // what was drawn before makes no difference, nor how
  for (int i = 0; i < 10; ++i) two.choose(others, {}, 3);
  SamplingConfig greedy = plain();
  greedy.temp = 0;
  Sampler three(greedy);
  for (int i = 0; i < 10; ++i) three.choose(logits, {}, 0);
  EXPECT_EQ(three.progress().draws, 10u);
  Sampler four(plain(), three.progress());
  for (size_t i = 10; i < 20; ++i) {
    EXPECT_EQ(two.choose(logits, {}, 0).token, want[i]);
    EXPECT_EQ(four.choose(logits, {}, 0).token, want[i]);
  }

  SamplingConfig other = plain();
  other.seed = 1;
  Sampler five(other);
  std::vector<int32_t> found;
  for (int i = 0; i < 20; ++i) found.push_back(five.choose(logits, {}, 0).token);
  EXPECT_NE(found, want);
}

TEST(Sampler, LogProbabilities) {
  const std::vector<double> p = {0.05, 0.4, 0.1, 0.25, 0.2};
  SamplingConfig config;
  config.temp = 0;
  const SampledToken choice = Sampler(config).choose(logs(p), {}, 2);
  EXPECT_EQ(choice.token, 1);
  EXPECT_NEAR(choice.logprob, std::log(0.4), 1e-6);
  EXPECT_NEAR(choice.confidence, 0.4, 1e-6);
  ASSERT_EQ(choice.top.size(), 2u);
  EXPECT_EQ(choice.top[0].first, 1);
  EXPECT_EQ(choice.top[0].second, choice.logprob);
  EXPECT_EQ(choice.top[1].first, 3);
  EXPECT_NEAR(choice.top[1].second, std::log(0.25), 1e-6);
  EXPECT_TRUE(Sampler(config).choose(logs(p), {}, 0).top.empty());
  const SampledToken all = Sampler(config).choose(std::vector<float>{1, 1, 2}, {}, 100);
  ASSERT_EQ(all.top.size(), 3u);
  EXPECT_EQ(all.top[1].first, 0);
  EXPECT_EQ(all.top[2].first, 1);
}

// Logits of any size keep their differences, and what is nearly certain its distance from 0.
TEST(Sampler, LogProbabilitiesOfLargeLogits) {
  SamplingConfig config;
  config.temp = 0;
  for (const float size : {0.0f, 1e4f, -1e8f, 1e20f, -1e20f, 3e38f, -3e38f}) {
    const std::vector<float> equal(59, size);
    const SampledToken choice = Sampler(config).choose(equal, {}, 59);
    EXPECT_FLOAT_EQ(choice.logprob, -std::log(59.0f)) << size;  // -4.08
    EXPECT_FLOAT_EQ(choice.confidence, 1 / 59.0f) << size;
    for (const auto& [id, logprob] : choice.top) EXPECT_FLOAT_EQ(logprob, -std::log(59.0f)) << id;
  }
  const float next = std::nextafter(1e8f, 2e8f);  // 8 more
  const SampledToken close = Sampler(config).choose(std::vector<float>{1e8f, next}, {}, 2);
  EXPECT_FLOAT_EQ(close.logprob, -std::log1p(std::exp(-8.0f)));
  EXPECT_FLOAT_EQ(close.top[1].second, -8 - std::log1p(std::exp(-8.0f)));
  const SampledToken sure = Sampler(config).choose(std::vector<float>{0, -60}, {}, 2);
  EXPECT_FLOAT_EQ(sure.logprob, -std::exp(-60.0f));
  const SampledToken far = Sampler(config).choose(std::vector<float>{3e38f, -3e38f}, {}, 2);
  EXPECT_EQ(far.logprob, 0);
  EXPECT_EQ(far.top[1].second, -kInfinity);  // -6e38 is no float
}

TEST(Sampler, SomeTokensAreNeverDrawn) {
  // The likeliest two, one in the middle, and one that is not in the vocabulary.
  const std::vector<float> logits = {1, 9, 2, 0, 9.5f, 1};
  const std::vector<int32_t> never = {4, 1, 3, 100};
  std::vector<SamplingConfig> configs(8, plain());
  configs[1].temp = 0;
  configs[2].top_k = 1;
  configs[3].top_p = 0;
  configs[4].min_p = 1;
  configs[5].temp = 1e6;
  configs[6].repeat_penalty = 100;
  configs[7] = SamplingConfig();
  for (const SamplingConfig& config : configs) {
    Sampler sampler(config, {}, never);
    for (int i = 0; i < 300; ++i) {
      const SampledToken choice = sampler.choose(logits, std::vector<int32_t>{0, 2, 5}, 6);
      EXPECT_TRUE(choice.token == 0 || choice.token == 2 || choice.token == 5) << choice.token;
      ASSERT_EQ(choice.top.size(), 3u);
      EXPECT_EQ(choice.top[0].first, 2);
      EXPECT_EQ(choice.top[1].first, 0);
      EXPECT_EQ(choice.top[2].first, 5);
      // Probabilities are the model's.
      double sum = 0;
      for (const float logit : logits) sum += std::exp(logit - 2.0);
      EXPECT_FLOAT_EQ(choice.top[0].second, static_cast<float>(-std::log(sum)));
      EXPECT_FLOAT_EQ(choice.confidence, static_cast<float>(1 / sum));
    }
  }
  const auto error = [](const std::vector<float>& of, const std::vector<int32_t>& without) {
    return error_of([&] { Sampler(SamplingConfig(), {}, without).choose(of, {}, 0); });
  };
  EXPECT_EQ(error({1, 2}, {0, 1}), "sampling: every token of the vocabulary is ruled out");
  EXPECT_EQ(error({1, -kInfinity}, {0}),
            "the model's logits of all tokens that may be drawn are -inf: expected a number");
}

// What it would choose so many draws from now, without drawing.
TEST(Sampler, GuessesWhatItWillChoose) {
  std::vector<SamplingConfig> configs(7, plain());
  configs[1].temp = 0;
  configs[2] = SamplingConfig();
  configs[3].repeat_penalty = 1.7;
  configs[3].repeat_last_n = 3;
  configs[4].top_p = 0.7;
  configs[5].min_p = 0.3;
  configs[6].temp = 0;
  configs[6].repeat_penalty = 0.5;
  Random random(3);
  for (const SamplingConfig& config : configs) {
    const std::vector<int32_t> never = {2, 30};
    Sampler sampler(config, {.draws = 11}, never);
    for (int round = 0; round < 100; ++round) {
      std::vector<std::vector<float>> logits(4, std::vector<float>(12));
      for (auto& row : logits)
        for (float& logit : row) logit = static_cast<float>(2 * random.normal());
      std::vector<int32_t> recent;
      for (int i = 0; i < 6; ++i) recent.push_back(static_cast<int32_t>(random.below(12)));
      std::vector<GuessedToken> guesses;
      for (size_t i = 0; i < logits.size(); ++i)
        guesses.push_back(*sampler.guess(logits[i], recent, i));
      for (size_t i = 0; i < logits.size(); ++i) {
        const SampledToken choice = sampler.choose(logits[i], recent, 0);
        EXPECT_EQ(guesses[i].token, choice.token);
        EXPECT_NEAR(guesses[i].probability, std::exp(choice.logprob), 1e-5);
      }
    }
  }
  // Where there is nothing to choose it guesses nothing.
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<int32_t> never = {1};
  Sampler sampler(plain(), {}, never);
  for (const std::vector<float>& logits :
       {std::vector<float>{nan, 1, 2}, {1, kInfinity}, {-kInfinity, -kInfinity}, {-kInfinity, 5}})
    EXPECT_FALSE(sampler.guess(logits, {}, 0));
  EXPECT_EQ(sampler.guess(std::vector<float>{-kInfinity, 5, -3e38f}, {}, 0)->token, 2);
}

TEST(Sampler, APenaltyLeavesNumbers) {
  SamplingConfig config = plain();
  config.repeat_penalty = 100;
  config.top_k = 1;
  EXPECT_EQ(drawn(config, {-3e38f, -3e38f, -kInfinity}, {0, 1}), std::set<size_t>{0});
  config.top_k = 0;  // two that are equally unlikely
  EXPECT_EQ(drawn(config, {-3e38f, -3e38f, -kInfinity}, {0, 1}), (std::set<size_t>{0, 1}));
}

TEST(Sampler, UnsureAfterSoManyInARow) {
  SamplingConfig config;
  config.min_confidence = 0.5;
  config.patience_tokens = 3;
  const std::vector<float> sure = {5, 0, 0}, unsure = {0, 0, 0};
  Sampler sampler(config);
  std::vector<bool> found;
  for (const auto* logits : {&unsure, &unsure, &sure, &unsure, &unsure, &unsure, &unsure, &sure}) {
    sampler.choose(*logits, {}, 0);
    found.push_back(sampler.low_confidence());
  }
  EXPECT_EQ(found, (std::vector<bool>{false, false, false, false, false, true, true, false}));

  config.min_confidence = 0;
  config.patience_tokens = 1;
  Sampler never(config);
  never.choose(unsure, {}, 0);
  EXPECT_FALSE(never.low_confidence());
}

// Below 0.15, three in a row: no more and no less than the two settings say.
TEST(Sampler, StopWhenUnsureIsOneFlagForTheTwo) {
  SamplingConfig two, one;
  two.min_confidence = 0.15;
  two.patience_tokens = 3;
  one.stop_when_unsure = true;
  // Of n equal logits the likeliest has 1 / n: 1/6 is above 0.15, 1/7 below.
  const std::vector<float> sure(6, 0.0f), unsure(7, 0.0f);
  Sampler by_two(two), by_one(one);
  std::vector<bool> found;
  for (const auto* logits : {&unsure, &unsure, &sure, &unsure, &unsure, &unsure, &sure}) {
    by_two.choose(*logits, {}, 0);
    by_one.choose(*logits, {}, 0);
    EXPECT_EQ(by_one.low_confidence(), by_two.low_confidence());
    found.push_back(by_one.low_confidence());
  }
  EXPECT_EQ(found, (std::vector<bool>{false, false, false, false, false, true, false}));
}

TEST(Sampler, RefusesLogitsThatAreNoNumbers) {
  const auto choose = [](const std::vector<float>& logits) {
    return error_of([&] { Sampler(SamplingConfig()).choose(logits, {}, 0); });
  };
  EXPECT_EQ(choose({0, std::numeric_limits<float>::quiet_NaN()}),
            "the model's logit of token 1 is nan: expected a number");
  EXPECT_EQ(choose({kInfinity, 0}), "the model's logit of token 0 is inf: expected a number");
  EXPECT_EQ(choose({-kInfinity, -kInfinity}), "the model's logits are all -inf: expected a number");
  EXPECT_EQ(choose({-kInfinity, 0}), "(no error)");
}

TEST(Sampler, RefusesSettingsOutOfRange) {
  const auto refused = [](auto set) {
    SamplingConfig config;
    set(config);
    return error_of([&] { Sampler{config}; });
  };
  using C = SamplingConfig;
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(refused([](C& c) { c.temp = -1; }), "temp: expected 0 to 1e6, found -1");
  EXPECT_EQ(refused([&](C& c) { c.temp = nan; }), "temp: expected 0 to 1e6, found nan");
  EXPECT_EQ(refused([](C& c) { c.top_k = -1; }), "top_k: expected 0 or more, found -1");
  EXPECT_EQ(refused([](C& c) { c.top_p = 1.5; }), "top_p: expected 0 to 1, found 1.5");
  EXPECT_EQ(refused([&](C& c) { c.min_p = nan; }), "min_p: expected 0 to 1, found nan");
  EXPECT_EQ(refused([](C& c) { c.repeat_penalty = 0; }),
            "repeat_penalty: expected 0.01 to 100, found 0");
  EXPECT_EQ(refused([](C& c) { c.repeat_last_n = -2; }),
            "repeat_last_n: expected -1 or more, found -2");
  EXPECT_EQ(refused([](C& c) { c.min_confidence = -0.1; }),
            "min_confidence: expected 0 to 1, found -0.1");
  EXPECT_EQ(refused([](C& c) { c.patience_tokens = 0; }),
            "patience_tokens: expected 1 or more, found 0");
  EXPECT_EQ(refused([](C& c) {
              c.stop_when_unsure = true;
              c.min_confidence = 0.2;
            }),
            "stop_when_unsure: expected no min_confidence with it, found 0.2");
}

}  // namespace
}  // namespace refrain
