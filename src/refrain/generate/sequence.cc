#include "refrain/generate/sequence.h"

#include <algorithm>
#include <utility>

#include "refrain/base/error.h"

namespace refrain {

int64_t context_limit(const LanguageModel& model, int64_t context) {
  const ModelConfig& config = model.config();
  const int64_t limit = context > 0 ? context : config.context;
  if (config.learned_positions && limit > config.context)
    throw_error("context: expected at most {}, because positions are learned, found {}",
                config.context, limit);
  if (config.learned_positions) return limit;
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
      trimmed_(from.forgotten),
      state_(model, from.position) {
  state_.advance(from.position);
}

void Sequence::trim(int64_t keep) {
  constexpr int64_t kWorthMoving = 4096;
  if (limit_ < kMaxTokens) return;
  // When they go depends on the text alone, not on how far the state is.
  const int64_t may_go = size() - trimmed_ - std::max<int64_t>(keep, 1);
  if (may_go >= kWorthMoving && may_go >= keep) trimmed_ += may_go;
  drop_trimmed();
}

void Sequence::drop_trimmed() {
  const int64_t may_go = std::min(trimmed_, begin_ + state_.position()) - forgotten_;
  if (may_go <= 0) return;
  tokens_.erase(tokens_.begin(), tokens_.begin() + may_go);
  forgotten_ += may_go;
}

void Sequence::truncate(int64_t size) {
  REFRAIN_CHECK(size <= this->size() && size >= begin_ + state_.position());
  tokens_.resize(static_cast<size_t>(size - forgotten_));
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
  return unread();
}

}  // namespace refrain
