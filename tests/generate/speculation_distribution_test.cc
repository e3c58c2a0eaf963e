// Sampled text with a draft has the probabilities of the model. That it has the same bytes as
// without one (speculation_test.cc) says as much; here nothing of the sampler is believed.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "generate/near_model.h"

namespace refrain {
namespace {

class Distribution : public OneThread {
 protected:
  static constexpr int64_t kTexts = 8000;
  static constexpr size_t kV = 20;

  // Pairs of tokens against their probabilities; pairs that are rare are one cell.
  double chi_square(const std::vector<std::vector<int32_t>>& pairs) const {
    std::vector<double> found(kV * kV);
    for (const auto& pair : pairs) {
      const auto cell = static_cast<size_t>(pair[0]) * kV + static_cast<size_t>(pair[1]);
      found[cell] += 1;
    }
    double sum = 0, rest_wanted = 0, rest_found = 0;
    freedom_ = 0;
    const auto add = [&](double got, double want) {
      sum += (got - want) * (got - want) / want;
      ++freedom_;
    };
    for (size_t cell = 0; cell < found.size(); ++cell) {
      const double want = probability_[cell] * static_cast<double>(pairs.size());
      if (want >= 5) {
        add(found[cell], want);
      } else {
        rest_wanted += want;
        rest_found += found[cell];
      }
    }
    if (rest_wanted >= 5) add(rest_found, rest_wanted);
    return sum;
  }
  // Mean freedom - 1, variance twice that: five deviations.
  double bound() const {
    const double mean = static_cast<double>(freedom_) - 1;
    return mean + 5 * std::sqrt(2 * mean);
  }

  static std::vector<double> softmax(const std::vector<float>& logits) {
    const float largest = *std::max_element(logits.begin(), logits.end());
    std::vector<double> p;
    double sum = 0;
    for (const float logit : logits) sum += p.emplace_back(std::exp(logit - largest));
    for (double& x : p) x /= sum;
    return p;
  }

  // From the whole form, without a sampler.
  void set_probabilities(const LanguageModel& model, std::vector<int32_t> text) {
    const auto first = softmax(last_logits(model, text));
    probability_.clear();
    text.push_back(0);
    for (size_t a = 0; a < kV; ++a) {
      text.back() = static_cast<int32_t>(a);
      for (const double p : softmax(last_logits(model, text))) probability_.push_back(first[a] * p);
    }
  }

  static GenerationRequest plain(std::vector<int32_t> prompt, int64_t n, int64_t seed) {
    GenerationRequest request = request_of(std::move(prompt), n, 1);
    request.sampling.top_k = 0;
    request.sampling.top_p = 1;
    request.sampling.seed = seed;
    return request;
  }

  std::vector<double> probability_;  // of pairs
  mutable int64_t freedom_ = 0;
};

TEST_F(Distribution, IsTheModelsAndAWrongRuleIsFound) {
  TinyModel model;
  NearModel near("attention", 0.3);
  // Several tokens are likely, so that a draft is wrong often enough.
  for (LanguageModel* m : std::initializer_list<LanguageModel*>{&model, &near})
    for (float& w : m->parameters().weights()) w *= 0.8f;

  // The first new token is chosen without a guess, the second and third with one each. Of texts
  // whose first is the likeliest one, they are counted.
  const std::vector<int32_t> prompt = {4, 9, 2};
  const std::vector<double> p = softmax(last_logits(model, prompt));
  const auto first = static_cast<int32_t>(std::max_element(p.begin(), p.end()) - p.begin());
  std::vector<int32_t> text = prompt;
  text.push_back(first);
  set_probabilities(model, text);

  std::vector<std::vector<int32_t>> with_draft;
  int64_t proposed = 0, accepted = 0;
  Generator generator(model, &near);
  for (int64_t seed = 0; std::ssize(with_draft) < kTexts; ++seed) {
    const GenerationResult result = generator.generate(plain(prompt, 5, seed));
    if (result.choices[0].token != first) continue;
    with_draft.push_back({result.choices[1].token, result.choices[2].token});
    proposed += result.draft_proposed;
    accepted += result.draft_accepted;
  }
  EXPECT_GT(accepted, proposed / 5) << "a dull test";
  EXPECT_LT(accepted, proposed * 9 / 10) << "a dull test";
  const double right = chi_square(with_draft);
  EXPECT_GT(freedom_, 20) << "a dull test";
  EXPECT_LT(right, bound());

  // The rule of the papers, in which a guess is drawn on its own and taken with probability
  // min(1, p / q), without its other half: what is drawn after a refusal is drawn from p, not from
  // what p has more than q.
  std::vector<std::vector<int32_t>> wrong;
  Random random(17);
  const auto draw = [&](const std::vector<double>& of) {
    double left = random.uniform();
    size_t i = 0;
    while (i + 1 < of.size() && left >= of[i]) left -= of[i++];
    return i;
  };
  std::map<std::vector<int32_t>, std::pair<std::vector<double>, std::vector<double>>> known;
  for (int64_t i = 0; i < kTexts; ++i) {
    std::vector<int32_t> now = text;
    for (int place = 0; place < 2; ++place) {
      auto& [large, small] = known[now];
      if (large.empty()) {
        large = softmax(last_logits(model, now));
        small = softmax(last_logits(near, now));
      }
      size_t token = draw(small);
      if (random.uniform() >= std::min(1.0, large[token] / small[token])) token = draw(large);
      now.push_back(static_cast<int32_t>(token));
    }
    wrong.push_back({now.end()[-2], now.end()[-1]});
  }
  EXPECT_GT(chi_square(wrong), bound()) << "the bound finds no wrong rule";
}

}  // namespace
}  // namespace refrain
