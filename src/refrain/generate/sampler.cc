#include "refrain/generate/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "refrain/base/error.h"
#include "refrain/kernels/loss/cross_entropy.h"

namespace refrain {
namespace {

constexpr float kLargest = std::numeric_limits<float>::max();

template <class T>
void expect(bool in_range, const char* name, const char* range, T value) {
  if (!in_range) throw_error("{}: expected {}, found {}", name, range, value);
}

// The more likely one first, of equals the lower id: a total order, so that any sort gives the
// same.
bool before(const std::pair<float, int32_t>& a, const std::pair<float, int32_t>& b) {
  return a.first > b.first || (a.first == b.first && a.second < b.second);
}

Random draws_of(const SamplingConfig& config, uint64_t position) {
  return Random(mix_key(static_cast<uint64_t>(config.seed), "sample"), position);
}

}  // namespace

LogSoftmax::LogSoftmax(std::span<const float> logits) {
  const kernels::LargestLogit largest = kernels::largest_logit(logits);
  for (size_t i = 0; i < logits.size() && !largest.all_numbers; ++i)
    if (!(logits[i] <= kLargest))
      throw_error("the model's logit of token {} is {}: expected a number", i, logits[i]);
  if (largest.value < -kLargest) throw_error("the model's logits are all -inf: expected a number");
  largest_ = largest.value;
  likeliest_ = static_cast<size_t>(largest.index);
  log_sum_ = std::log1p(kernels::exp_sum(logits.first(likeliest_), largest.value) +
                        kernels::exp_sum(logits.subspan(likeliest_ + 1), largest.value));
}

void SamplingConfig::check() const {
  expect(temp >= 0 && temp <= 1e6, "temp", "0 to 1e6", temp);
  expect(top_k >= 0, "top_k", "0 or more", top_k);
  expect(top_p >= 0 && top_p <= 1, "top_p", "0 to 1", top_p);
  expect(min_p >= 0 && min_p <= 1, "min_p", "0 to 1", min_p);
  expect(repeat_penalty >= 0.01 && repeat_penalty <= 100, "repeat_penalty", "0.01 to 100",
         repeat_penalty);
  expect(repeat_last_n >= -1, "repeat_last_n", "-1 or more", repeat_last_n);
  expect(min_confidence >= 0 && min_confidence <= 1, "min_confidence", "0 to 1", min_confidence);
  expect(patience_tokens >= 1, "patience_tokens", "1 or more", patience_tokens);
  expect(!stop_when_unsure || min_confidence == 0, "stop_when_unsure", "no min_confidence with it",
         min_confidence);
}

Sampler::Sampler(const SamplingConfig& config, SamplerProgress from, std::span<const int32_t> never)
    : config_(config),
      random_(draws_of(config, from.draws)),
      low_confidence_streak_(from.low_confidence_streak) {
  config_.check();
  for (const int32_t token : never) {
    REFRAIN_CHECK(token >= 0);
    const auto id = static_cast<size_t>(token);
    if (id >= never_.size()) never_.resize(id + 1);
    never_[id] = true;
  }
}

SampledToken Sampler::choose(std::span<const float> logits, std::span<const int32_t> recent,
                             int64_t top_logprobs) {
  REFRAIN_CHECK(!logits.empty());
  const LogSoftmax log_p(logits);
  const float largest = largest_drawn(logits, log_p.likeliest());
  collect(logits, recent);
  if (candidates_.empty()) throw_error("sampling: every token of the vocabulary is ruled out");
  if (largest < -kLargest)
    throw_error("the model's logits of all tokens that may be drawn are -inf: expected a number");

  SampledToken choice{};
  choice.token = draw(random_.uniform());
  choice.logprob = static_cast<float>(log_p(logits[static_cast<size_t>(choice.token)]));
  choice.confidence = static_cast<float>(std::exp(log_p(largest)));
  if (top_logprobs > 0) {
    choice.top = most_likely(logits, top_logprobs);
    for (auto& [token, value] : choice.top) value = static_cast<float>(log_p(value));
  }
  low_confidence_streak_ =
      choice.confidence < config_.least_confidence() ? low_confidence_streak_ + 1 : 0;
  return choice;
}

std::optional<GuessedToken> Sampler::guess(std::span<const float> logits,
                                           std::span<const int32_t> recent, uint64_t ahead) {
  const auto [largest, likeliest, all_numbers] = kernels::largest_logit(logits);
  if (!all_numbers || logits.empty()) return {};
  if (!(largest_drawn(logits, static_cast<size_t>(likeliest)) >= -kLargest)) return {};
  collect(logits, recent);
  const int32_t token = draw(draws_of(config_, random_.position() + ahead).uniform());

  // Where all is small beside the largest, its exponential adds nothing worth the time.
  constexpr float kSmall = -16;
  float sum = 0;
  for (const float logit : logits)
    if (logit - largest > kSmall) sum += std::exp(logit - largest);
  return GuessedToken{token, std::exp(logits[static_cast<size_t>(token)] - largest) / sum};
}

float Sampler::largest_drawn(std::span<const float> logits, size_t likeliest) const {
  if (may_draw(likeliest)) return logits[likeliest];
  float largest = -std::numeric_limits<float>::infinity();
  for (size_t id = 0; id < logits.size(); ++id)
    if (may_draw(id)) largest = std::max(largest, logits[id]);
  return largest;
}

void Sampler::collect(std::span<const float> logits, std::span<const int32_t> recent) {
  penalise(logits, recent);
  candidates_.clear();
  const auto most = static_cast<size_t>(config_.temp == 0 ? 1 : config_.top_k);
  if (most > 0 && most < logits.size()) return collect_most_likely(logits, most);
  auto changed = penalised_.begin();
  for (size_t i = 0; i < logits.size(); ++i) {
    const auto id = static_cast<int32_t>(i);
    const bool is_changed = changed != penalised_.end() && changed->second == id;
    const float logit = is_changed ? (changed++)->first : logits[i];
    if (may_draw(i)) candidates_.emplace_back(logit, id);
  }
}

// One pass, in which few tokens are more than a comparison with the least of the best so far.
void Sampler::collect_most_likely(std::span<const float> logits, size_t most) {
  constexpr size_t kSpare = 256;
  const auto best = [&] { return candidates_.begin() + static_cast<std::ptrdiff_t>(most); };
  const auto keep_best = [&] {
    if (candidates_.size() <= most) return;
    std::nth_element(candidates_.begin(), best() - 1, candidates_.end(), before);
    candidates_.erase(best(), candidates_.end());
  };
  const auto is_penalised = [&](int32_t id) {
    const auto at = std::lower_bound(penalised_.begin(), penalised_.end(), id,
                                     [](const Candidate& c, int32_t i) { return c.second < i; });
    return at != penalised_.end() && at->second == id;
  };
  bool is_full = false;  // then what is not above `least` comes behind `most` others
  float least = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (is_full && !(logits[i] > least)) continue;
    const auto id = static_cast<int32_t>(i);
    if (!may_draw(i) || is_penalised(id)) continue;
    candidates_.emplace_back(logits[i], id);
    if (candidates_.size() < most + kSpare) continue;
    keep_best();
    is_full = true;
    least = candidates_.back().first;
  }
  for (const Candidate& c : penalised_)
    if (may_draw(static_cast<size_t>(c.second))) candidates_.push_back(c);
  keep_best();
  std::sort(candidates_.begin(), candidates_.end(), before);
}

