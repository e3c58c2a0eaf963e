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
  std::span<const SlotGroup> groups;
  ConstTensor slots;
  float* memory;  // [threads, memory_row]
  int64_t memory_row;
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// c[M, N] (+)= A b, over K terms: b in panels of tile_cols(), `b_step` floats apart, rows `b_row`
// apart. A lies as `kRows` says (tile-inl.h).
template <Rows kRows>
void product(int64_t M, int64_t N, int64_t K, const float* a, int64_t a_step, const float* b,
             int64_t b_row, int64_t b_step, float* c, int64_t c_row, bool add) {
  const int64_t NR = tile_cols();
  const bool apart = kRows == Rows::kApart;
  const MatrixView<const float> rows(a, M, K, apart ? a_step : 1, apart ? 1 : a_step);
  for (int64_t m = 0; m < M; m += kTileRows)
    for (int64_t j = 0; j < N; j += NR) {
      const int64_t mr = std::min(kTileRows, M - m), n = std::min(NR, N - j);
      tile_of<kRows>(rows.row_range(m, mr), {b + j / NR * b_step, K, n, b_row},
                     {c + m * c_row + j, mr, n, c_row}, add);
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

// A group's keys, transposed.
struct SlotKeys {
  int64_t count;
  const float* panels;
};

// P of some queries of a group: p [queries, whole_panels(keys)]. work: d + 1 floats each.
HWY_INLINE void probabilities(const SlotRun& run, SlotKeys keys, MatrixView<const float> q,
                              SlotMemory work, float* p) {
  const int64_t n = q.rows, d = q.cols, NR = tile_cols(), m = keys.count, row = whole_panels(m);
  float *in_range = work.take(n * d), *unit = work.take(n);
  std::fill_n(unit, n, run.shape.scale);
  const MatrixView<const float> rows = queries_in_range(q, unit, {in_range, n, d});
  product<Rows::kApart>(n, m, d, rows.data, rows.row_stride, keys.panels, NR, d * NR, p, row,
                        false);
  for (int64_t i = 0; i < n; ++i) softmax(unit[i], m, p + i * row);
}

void forward_tasks(const SlotRun& run, MatrixView<const float> q, MatrixView<float> o,
                   int64_t operations) {
  const int64_t d = run.shape.head_dim, wide = whole_panels(d), heads = run.shape.heads;
  parallel_for(
      static_cast<int64_t>(run.groups.size()) * heads,
      [&](int64_t task, int worker) HWY_ATTR {
        const SlotGroup& group = run.groups[static_cast<size_t>(task / heads)];
        const int64_t column = task % heads * d, m = slots_of(group), row = whole_panels(m);
        SlotMemory memory{run.memory + worker * run.memory_row};
        float *keys = memory.take(row * d), *values = memory.take(m * wide);
        float* p = memory.take(kTileRows * row);
        gather_transposed(run, group, column, keys);
        gather_rows(run, group, run.slots.cols() / 2 + column, values);
        for (int64_t done = 0; done < group.queries.count; done += kTileRows) {
          const int64_t n = std::min(kTileRows, group.queries.count - done);
          const int64_t first = group.queries.first + done;
          probabilities(run, {m, keys}, q.row_range(first, n).col_range(column, d), memory, p);
          product<Rows::kApart>(n, d, m, p, row, values, wide, tile_cols(), o.row(first) + column,
                                o.row_stride, false);
        }
      },
      operations);
}

void backward_group(const SlotRun& run, const SlotGroup& group, int64_t column, float* memory_at,
                    MatrixView<float> q, ConstTensor d_o, Tensor dslots) {
  const int64_t d = run.shape.head_dim, wide = whole_panels(d), NR = tile_cols();
  const int64_t m = slots_of(group), row = whole_panels(m), of_v = run.slots.cols() / 2;
  SlotMemory memory{memory_at};
  float *keys = memory.take(row * d), *values = memory.take(row * d);
  float *key_rows = memory.take(m * wide), *dk = memory.take(m * wide), *dv = memory.take(m * wide);
  float *own_q = memory.take(kSlotQueries * wide), *own_do = memory.take(kSlotQueries * wide);
  float *p = memory.take(kSlotQueries * row), *dp = memory.take(kSlotQueries * row);
  gather_transposed(run, group, column, keys);
  gather_transposed(run, group, of_v + column, values);
  gather_rows(run, group, column, key_rows);
  for (int64_t done = 0; done < group.queries.count; done += kSlotQueries) {
    const int64_t n = std::min(kSlotQueries, group.queries.count - done);
    const int64_t first = group.queries.first + done;
    for (int64_t i = 0; i < n; ++i)
      for (const auto& [from, to] : {std::pair<const float*, float*>{q.row(first + i), own_q},
                                     {d_o.row(first + i), own_do}}) {
        std::copy_n(from + column, d, to + i * wide);
        std::fill(to + i * wide + d, to + (i + 1) * wide, 0.0f);
      }
    probabilities(run, {m, keys}, {own_q, n, d, wide}, memory, p);
    product<Rows::kAdjacent>(m, d, n, p, row, own_do, wide, NR, dv, wide, done > 0);
    product<Rows::kApart>(n, m, d, own_do, wide, values, NR, d * NR, dp, row, false);
    for (int64_t i = 0; i < n; ++i) softmax_backward(run.shape.scale, m, p + i * row, dp + i * row);
    product<Rows::kAdjacent>(m, d, n, dp, row, own_q, wide, NR, dk, wide, done > 0);
    product<Rows::kApart>(n, d, m, dp, row, key_rows, wide, NR, q.row(first) + column, q.row_stride,
                          false);
  }
  each_slot(group, [&](int64_t i, int64_t slot) HWY_ATTR {
    for (const auto& [from, to] : {std::pair<const float*, float*>{dk, dslots.row(slot) + column},
                                   {dv, dslots.row(slot) + of_v + column}})
      each(d, [&, from = from, to = to](auto at, int64_t j) HWY_ATTR {
        at.store(hn::Add(at.load(to + j), at.load(from + i * wide + j)), to + j);
      });
  });
}

void backward_tasks(const SlotRun& run, std::span<const size_t> ends, MatrixView<float> q,
                    ConstTensor d_o, Tensor dslots, int64_t operations) {
  const int64_t heads = run.shape.heads;
  parallel_for(
      static_cast<int64_t>(ends.size()) * heads,
      [&](int64_t task, int worker) {
        const auto sequence = static_cast<size_t>(task / heads);
        for (size_t i = sequence > 0 ? ends[sequence - 1] : 0; i < ends[sequence]; ++i)
          backward_group(run, run.groups[i], task % heads * run.shape.head_dim,
                         run.memory + worker * run.memory_row, q, d_o, dslots);
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

int64_t most_slots(std::span<const SlotGroup> groups) {
  int64_t most = 0;
  for (const SlotGroup& group : groups) most = std::max(most, slots_of(group));
  return most;
}

// Of one product of queries and slots, forward or back.
int64_t operations_of(const MemoryAttentionShape& shape, std::span<const SlotGroup> groups) {
  int64_t pairs = 0;
  for (const SlotGroup& group : groups) pairs += group.queries.count * slots_of(group);
  return 2 * pairs * shape.heads * shape.head_dim;
}

}  // namespace

void memory_attention_forward(const MemoryAttentionShape& shape, std::span<const SlotGroup> groups,
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

void memory_attention_backward(const MemoryAttentionShape& shape, std::span<const SlotGroup> groups,
                               std::span<const size_t> ends, MatrixView<float> q, ConstTensor slots,
                               ConstTensor d_o, Tensor dslots, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t memory_row =
      round_up(backward_memory(most_slots(groups), kSlotQueries, shape.head_dim), 16);
  const Tensor memory = scratch.take({threads(), memory_row});
  if (scratch.planning()) return;
  REFRAIN_CHECK(slots.cols() == 2 * shape.heads * shape.head_dim && dslots.size() == slots.size());
  HWY_DYNAMIC_DISPATCH(backward_tasks)
  ({shape, groups, slots, memory.data, memory_row}, ends, q, d_o, dslots,
   5 * operations_of(shape, groups));
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
