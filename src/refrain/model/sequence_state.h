// The state of one sequence in all blocks of a model, and its position. It is plain bytes: a copy
// is a fork.
#pragma once
#include <span>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/model/language_model.h"

namespace refrain {

class SequenceState {
 public:
  // For up to `capacity` tokens.
  SequenceState(const LanguageModel& model, int64_t capacity)
      : model_(&model), cache_type_(model.cache_type()), capacity_(capacity) {
    size_t bytes = 0;
    for (int64_t l = 0; l < model.config().layers; ++l) {
      offset_.push_back(bytes);
      bytes += (model.state_bytes(l, capacity) + 63) / 64 * 64;
    }
    bytes_ = Buffer<std::byte>(bytes);
  }

  int64_t position() const { return position_; }
  int64_t capacity() const { return capacity_; }
  std::byte* row(size_t block) { return bytes_.data() + offset_[block]; }
  std::span<std::byte> bytes() { return bytes_.span(); }  // of all blocks, in lines of 64
  std::span<const std::byte> bytes() const { return bytes_.span(); }
  void advance(int64_t tokens) { position_ += tokens; }
  // False when the model's cache type was set to another one since.
  bool fits_model() const { return cache_type_ == model_->cache_type(); }
  // Goes back to an earlier position. Its bytes are the caller's affair (Mixer::overwritten).
  void rewind(int64_t position) {
    REFRAIN_CHECK(position >= 0 && position <= position_);
    position_ = position;
  }

  // Becomes a copy of `other`, a sequence of the same model.
  void fork_from(const SequenceState& other) {
    REFRAIN_CHECK(model_ == other.model_ && other.position_ <= capacity_);
    position_ = other.position_;
    for (size_t l = 0; l < offset_.size(); ++l)
      std::memcpy(row(l), other.bytes_.data() + other.offset_[l],
                  model_->state_bytes(static_cast<int64_t>(l), position_));
  }

  // Resets to the start of a sequence.
  void reset() {
    position_ = 0;
    std::memset(bytes_.data(), 0, bytes_.size());
  }

 private:
  const LanguageModel* model_;
  kernels::CacheType cache_type_;
  int64_t capacity_, position_ = 0;
  std::vector<size_t> offset_;  // of each block's row
  Buffer<std::byte> bytes_;
};

// The states of a batch's sequences, block by block, as mixers take them.
class StateView {
 public:
  explicit StateView(std::span<SequenceState* const> sequences, int64_t blocks) {
    for (const SequenceState* s : sequences) REFRAIN_CHECK(s->fits_model());
    rows_.resize(static_cast<size_t>(blocks));
    for (size_t l = 0; l < rows_.size(); ++l)
      for (SequenceState* s : sequences) rows_[l].push_back(s->row(l));
    for (const auto& rows : rows_) states_.push_back({rows});
  }
  std::span<const State> states() const { return states_; }

 private:
  std::vector<std::vector<std::byte*>> rows_;
  std::vector<State> states_;
};

}  // namespace refrain
