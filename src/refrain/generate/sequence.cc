#include "refrain/generate/sequence.h"

#include <algorithm>
#include <utility>

namespace refrain {

int64_t context_limit(const LanguageModel& model, int64_t context) {
  const int64_t limit = context > 0 ? context : model.config().context;
  for (int64_t l = 0; l < model.config().layers; ++l)
    if (model.state_bytes(l, kMaxTokens) > model.state_bytes(l, limit)) return limit;
  return kMaxTokens;
}

Sequence::Sequence(const LanguageModel& model) : model_(&model), state_(model, 0) {}

Sequence::Sequence(const LanguageModel& model, Progress from)
    : progress(from.sampler),
      model_(&model),
      tokens_(std::move(from.tokens)),
      forgotten_(from.forgotten),
      begin_(from.begin),
      state_(model, from.position) {
  state_.advance(from.position);
}

void Sequence::trim(int64_t keep) {
  constexpr int64_t kWorthMoving = 4096;
  if (limit_ < kMaxTokens) return;
  const int64_t read = begin_ + state_.position() - forgotten_;
  const int64_t may_go = std::min(read, static_cast<int64_t>(tokens_.size()) - keep);
  if (may_go < kWorthMoving || may_go < keep) return;
  tokens_.erase(tokens_.begin(), tokens_.begin() + may_go);
  forgotten_ += may_go;
}

void Sequence::reserve(int64_t tokens, int64_t limit) {
  REFRAIN_CHECK(limit >= 1);
  limit_ = limit;
  const int64_t capacity = std::min(limit, tokens - begin_);
  if (capacity <= state_.capacity()) return;
  SequenceState larger(*model_, capacity);
  if (state_.position() > 0) larger.fork_from(state_);
  state_ = std::move(larger);
}

std::span<const int32_t> Sequence::pending() {
  if (size() - begin_ > limit_) {
    const int64_t dropped = limit_ - limit_ / 2;
    begin_ += (size() - begin_ - limit_ + dropped - 1) / dropped * dropped;
    state_.reset();
  }
  return tokens().subspan(static_cast<size_t>(begin_ + state_.position() - forgotten_));
}

}  // namespace refrain