// With their logits.
std::vector<std::pair<int32_t, float>> Sampler::most_likely(std::span<const float> logits,
                                                            int64_t n) const {
  std::vector<Candidate> all;
  for (size_t id = 0; id < logits.size(); ++id)
    if (may_draw(id)) all.emplace_back(logits[id], static_cast<int32_t>(id));
  const auto end = all.begin() + std::min(n, std::ssize(all));
  std::partial_sort(all.begin(), end, all.end(), before);
  std::vector<std::pair<int32_t, float>> top;
  for (auto c = all.begin(); c != end; ++c) top.emplace_back(c->second, c->first);
  return top;
}

// Once, however often a token was there.
void Sampler::penalise(std::span<const float> logits, std::span<const int32_t> recent) {
  penalised_.clear();
  if (config_.repeat_penalty == 1) return;
  if (config_.repeat_last_n >= 0)
    recent = recent.last(std::min(recent.size(), static_cast<size_t>(config_.repeat_last_n)));
  const auto penalty = static_cast<float>(config_.repeat_penalty);
  for (const int32_t token : recent) {
    const auto id = static_cast<size_t>(token);
    REFRAIN_CHECK(id < logits.size());
    const float logit = logits[id];
    if (logit < -kLargest) continue;
    penalised_.emplace_back(
        std::clamp(logit > 0 ? logit / penalty : logit * penalty, -kLargest, kLargest), token);
  }
  const auto by_id = [](const Candidate& c) { return c.second; };
  std::ranges::sort(penalised_, {}, by_id);
  const auto again = std::ranges::unique(penalised_, {}, by_id);
  penalised_.erase(again.begin(), again.end());
}

int32_t Sampler::draw(double uniform) {
  const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), before);
  if (config_.temp == 0) return best.second;
  const auto relative = [&](const Candidate& c) {
    return static_cast<double>(c.first) - static_cast<double>(best.first);
  };

  double total = 0;  // what top-p's share is of
  for (const Candidate& c : candidates_) total += std::exp(relative(c));
  // Top-p and min-p each keep a beginning of the sorted candidates, so their order is free: min-p
  // first leaves less to sort.
  const double least = std::log(config_.min_p);
  std::erase_if(candidates_, [&](const Candidate& c) { return relative(c) < least; });
  if (config_.top_p < 1) {
    if (!std::is_sorted(candidates_.begin(), candidates_.end(), before))
      std::sort(candidates_.begin(), candidates_.end(), before);
    double sum = 0;
    size_t n = 0;
    do sum += std::exp(relative(candidates_[n++]));
    while (n < candidates_.size() && sum < config_.top_p * total);
    candidates_.resize(n);
  }

  weights_.clear();
  for (const Candidate& c : candidates_) weights_.push_back(std::exp(relative(c) / config_.temp));
  double left = uniform * std::accumulate(weights_.begin(), weights_.end(), 0.0);
  for (size_t i = 0; i < weights_.size(); ++i) {
    if (left < weights_[i]) return candidates_[i].second;
    left -= weights_[i];
  }
  return best.second;  // rounding left a little behind the last one
}

}  // namespace refrain
