#include "refrain/mixers/mm_rec/memory_kernel.h"

#include <algorithm>
#include <limits>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/mm_rec/memory_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention/scores-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_MEMORY_ATTENTION_ONCE
#define REFRAIN_KERNELS_MEMORY_ATTENTION_ONCE
namespace refrain::kernels {

// Queries that backward takes at a time.
constexpr int64_t kSlotQueries = 64;

// Rounded up to whole panels of any target.
inline int64_t whole_panels(int64_t n) { return round_up(n, kMaxPanel); }

inline int64_t slots_of(const SlotGroup& group) {
  return group.slots[0].count + group.slots[1].count + group.slots[2].count;
}

// Takes rows of a task's memory, one matrix after another. m slots, n queries.
struct SlotMemory {
  float* at;
  float* take(int64_t floats) {
    at += floats;
    return at - floats;
  }
};
inline int64_t forward_memory(int64_t m, int64_t n, int64_t d) {
  return whole_panels(m) * d + m * whole_panels(d) + n * (whole_panels(m) + d + 1);
}
inline int64_t backward_memory(int64_t m, int64_t n, int64_t d) {
  return 2 * whole_panels(m) * d + 3 * m * whole_panels(d) + 2 * n * whole_panels(d) +
         n * (2 * whole_panels(m) + d + 1);
}

struct SlotRun {
  MemoryAttentionShape shape;
  SlotGroups groups;
  ConstTensor slots;
  float* memory;  // [threads, memory_row]
  int64_t memory_row;
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// A matrix in panels of tile_cols() columns.
struct SlotPanels {
  const float* data;
  int64_t row, step;  // floats from one row to the next, and from one panel to the next
};

// c (+)= a b. The rows of a lie as `kRows` says (tile-inl.h).
template <Rows kRows>
void product(MatrixView<const float> a, SlotPanels b, MatrixView<float> c, bool add) {
  const int64_t NR = tile_cols();
  for (int64_t m = 0; m < c.rows; m += kTileRows)
    for (int64_t j = 0; j < c.cols; j += NR) {
      const int64_t mr = std::min(kTileRows, c.rows - m), n = std::min(NR, c.cols - j);
      tile_of<kRows>(a.row_range(m, mr), {b.data + j / NR * b.step, a.cols, n, b.row},
                     {c.row(m) + j, mr, n, c.row_stride}, add);
    }
}

// f(i, row) for the slots of a group in their order.
template <class F>
HWY_INLINE void each_slot(const SlotGroup& group, F&& f) {
  int64_t i = 0;
  for (const SlotGroup::RowRange& run : group.slots)
    for (int64_t row = run.first; row < run.first + run.count; ++row) f(i++, row);
}

// What begins `column` floats into a group's slots, d floats each: panels of its transpose,
// [d][tile_cols()] each.
HWY_INLINE void gather_transposed(const SlotRun& run, const SlotGroup& group, int64_t column,
                                  float* to) {
  const int64_t NR = tile_cols(), d = run.shape.head_dim, m = slots_of(group);
  if (m % NR != 0) std::fill_n(to + m / NR * d * NR, d * NR, 0.0f);
  int64_t i = 0;
  for (const SlotGroup::RowRange& slots : group.slots)
    for (int64_t done = 0; done < slots.count;) {
      const int64_t n = std::min(slots.count - done, NR - i % NR);
      transpose(run.slots.row(slots.first + done) + column, run.slots.cols(), n, d,
                to + i / NR * d * NR + i % NR, NR);
      done += n;
      i += n;
    }
}
// The same as rows of whole panels.
HWY_INLINE void gather_rows(const SlotRun& run, const SlotGroup& group, int64_t column, float* to) {
  const int64_t d = run.shape.head_dim, wide = whole_panels(d);
  each_slot(group, [&](int64_t i, int64_t row) {
    std::copy_n(run.slots.row(row) + column, d, to + i * wide);
    std::fill(to + i * wide + d, to + (i + 1) * wide, 0.0f);
  });
}

// s [m] becomes softmax(unit s).
HWY_INLINE void softmax(float unit, int64_t m, float* s) {
  const FloatTag d;
  const auto by = constant(unit), lowest = constant(-std::numeric_limits<float>::infinity());
  FloatVec top = lowest;
  each(m,
       [&](auto at, int64_t j) HWY_ATTR { top = hn::Max(top, at.fill(at.load(s + j), lowest)); });
  top = hn::MaxOfLanes(d, top);
  FloatVec sum = hn::Zero(d);
  each(m, [&](auto at, int64_t j) HWY_ATTR {
    const auto e = vector_exp(hn::Mul(hn::Sub(at.load(s + j), top), by));
    at.store(e, s + j);
    sum = hn::Add(sum, at.fill(e, hn::Zero(d)));
  });
  const auto whole = hn::SumOfLanes(d, sum);
  each(m, [&](auto at, int64_t j) HWY_ATTR { at.store(hn::Div(at.load(s + j), whole), s + j); });
}

// dp [m] becomes scale p (dp - sum of p dp).
HWY_INLINE void softmax_backward(float scale, int64_t m, const float* p, float* dp) {
  const FloatTag d;
  FloatVec sum = hn::Zero(d);
  each(m, [&](auto at, int64_t j)
              HWY_ATTR { sum = hn::MulAdd(at.load(p + j), at.load(dp + j), sum); });
  const auto mean = hn::SumOfLanes(d, sum), by = constant(scale);
  each(m, [&](auto at, int64_t j) HWY_ATTR {
    const auto change = hn::Sub(at.load(dp + j), mean);
    at.store(hn::Mul(hn::Mul(by, at.load(p + j)), change), dp + j);
  });
}

// P of some queries of a group, [queries, keys]. keys: their transpose. work: d + 1 floats for each
// query.
HWY_INLINE void probabilities(const SlotRun& run, SlotPanels keys, MatrixView<const float> q,
                              SlotMemory work, MatrixView<float> p) {
  const int64_t n = q.rows, d = q.cols;
  float *in_range = work.take(n * d), *unit = work.take(n);
  std::fill_n(unit, n, run.shape.scale);
  const MatrixView<const float> rows = queries_in_range(q, unit, {in_range, n, d});
  product<Rows::kApart>(rows, keys, p, false);
  for (int64_t i = 0; i < n; ++i) softmax(unit[i], p.cols, p.row(i));
}

void forward_tasks(const SlotRun& run, MatrixView<const float> q, MatrixView<float> o,
                   int64_t operations) {
  const int64_t d = run.shape.head_dim, wide = whole_panels(d), heads = run.shape.heads;
  const int64_t NR = tile_cols();
  parallel_for(
      std::ssize(run.groups.all) * heads,
      [&](int64_t task, int worker) HWY_ATTR {
        const SlotGroup& group = run.groups.all[static_cast<size_t>(task / heads)];
        const int64_t column = task % heads * d, m = slots_of(group), row = whole_panels(m);
        SlotMemory memory{run.memory + worker * run.memory_row};
        float *keys = memory.take(row * d), *values = memory.take(m * wide);
        float* p_rows = memory.take(kTileRows * row);
        gather_transposed(run, group, column, keys);
        gather_rows(run, group, run.slots.cols() / 2 + column, values);
        for (int64_t done = 0; done < group.queries.count; done += kTileRows) {
          const int64_t n = std::min(kTileRows, group.queries.count - done);
          const int64_t first = group.queries.first + done;
          const MatrixView<float> p(p_rows, n, m, row);
          probabilities(run, {keys, NR, d * NR}, q.row_range(first, n).col_range(column, d), memory,
                        p);
          product<Rows::kApart>(p, {values, wide, NR}, o.row_range(first, n).col_range(column, d),
                                false);
        }
      },
      operations);
}

void backward_group(const SlotRun& run, const SlotGroup& group, int64_t column, float* memory_at,
                    MatrixView<float> q, const MemoryAttentionGradients& gradients) {
  const int64_t d = run.shape.head_dim, wide = whole_panels(d), NR = tile_cols();
  const int64_t m = slots_of(group), row = whole_panels(m), of_v = run.slots.cols() / 2;
  SlotMemory memory{memory_at};
  float *keys = memory.take(row * d), *values = memory.take(row * d);
  float* key_rows = memory.take(m * wide);
  const MatrixView<float> dk(memory.take(m * wide), m, d, wide);
  const MatrixView<float> dv(memory.take(m * wide), m, d, wide);
  float *q_rows = memory.take(kSlotQueries * wide), *do_rows = memory.take(kSlotQueries * wide);
  float *p_rows = memory.take(kSlotQueries * row), *dp_rows = memory.take(kSlotQueries * row);
  gather_transposed(run, group, column, keys);
  gather_transposed(run, group, of_v + column, values);
  gather_rows(run, group, column, key_rows);
  for (int64_t done = 0; done < group.queries.count; done += kSlotQueries) {
    const int64_t n = std::min(kSlotQueries, group.queries.count - done);
    const int64_t first = group.queries.first + done;
    for (int64_t i = 0; i < n; ++i)
      for (const auto& [from, to] : {std::pair<const float*, float*>{q.row(first + i), q_rows},
                                     {gradients.d_o.row(first + i), do_rows}}) {
        std::copy_n(from + column, d, to + i * wide);
        std::fill(to + i * wide + d, to + (i + 1) * wide, 0.0f);
      }
    const MatrixView<float> own_q(q_rows, n, d, wide), own_do(do_rows, n, d, wide);
    const MatrixView<float> p(p_rows, n, m, row), dp(dp_rows, n, m, row);
    probabilities(run, {keys, NR, d * NR}, own_q, memory, p);
    product<Rows::kAdjacent>(p.transposed(), {do_rows, wide, NR}, dv, done > 0);
    product<Rows::kApart>(own_do, {values, NR, d * NR}, dp, false);
    for (int64_t i = 0; i < n; ++i) softmax_backward(run.shape.scale, m, p.row(i), dp.row(i));
    product<Rows::kAdjacent>(dp.transposed(), {q_rows, wide, NR}, dk, done > 0);
    product<Rows::kApart>(dp, {key_rows, wide, NR}, q.row_range(first, n).col_range(column, d),
                          false);
  }
  each_slot(group, [&](int64_t i, int64_t slot) HWY_ATTR {
    float* dslot = gradients.dslots.row(slot) + column;
    for (const auto& [from, to] :
         {std::pair<const float*, float*>{dk.row(i), dslot}, {dv.row(i), dslot + of_v}})
      each(d, [&, from = from, to = to](auto at, int64_t j)
                  HWY_ATTR { at.store(hn::Add(at.load(to + j), at.load(from + j)), to + j); });
  });
}

void backward_tasks(const SlotRun& run, MatrixView<float> q,
                    const MemoryAttentionGradients& gradients, int64_t operations) {
  const std::span<const size_t> ends = run.groups.ends;
  const int64_t heads = run.shape.heads;
  parallel_for(
      std::ssize(ends) * heads,
      [&](int64_t task, int worker) {
        const auto sequence = static_cast<size_t>(task / heads);
        for (size_t i = sequence > 0 ? ends[sequence - 1] : 0; i < ends[sequence]; ++i)
          backward_group(run, run.groups.all[i], task % heads * run.shape.head_dim,
                         run.memory + worker * run.memory_row, q, gradients);
      },
      operations);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(forward_tasks);
HWY_EXPORT(backward_tasks);
namespace {

int64_t most_slots(const SlotGroups& groups) {
  int64_t most = 0;
  for (const SlotGroup& group : groups.all) most = std::max(most, slots_of(group));
  return most;
}

// Of one product of queries and slots, forward or back.
int64_t operations_of(const MemoryAttentionShape& shape, const SlotGroups& groups) {
  int64_t pairs = 0;
  for (const SlotGroup& group : groups.all) pairs += group.queries.count * slots_of(group);
  return 2 * pairs * shape.heads * shape.head_dim;
}

}  // namespace

void memory_attention_forward(const MemoryAttentionShape& shape, const SlotGroups& groups,
                              MatrixView<const float> q, ConstTensor slots, MatrixView<float> o,
                              Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t memory_row =
      round_up(forward_memory(most_slots(groups), kSlotQueries, shape.head_dim), 16);
  const Tensor memory = scratch.take({threads(), memory_row});
  if (scratch.planning()) return;
  REFRAIN_CHECK(slots.cols() == 2 * shape.heads * shape.head_dim);
  HWY_DYNAMIC_DISPATCH(forward_tasks)
  ({shape, groups, slots, memory.data, memory_row}, q, o, 2 * operations_of(shape, groups));
}

void memory_attention_backward(const MemoryAttentionShape& shape, const SlotGroups& groups,
                               MatrixView<float> q, ConstTensor slots,
                               const MemoryAttentionGradients& gradients, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t memory_row =
      round_up(backward_memory(most_slots(groups), kSlotQueries, shape.head_dim), 16);
  const Tensor memory = scratch.take({threads(), memory_row});
  if (scratch.planning()) return;
  REFRAIN_CHECK(slots.cols() == 2 * shape.heads * shape.head_dim &&
                gradients.dslots.size() == slots.size());
  HWY_DYNAMIC_DISPATCH(backward_tasks)
  ({shape, groups, slots, memory.data, memory_row}, q, gradients, 5 * operations_of(shape, groups));
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
