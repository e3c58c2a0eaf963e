// Beam search: looks for the continuations of a prompt that the model finds most likely.
//
// The beam is the `beam_size` likeliest sequences of one length. Each step continues every one of
// them by every token and keeps the likeliest. A sequence that ends keeps its place, so the others
// have one place less. The search wants the highest
//
//   score = log p(tokens, end token included | prompt) / (number of those tokens)^length_penalty
//
// With 0 short texts win; with 1 it is the mean log probability of a token. The search ends when
// all places are taken by ended sequences, when the running ones cannot reach the n_best found even
// if every next token were certain, or at the limit of new tokens, where running sequences count as
// they are. A beam of 1 is greedy decoding.
//
// The prompt is read once, and its state is copied for each sequence that needs its own. The result
// of a prompt does not depend on the others or on threads. Of equal scores the one whose beginning
// ranked higher comes first, then the likelier token, then the lower id.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "refrain/generate/generator.h"
#include "refrain/layers/execution_context.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"

namespace refrain {

struct BeamConfig {
  int64_t beam_size = 4;
  double length_penalty = 1.0;
  int64_t n_best = 1;  // sequences wanted, at most beam_size

  template <class V>
  void visit(V&& v) {
    v("beam_size", beam_size, "sequences followed at a time; 1 = greedy");
    v("length_penalty", length_penalty,
      "score = log probability / tokens^X; 0 favours short texts, more than 1 long ones");
  }
  void check() const;  // an Error names the setting that is out of range
};

struct BeamRequest {
  std::vector<int32_t> prompt;  // at least one token
  int64_t max_new_tokens = 0;   // at least 1
};

struct Hypothesis {
  std::vector<int32_t> tokens;  // without the end token
  double logprob = 0;           // with it
  double score = 0;
  StopReason reason = StopReason::kEndToken;  // or kLength
};

// For one thread at a time.
class BeamSearch {
 public:
  // The model must outlive this. Each of `end_tokens` ends a sequence. Tokens of `never` are not
  // chosen.
  BeamSearch(const LanguageModel& model, const BeamConfig& config, std::vector<int32_t> end_tokens,
             std::span<const int32_t> never = {});

  // For every request its n_best sequences, or as many as there are, the best first. Requests enter
  // in order. As many run together as have states of `max_tokens` tokens, a whole beam for each,
  // but always one.
  std::vector<std::vector<Hypothesis>> search(std::span<const BeamRequest> requests,
                                              int64_t max_tokens);

 private:
  struct Continuation;
  struct LiveHypothesis;
  struct ActiveRequest;
  struct Piece;

  void step(std::span<ActiveRequest* const> searches);
  void read(std::span<const Piece> pieces);
  std::vector<Continuation> best_continuations(std::span<const float> logits, size_t n) const;
  void choose(ActiveRequest& search) const;
  bool is_decided(const ActiveRequest& search, std::span<const LiveHypothesis> live) const;
  bool ends(int32_t token) const;
  double score(double logprob, size_t tokens) const;

  const LanguageModel& model_;
  BeamConfig config_;
  std::vector<int32_t> end_tokens_;
  std::vector<int32_t> allowed_;  // tokens, ascending
  Workspace workspace_;
  RaggedBatchBuilder builder_;
  std::vector<float> logits_;
};

}  // namespace refrain
