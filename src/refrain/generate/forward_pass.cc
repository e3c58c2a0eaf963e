#include "refrain/generate/forward_pass.h"

namespace refrain {

void ForwardPass::clear() {
  states_.clear();
  tokens_.clear();
  cu_seqlens_ = {0};
  past_lengths_.clear();
  wanted_.clear();
}

size_t ForwardPass::chunk_length(int64_t position, size_t pending, size_t room) {
  constexpr size_t kCut = 64;
  if (pending <= room) return pending;
  const size_t at = static_cast<size_t>(position), end = (at + room) / kCut * kCut;
  return end > at ? end - at : 0;
}

void ForwardPass::add(SequenceState& state, std::span<const int32_t> chunk,
                      std::span<const int32_t> more, size_t wanted) {
  REFRAIN_CHECK(wanted <= chunk.size() + more.size());
  states_.push_back(&state);
  past_lengths_.push_back(static_cast<int32_t>(state.position()));
  tokens_.insert(tokens_.end(), chunk.begin(), chunk.end());
  tokens_.insert(tokens_.end(), more.begin(), more.end());
  const auto end = static_cast<int32_t>(tokens_.size());
  cu_seqlens_.push_back(end);
  for (int32_t row = end - static_cast<int32_t>(wanted); row < end; ++row) wanted_.push_back(row);
}

void ForwardPass::run() {
  const int64_t V = model_.config().vocab_size;
  const RaggedBatch batch = builder_.set(cu_seqlens_, past_lengths_);
  const StateView view(states_, model_.config().layers);
  logits_.resize(std::max(logits_.size(), wanted_.size() * static_cast<size_t>(V)));
  const Tensor logits(logits_.data(), {static_cast<int64_t>(wanted_.size()), V});
  workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
    model_.logits(ctx, batch, tokens_, view.states(), wanted_, logits);
  });
}

std::span<const float> ForwardPass::logits(size_t i) const {
  REFRAIN_CHECK(i < wanted_.size());
  const auto V = static_cast<size_t>(model_.config().vocab_size);
  return std::span(logits_).subspan(i * V, V);
}

}  // namespace refrain
