// Chooses the next token from logits, and says when to stop.
//
// The steps are, in llama.cpp's order: repetition penalty, top-k, top-p, min-p, temperature, draw.
// Confidence is the probability that the unmodified model gives its most likely token. Generation
// stops early when it is below min_confidence for patience_tokens tokens in a row. One setting,
// stop_when_unsure, stands for the two: below 0.15 for 3 tokens in a row.
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "refrain/base/random.h"

namespace refrain {

struct SamplingConfig {
  double temp = 0.8;
  int64_t top_k = 40;
  double top_p = 0.95;
  double min_p = 0.05;
  double repeat_penalty = 1.0;
  int64_t repeat_last_n = 64;
  double min_confidence = 0;
  int64_t patience_tokens = 3;
  bool stop_when_unsure = false;
  int64_t seed = 0;

  template <class V>
  void visit(V&& v) {
    v("temp", temp, "temperature; 0 = always the most likely token");
    v("top_k", top_k, "draw among the k most likely tokens; 0 = all");
    v("top_p", top_p, "draw among the fewest tokens whose probabilities reach p; 1 = all");
    v("min_p", min_p, "leave out tokens below this share of the most likely one's probability");
    v("repeat_penalty", repeat_penalty, "divides the logits of recent tokens; 1 = off");
    v("repeat_last_n", repeat_last_n, "how many tokens count as recent; -1 = all");
    v("min_confidence", min_confidence,
      "stop when the top probability stays below this; 0 = never");
    v("patience_tokens", patience_tokens, "for so many tokens in a row");
    v("stop_when_unsure", stop_when_unsure,
      "stop after 3 tokens in a row with a top probability below 0.15, instead of "
      "min_confidence and patience_tokens");
    v("seed", seed, "of the draws");
  }
  void check() const;  // an Error names the setting that is out of range

  double least_confidence() const { return stop_when_unsure ? 0.15 : min_confidence; }
  int64_t patience() const { return stop_when_unsure ? 3 : patience_tokens; }
};

// Turns logits into log probabilities:
//
//   log p = (logit - largest) - log(sum of exp(logit - largest))
//
// in this order, so that logits of any size keep their differences. The logarithm is log1p of the
// sum without the largest, so that the result of an almost certain token is not rounded to 0.
class LogSoftmax {
 public:
  // An Error if a logit is NaN or infinitely large, or all are infinitely small.
  explicit LogSoftmax(std::span<const float> logits);
  double operator()(float logit) const { return (logit - largest_) - log_sum_; }
  size_t likeliest() const { return likeliest_; }  // of equals the first

 private:
  double largest_ = 0, log_sum_ = 0;  // of exp(logit - largest)
  size_t likeliest_ = 0;
};

struct SampledToken {
  int32_t token;
  float logprob;                               // natural log of the unmodified model's probability
  float confidence;                            // likewise of the likeliest that may be drawn
  std::vector<std::pair<int32_t, float>> top;  // the likeliest of these, if asked for
};

// What a sampler guesses that it will choose, and the model's probability of that.
struct GuessedToken {
  int32_t token;
  float probability;  // of the unmodified model
};

// The progress of a sampler. Another sampler with the same settings continues from here.
struct SamplerProgress {
  uint64_t draws = 0;                 // one a token, greedy or not
  int64_t low_confidence_streak = 0;  // tokens of too low confidence, up to the last one
};

// The draws of one sequence. Draw i is a function of (seed, i, logits) and does not depend on other
// sequences. Of equally likely tokens the one with the lower id comes first.
class Sampler {
 public:
  // Checks the config. Tokens of `never` are not drawn and not reported as likely. They keep their
  // share of the probabilities, which are the model's.
  explicit Sampler(const SamplingConfig& config, SamplerProgress from = {},
                   std::span<const int32_t> never = {});

  // `recent`: the tokens so far, for the repetition penalty. `logits` is not changed. It is an
  // Error if one of them is NaN or infinitely large, or if all that may be drawn are infinitely
  // small. `top_logprobs` may exceed the vocabulary.
  SampledToken choose(std::span<const float> logits, std::span<const int32_t> recent,
                      int64_t top_logprobs);

  // The token that choose() gives `ahead` draws from now for these logits and tokens. It draws
  // nothing. None if choose() would throw.
  std::optional<GuessedToken> guess(std::span<const float> logits, std::span<const int32_t> recent,
                                    uint64_t ahead);

  // True once confidence has been too low for too long.
  bool low_confidence() const { return low_confidence_streak_ >= config_.patience(); }
  SamplerProgress progress() const { return {random_.position(), low_confidence_streak_}; }

 private:
  using Candidate = std::pair<float, int32_t>;  // logit and id

  bool may_draw(size_t id) const { return id >= never_.size() || !never_[id]; }
  std::vector<std::pair<int32_t, float>> most_likely(std::span<const float> logits,
                                                     int64_t n) const;
  // Fills candidates_ with what may be drawn: all of it, or the most likely ones that the settings
  // let pass, sorted.
  void collect(std::span<const float> logits, std::span<const int32_t> recent);
  void collect_most_likely(std::span<const float> logits, size_t most);
  // The unpenalised logit of the likeliest token that may be drawn; -infinity if there is none.
  float largest_drawn(std::span<const float> logits, size_t likeliest) const;
  void penalise(std::span<const float> logits, std::span<const int32_t> recent);
  int32_t draw(double uniform);

  SamplingConfig config_;
  Random random_;
  int64_t low_confidence_streak_;
  std::vector<bool> never_;                        // by id, up to the last one
  std::vector<Candidate> candidates_, penalised_;  // the latter by id
  std::vector<double> weights_;
};

}  // namespace refrain
