#include "refrain/generate/rollback.h"

#include <cstring>

namespace refrain {

size_t Rollback::bytes(const LanguageModel& model, int64_t position, int64_t tokens) {
  size_t bytes = 0;
  for (size_t l = 0; l < static_cast<size_t>(model.config().layers); ++l)
    for (const StateRange& range : model.mixer(l).overwritten(position, tokens))
      bytes += range.bytes;
  return bytes;
}

void Rollback::save(const LanguageModel& model, SequenceState& state, int64_t tokens) {
  position_ = state.position();
  parts_.clear();
  size_t bytes = 0;
  for (size_t l = 0; l < static_cast<size_t>(model.config().layers); ++l)
    for (const StateRange& range : model.mixer(l).overwritten(position_, tokens)) {
      if (range.bytes == 0) continue;
      parts_.push_back({l, range});
      bytes += range.bytes;
    }
  if (bytes > bytes_.size()) bytes_.resize(bytes);
  std::byte* to = bytes_.data();
  for (const auto& [block, range] : parts_) {
    std::memcpy(to, state.row(block) + range.first, range.bytes);
    to += range.bytes;
  }
}

void Rollback::restore(SequenceState& state) const {
  const std::byte* from = bytes_.data();
  for (const auto& [block, range] : parts_) {
    std::memcpy(state.row(block) + range.first, from, range.bytes);
    from += range.bytes;
  }
  state.rewind(position_);
}

}  // namespace refrain
