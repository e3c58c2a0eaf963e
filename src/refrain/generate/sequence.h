// A text in the making: its tokens, the model's state after those it has read, and where its
// sampler stands. All that is needed to go on later as if there had been no pause.
//
// A state that grows with every token (a key/value cache) may hold so many, the context. What it
// holds is a function of the tokens alone: when it is full, a new state reads the later half anew,
// and so on. States that do not grow have no such limit; what they have read need not be kept, and
// so neither need a sequence grow.
#pragma once
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "refrain/generate/sampler.h"
#include "refrain/model/language_model.h"
#include "refrain/model/sequence_state.h"

namespace refrain {

// Positions are int32.
inline constexpr int64_t kMaxTokens = std::numeric_limits<int32_t>::max();

// Tokens that a state of the model may hold: `context`, or what the model was trained on if that is
// 0; kMaxTokens if states do not grow.
int64_t context_limit(const LanguageModel& model, int64_t context);

class Sequence {
 public:
  explicit Sequence(const LanguageModel& model);  // which must outlive this

  // What there is to know of a sequence apart from its state.
  struct Progress {
    std::vector<int32_t> tokens;  // all but the forgotten
    int64_t forgotten = 0;        // tokens before them
    int64_t begin = 0;            // where the state begins
    int64_t position = 0;         // tokens the state has read
    SamplerProgress sampler{};
  };
  // Takes up where another one stopped; the state is to be filled in by the caller.
  Sequence(const LanguageModel& model, Progress progress);

  // The last of them, none of which has been forgotten.
  std::span<const int32_t> tokens() const { return tokens_; }
  int64_t forgotten() const { return forgotten_; }
  int64_t size() const { return forgotten_ + static_cast<int64_t>(tokens_.size()); }
  void append(int32_t token) { tokens_.push_back(token); }
  void append(std::span<const int32_t> tokens) {
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }

  // Makes room for a text of `tokens` tokens of which the state may hold `limit` (at least 1).
  void reserve(int64_t tokens, int64_t limit);

  // What the state has not read, which is preceded in it by state().position() tokens. Drops the
  // state's earlier half first, if it has become too long.
  std::span<const int32_t> pending();
  void advance(int64_t tokens) { state_.advance(tokens); }
  // Tokens that have been read may go, but not the last `keep`. Does nothing where they may have to
  // be read anew.
  void trim(int64_t keep);

  int64_t begin() const { return begin_; }  // the first token of the state
  SequenceState& state() { return state_; }

  SamplerProgress progress;

 private:
  const LanguageModel* model_;
  std::vector<int32_t> tokens_;
  int64_t forgotten_ = 0, begin_ = 0, limit_ = kMaxTokens;
  SequenceState state_;
};

}  // namespace refrain
