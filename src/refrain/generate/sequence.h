// A text that is being generated: its tokens, the model's state after those it has read, and the
// progress of its sampler. This is all that is needed to continue later as if there had been no
// pause.
//
// A state that grows with every token (a key/value cache) may hold a limited number, the context.
// Its content is a function of the tokens alone: when it is full, a new state reads the later half
// again, and so on. States that do not grow have no such limit. The tokens that they have read need
// not be stored, so such a sequence need not grow either.
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
// 0; kMaxTokens if states do not grow. An Error if its learned positions are fewer.
int64_t context_limit(const LanguageModel& model, int64_t context);

class Sequence {
 public:
  explicit Sequence(const LanguageModel& model);  // which must outlive this

  // Everything about a sequence except its state.
  struct Progress {
    std::vector<int32_t> tokens;  // all but the forgotten
    int64_t forgotten = 0;        // tokens before them
    int64_t begin = 0;            // where the state begins
    int64_t position = 0;         // tokens the state has read
    SamplerProgress sampler{};
  };
  // Continues another sequence; the caller fills in the state.
  Sequence(const LanguageModel& model, Progress progress);

  const LanguageModel& model() const { return *model_; }

  // The last tokens, those that have not been dropped.
  std::span<const int32_t> tokens() const { return tokens_; }
  int64_t forgotten() const { return forgotten_; }
  int64_t size() const { return forgotten_ + static_cast<int64_t>(tokens_.size()); }
  void append(int32_t token) { tokens_.push_back(token); }
  void append(std::span<const int32_t> tokens) {
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }

  // Makes room for a text of `tokens` tokens of which the state may hold `limit` (at least 1).
  void reserve(int64_t tokens, int64_t limit);

  // The tokens that the state has not read; state().position() tokens precede them in the state.
  std::span<const int32_t> unread() const {
    return tokens().subspan(static_cast<size_t>(begin_ + state_.position() - forgotten_));
  }
  // The same, after dropping the state's earlier half if it would become too long.
  std::span<const int32_t> pending();
  void advance(int64_t tokens) {
    state_.advance(tokens);
    drop_trimmed();
  }
  // Drops all tokens but the last one and the last `keep`, as soon as they have been read. Does
  // nothing if tokens may have to be read again.
  void trim(int64_t keep);
  // Drops the tokens behind the first `size`. The state must not have read them.
  void truncate(int64_t size);

  int64_t begin() const { return begin_; }  // the first token of the state
  SequenceState& state() { return state_; }

  SamplerProgress progress;

 private:
  void drop_trimmed();

  const LanguageModel* model_;
  std::vector<int32_t> tokens_;
  int64_t forgotten_ = 0, begin_ = 0, limit_ = kMaxTokens;
  int64_t trimmed_ = 0;  // the first tokens, which are to be forgotten once they are read
  SequenceState state_;
};

}  // namespace refrain
