// The hierarchical memory of mm_rec: which slots the tokens of a batch see, how slots are computed,
// and what a state holds of them.
//
// A sequence is cut into chunks of c tokens (the setting `stretch`) at absolute positions. A
// finished chunk writes a slot of level 0: the key and the value of the mean of its h. Four
// consecutive slots of one level are averaged to one slot of the next. Each level holds its newest
// M slots. A token sees the slots that were finished before its own chunk. If there are none, it
// sees a learned slot.
//
// Keys and values are linear in their inputs, so those of an average are the average of keys and
// values. Slots are stored as rows [k | v] and never computed again.
//
// A state is h [D], the sum of h over the open chunk [D], and a ring of M rows [k | v] per level,
// slot i in row i % M. The number of slots follows from the position.
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

  // Slots of a level that are finished after `tokens` tokens, and the oldest of them that is still
  // held.
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

// The memory of one batch. Rows of `slots` [slot_rows(), 2D], chunk of the batch after chunk: the
// learned slot, if one of its tokens needs it, then level by level the slots of the initial state
// and the new ones, the oldest first. Rows of `means` [mean_rows(), D], the inputs of keys and
// values: the learned slot, then the chunks of c tokens that end here.
class MmRecMemory {
 public:
  MmRecMemory(const MmRecLayout&, const RaggedBatch&);

  int64_t slot_rows() const { return slot_rows_; }
  int64_t mean_rows() const { return mean_offset_.back(); }
  // Where the rows of `means` of each chunk of the batch begin, [chunks + 1].
  std::span<const int32_t> mean_offset() const { return mean_offset_; }
  // Which tokens see which slots, chunk after chunk of the batch.
  kernels::SlotGroups groups() const { return {groups_, ends_}; }

  // Computes means from h, and advances the sums in the states.
  void average(ConstTensor null, ConstTensor h, const State*, Tensor means) const;
  // Fills `slots` from the rings in the states and from kv, the keys and values of means, and
  // advances the rings.
  void fill(ConstTensor kv, const State*, Tensor slots) const;

  // The order is: begin_backward() sets dslots to the gradients of the final rings; then attention
  // adds to it; then dkv gets the gradients of new slots, and the rings in dstate get those of the
  // slots of the initial state.
  void begin_backward(const State* dstate, Tensor dslots) const;
  void end_backward(Tensor dslots, Tensor dkv, const State* dstate) const;
  // dh and dnull are added to; the sums in dstate become those of the initial states.
  void average_backward(ConstTensor dmeans, Tensor dh, Tensor dnull, const State* dstate) const;

 private:
  struct Chunk {
    int64_t b, first, start, end;  // its rows begin at `first`, positions start .. end
    int64_t null_slot, null_mean;  // rows; -1: none
    int64_t mean;                  // the row of the first chunk of c tokens that ends here
    std::array<int64_t, MmRecLayout::kLevels> slot;  // the row of the oldest initial slot
  };
  int64_t slot_row(const Chunk& p, int64_t level, int64_t i) const {
    const auto l = static_cast<size_t>(level);
    return p.slot[l] + i - layout_.oldest(level, p.start);
  }
  int64_t stretches(const Chunk& p) const {
    return layout_.finished(0, p.end) - layout_.finished(0, p.start);
  }
  template <class F>
  void each_stretch(F&& f) const;

  MmRecLayout layout_;
  std::vector<Chunk> chunks_;
  int64_t slot_rows_ = 0;
  std::vector<int32_t> mean_offset_ = {0};
  std::vector<kernels::SlotGroup> groups_;
  std::vector<size_t> ends_;
};

}  // namespace refrain
