#include "refrain/mixers/mm_rec/memory.h"

#include <algorithm>

#include "refrain/base/parallel.h"

namespace refrain {
namespace {

constexpr int64_t kLevels = MmRecLayout::kLevels, kFan = MmRecLayout::kFan;
constexpr float kShare = 1.0f / kFan;  // of a slot in what it is averaged to

void add_to(float* to, const float* from, int64_t n, float by = 1) {
  for (int64_t j = 0; j < n; ++j) to[j] += by * from[j];
}

}  // namespace

MmRecMemory::MmRecMemory(const MmRecLayout& layout, const RaggedBatch& w) : layout_(layout) {
  const int64_t c = layout.stretch;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) == 0) continue;
    const int64_t start = w.past_length(b);
    Chunk p{b, w.first(b), start, start + w.length(b), -1, -1, mean_offset_.back(), {}};
    if (start < c) {
      p.null_slot = slot_rows_++;
      p.null_mean = p.mean++;
    }
    for (int64_t l = 0; l < kLevels; ++l) {
      p.slot[static_cast<size_t>(l)] = slot_rows_;
      slot_rows_ += layout.finished(l, p.end) - layout.oldest(l, start);
    }
    mean_offset_.push_back(static_cast<int32_t>(p.mean + stretches(p)));
    for (int64_t at = start; at < p.end;) {
      const int64_t next = std::min(p.end, (at / c + 1) * c);
      kernels::SlotGroup group{{p.first + at - start, next - at}, {}};
      for (int64_t l = 0; l < kLevels; ++l) {
        const int64_t oldest = layout.oldest(l, at);
        group.slots[static_cast<size_t>(l)] = {slot_row(p, l, oldest),
                                               layout.finished(l, at) - oldest};
      }
      if (at < c) group.slots[0] = {p.null_slot, 1};
      groups_.push_back(group);
      at = next;
    }
    ends_.push_back(groups_.size());
    chunks_.push_back(p);
  }
}

// f(chunk, stretch, first row, end row) for the part of every stretch that lies in the window.
template <class F>
void MmRecMemory::each_stretch(F&& f) const {
  const int64_t c = layout_.stretch;
  int64_t rows = 0;
  for (const Chunk& p : chunks_) rows += p.end - p.start;
  size_t chunk = 0;
  std::vector<size_t> of_group;
  for (size_t i = 0; i < groups_.size(); ++i) {
    if (i == ends_[chunk]) ++chunk;
    of_group.push_back(chunk);
  }
  parallel_for(
      static_cast<int64_t>(groups_.size()),
      [&](int64_t i) {
        const auto group = static_cast<size_t>(i);
        const Chunk& p = chunks_[of_group[group]];
        const auto [first, count] = groups_[group].queries;
        f(p, (p.start + first - p.first) / c, first, first + count);
      },
      rows * layout_.D);
}

void MmRecMemory::average(ConstTensor null, ConstTensor h, const State* state, Tensor means) const {
  const int64_t D = layout_.D;
  for (const Chunk& p : chunks_) {
    if (p.null_mean >= 0) std::copy_n(null.data, D, means.row(p.null_mean));
    std::fill_n(means.row(p.mean), stretches(p) * D, 0.0f);
    if (!state || stretches(p) == 0) continue;
    float* sum = state->row(p.b) + layout_.sum();
    std::copy_n(sum, D, means.row(p.mean));
    std::fill_n(sum, D, 0.0f);
  }
  each_stretch([&](const Chunk& p, int64_t stretch, int64_t first, int64_t end) {
    const bool ends = (stretch + 1) * layout_.stretch <= p.end;
    if (!ends && !state) return;
    float* sum = ends ? means.row(p.mean + stretch - layout_.finished(0, p.start))
                      : state->row(p.b) + layout_.sum();
    for (int64_t row = first; row < end; ++row) add_to(sum, h.row(row), D);
    const float share = 1 / static_cast<float>(layout_.stretch);
    for (int64_t j = 0; j < D && ends; ++j) sum[j] *= share;
  });
}

