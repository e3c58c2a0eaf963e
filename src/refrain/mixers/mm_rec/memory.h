// The hierarchical memory of mm_rec: which slots a window's tokens see, how they are made, and what
// a state holds of them.
//
// Stretches of c tokens stand at absolute positions. A finished one writes a slot of level 0: the
// key and the value of the mean of its h. Four slots in a row of one level are averaged to one of
// the next. Of each level the newest M are held. A token sees what was finished before its own
// stretch; while that is nothing, a slot that is learned.
//
// Since keys and values are linear in what they are of, those of an average are the average of
// keys and values: slots are kept as rows [k | v], and no token makes them again.
//
// A state is h [D], the sum of h over the open stretch [D], and a ring of M rows [k | v] per level,
// slot i in row i % M. How many there are follows from the position.
#pragma once
#include <algorithm>
#include <array>
#include <vector>

#include "refrain/mixers/mixer.h"
#include "refrain/mixers/mm_rec/memory_kernel.h"

namespace refrain {

struct MmRecLayout {
  static constexpr int64_t kLevels = 3, kFan = 4;

  int64_t D, slots, stretch;
  bool memory;  // a state without one is h

  // Slots of a level that are finished after `tokens` tokens, and the oldest of them that is held.
  int64_t finished(int64_t level, int64_t tokens) const {
    int64_t n = tokens / stretch;
    for (; level > 0; --level) n /= kFan;
    return n;
  }
  int64_t oldest(int64_t level, int64_t tokens) const {
    return std::max<int64_t>(0, finished(level, tokens) - slots);
  }
  int64_t sum() const { return D; }
  int64_t ring(int64_t level, int64_t i) const {
    return 2 * D + (level * slots + i % slots) * 2 * D;
  }
  int64_t state_size() const { return memory ? ring(kLevels, 0) : D; }
};

// Of one window. Rows of `slots` [slot_rows(), 2D]: piece after piece, the learned slot if its
// first stretch is among its tokens', then level by level those found in the state and those made
// here, the oldest first. Rows of `means` [mean_rows(), D]: what the products make keys and values
// of, piece after piece: the learned slot, then the stretches that end here.
class MmRecMemory {
 public:
  MmRecMemory(const MmRecLayout&, const RaggedBatch&);

  int64_t slot_rows() const { return slot_rows_; }
  int64_t mean_rows() const { return mean_offset_.back(); }
  // Of the rows of `means`: where those of each piece begin, [pieces + 1].
  std::span<const int32_t> mean_offset() const { return mean_offset_; }
  // What attends to what, for memory_attention_backward() piece after piece.
  std::span<const kernels::SlotGroup> groups() const { return groups_; }
  std::span<const size_t> ends() const { return ends_; }

  // means from h; the sums in the states go on.
  void average(ConstTensor null, ConstTensor h, const State*, Tensor means) const;
  // slots from the rings in the states and from kv, the keys and values of means; the rings go on.
  void fill(ConstTensor kv, const State*, Tensor slots) const;

  // dslots: what the rings left are given; then attention adds to it; then dkv is what the slots
  // made here got, and the rings in dstate what those found got.
  void begin_backward(const State* dstate, Tensor dslots) const;
  void end_backward(Tensor dslots, Tensor dkv, const State* dstate) const;
  // dh and dnull are added to; the sums in dstate become those of the initial states.
  void average_backward(ConstTensor dmeans, Tensor dh, Tensor dnull, const State* dstate) const;

 private:
  struct Piece {
    int64_t b, first, start, end;  // its rows begin at `first`, positions start .. end
    int64_t null_slot, null_mean;  // rows; -1: none
    int64_t mean;                  // the row of the first stretch that ends here
    std::array<int64_t, MmRecLayout::kLevels> slot;  // the row of the oldest slot found
  };
  int64_t slot_row(const Piece& p, int64_t level, int64_t i) const {
    const auto l = static_cast<size_t>(level);
    return p.slot[l] + i - layout_.oldest(level, p.start);
  }
  int64_t stretches(const Piece& p) const {
    return layout_.finished(0, p.end) - layout_.finished(0, p.start);
  }
  template <class F>
  void each_stretch(F&& f) const;

  MmRecLayout layout_;
  std::vector<Piece> pieces_;
  int64_t slot_rows_ = 0;
  std::vector<int32_t> mean_offset_ = {0};
  std::vector<kernels::SlotGroup> groups_;
  std::vector<size_t> ends_;
};

}  // namespace refrain