void MmRecMemory::fill(ConstTensor kv, const State* state, Tensor slots) const {
  const int64_t width = 2 * layout_.D;
  for (const Chunk& p : chunks_) {
    if (p.null_slot >= 0) std::copy_n(kv.row(p.null_mean), width, slots.row(p.null_slot));
    for (int64_t l = 0; l < kLevels; ++l) {
      const int64_t found = layout_.finished(l, p.start), left = layout_.finished(l, p.end);
      for (int64_t i = layout_.oldest(l, p.start); i < found; ++i)
        if (state)
          std::copy_n(state->row(p.b) + layout_.ring(l, i), width, slots.row(slot_row(p, l, i)));
        else
          std::fill_n(slots.row(slot_row(p, l, i)), width, 0.0f);
      for (int64_t i = found; i < left; ++i) {
        float* to = slots.row(slot_row(p, l, i));
        if (l == 0) {
          std::copy_n(kv.row(p.mean + i - found), width, to);
          continue;
        }
        std::copy_n(slots.row(slot_row(p, l - 1, kFan * i)), width, to);
        for (int64_t k = 1; k < kFan; ++k)
          add_to(to, slots.row(slot_row(p, l - 1, kFan * i + k)), width);
        for (int64_t j = 0; j < width; ++j) to[j] *= kShare;
      }
      for (int64_t i = std::max(found, layout_.oldest(l, p.end)); state && i < left; ++i)
        std::copy_n(slots.row(slot_row(p, l, i)), width, state->row(p.b) + layout_.ring(l, i));
    }
  }
}

void MmRecMemory::begin_backward(const State* dstate, Tensor dslots) const {
  std::fill(dslots.begin(), dslots.end(), 0.0f);
  if (!dstate) return;
  for (const Chunk& p : chunks_)
    for (int64_t l = 0; l < kLevels; ++l)
      for (int64_t i = layout_.oldest(l, p.end); i < layout_.finished(l, p.end); ++i)
        std::copy_n(dstate->row(p.b) + layout_.ring(l, i), 2 * layout_.D,
                    dslots.row(slot_row(p, l, i)));
}

void MmRecMemory::end_backward(Tensor dslots, Tensor dkv, const State* dstate) const {
  const int64_t width = 2 * layout_.D;
  for (const Chunk& p : chunks_) {
    for (int64_t l = kLevels - 1; l >= 0; --l) {
      const int64_t found = layout_.finished(l, p.start), left = layout_.finished(l, p.end);
      for (int64_t i = found; i < left; ++i) {
        const float* from = dslots.row(slot_row(p, l, i));
        if (l == 0)
          std::copy_n(from, width, dkv.row(p.mean + i - found));
        else
          for (int64_t k = 0; k < kFan; ++k)
            add_to(dslots.row(slot_row(p, l - 1, kFan * i + k)), from, width, kShare);
      }
      if (!dstate) continue;
      // Rows of the ring that were written here go back to what was in them before.
      float* state = dstate->row(p.b);
      for (int64_t i = std::max(found, layout_.oldest(l, p.end)); i < left; ++i)
        std::fill_n(state + layout_.ring(l, i), width, 0.0f);
      for (int64_t i = layout_.oldest(l, p.start); i < found; ++i)
        std::copy_n(dslots.row(slot_row(p, l, i)), width, state + layout_.ring(l, i));
    }
    if (p.null_slot >= 0) std::copy_n(dslots.row(p.null_slot), width, dkv.row(p.null_mean));
  }
}

void MmRecMemory::average_backward(ConstTensor dmeans, Tensor dh, Tensor dnull,
                                   const State* dstate) const {
  const int64_t D = layout_.D;
  const float share = 1 / static_cast<float>(layout_.stretch);
  each_stretch([&](const Chunk& p, int64_t stretch, int64_t first, int64_t end) {
    const bool ends = (stretch + 1) * layout_.stretch <= p.end;
    if (!ends && !dstate) return;
    const float* from = ends ? dmeans.row(p.mean + stretch - layout_.finished(0, p.start))
                             : dstate->row(p.b) + layout_.sum();
    for (int64_t row = first; row < end; ++row) add_to(dh.row(row), from, D, ends ? share : 1);
  });
  for (const Chunk& p : chunks_) {
    if (dnull && p.null_mean >= 0) add_to(dnull.data, dmeans.row(p.null_mean), D);
    if (!dstate || stretches(p) == 0) continue;
    float* sum = dstate->row(p.b) + layout_.sum();
    for (int64_t j = 0; j < D; ++j) sum[j] = share * dmeans.row(p.mean)[j];
  }
}

}  // namespace refrain
