#include <utility>

#include "refrain/kernels/attention/attention.h"
#include "refrain/kernels/attention/attention_bf16.h"
#include "refrain/kernels/attention/attention_tasks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention/attention_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention/attention-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_BACKWARD_ONCE
#define REFRAIN_KERNELS_ATTENTION_BACKWARD_ONCE
namespace refrain::kernels {
// Keys whose products with a block of queries are made at a time. No sum depends on it: scores are
// not rescaled here, and every gradient is one chain over ascending positions.
constexpr int64_t kKeyBlock = 64;
static_assert(kSegmentStep % kKeyBlock == 0);

inline int64_t backward_memory(int64_t d, int64_t keys) {
  const int64_t wide = padded_head(d);
  return keys * (2 * d + 3 * wide) + kQueryBlock * (4 * wide + 2 * kKeyBlock + 2);
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// What a row of P is made of, and rowsum(dO o).
struct BackwardRow {
  float unit, maximum, log_sum, delta;
};

// One row of a block: scores to probabilities, dP to dS / scale, in the columns in `seen`; the
// others become zero.
HWY_INLINE void probabilities_row(float* p, float* ds, Range seen, int64_t n,
                                  const BackwardRow& row) {
  const FloatTag d;
  const int64_t N = float_lanes();
  const FloatVec factor = hn::Set(d, row.unit), highest = hn::Set(d, row.maximum);
  const FloatVec log_sum = hn::Set(d, row.log_sum), delta = hn::Set(d, row.delta);
  for (int64_t j = 0; j < n; j += N) {
    if (j + N <= seen.low || j >= seen.high) {
      hn::StoreU(hn::Zero(d), d, p + j);
      hn::StoreU(hn::Zero(d), d, ds + j);
      continue;
    }
    const FloatVec below = hn::Sub(hn::LoadU(d, p + j), highest);
    FloatVec probability = vector_exp2(hn::MulSub(below, factor, log_sum));
    FloatVec slope = hn::Mul(probability, hn::Sub(hn::LoadU(d, ds + j), delta));
    if (j < seen.low || j + N > seen.high) {
      const auto mask = lanes_in(seen, j);
      probability = hn::IfThenElseZero(mask, probability);
      slope = hn::IfThenElseZero(mask, slope);
    }
    hn::StoreU(probability, d, p + j);
    hn::StoreU(slope, d, ds + j);
  }
}

// What a task keeps of its keys and of a block of queries.
struct BackwardMemory {
  BackwardMemory(int64_t d, int64_t segment_keys, float* at) : wide(padded_head(d)) {
    const auto take = [&](int64_t size) { return std::exchange(at, at + size); };
    keys_t = take(segment_keys * d);
    values_t = take(segment_keys * d);
    keys = take(segment_keys * wide);
    dk = take(segment_keys * wide);
    dv = take(segment_keys * wide);
    q = take(kQueryBlock * wide);
    q_divided = take(kQueryBlock * wide);
    d_o = take(kQueryBlock * wide);
    dq = take(kQueryBlock * wide);
    p = take(kQueryBlock * kKeyBlock);
    ds = take(kQueryBlock * kKeyBlock);
    delta = take(kQueryBlock);
    unit = take(kQueryBlock);
  }
  int64_t wide;
  float *keys_t, *values_t;  // panels of the transposed keys and values, block by block
  float *keys, *dk, *dv;     // [segment_keys, wide]; keys times the scale
  float *q, *q_divided;      // [kQueryBlock, wide]; as scores need them, where that is not q
  float *d_o, *dq, *p, *ds;  // [kQueryBlock, wide] or [kQueryBlock, kKeyBlock]
  float *delta, *unit;       // rowsum(dO o); of the scores
};

// Queries at `positions` of head h.
struct QueriesOfHead {
  Range positions;
  int64_t h;
  const float* for_scores;  // q or q_divided
};

// The products of a block of queries and block b of the task's keys.
void backward_block(const BackwardTask& task, const BackwardMemory& m, const QueriesOfHead& queries,
                    int64_t b, bool keys_wanted) {
  const Range positions = queries.positions;  // no structured binding: clang 14 captures none
  const int64_t h = queries.h;
  const float* q = queries.for_scores;
  const AttentionShape& shape = task.shape;
  const KeyRange& list = task.list();
  const Range all = task.keys();
  const int64_t d = shape.head_dim, wide = m.wide, N = float_lanes(), at = b * kKeyBlock;
  const int64_t k0 = all.low + at, n = std::min(kKeyBlock, all.high - k0), t0 = positions.low;
  const Range columns{0, n}, rows{0, positions.high - t0};
  const auto seen = [&](int64_t i) {
    return intersection(columns, shifted(list.seen(t0 + i), -k0));
  };
  const auto seen_by = [&](int64_t j) {
    return intersection(rows, shifted(list.seen_by(k0 + j), -t0));
  };
  const Range see{seen_by(0).low, seen_by(n - 1).high};
  if (see.low >= see.high) return;

  const bool whole = seen(see.low).high == n && seen(see.high - 1).low == 0;
  each_tile(see, [&](int64_t i0, int64_t count) HWY_ATTR {
    const int64_t from = seen(i0).low / N * N;
    const Range some{from, seen(i0 + count - 1).high};
    tile_row<Rows::kApart>({q + i0 * wide, count, d, wide}, transposed_panels(m.keys_t + at * d, d),
                           some, {m.p + i0 * kKeyBlock, count, kKeyBlock}, false);
    tile_row<Rows::kApart>({m.d_o + i0 * wide, count, d, wide},
                           transposed_panels(m.values_t + at * d, d), some,
                           {m.ds + i0 * kKeyBlock, count, kKeyBlock}, false);
  });
  const AttentionSequence& s = task.sequence;
  const float* maximum = s.softmax + h * s.queries + t0 - s.start;
  const float* log_sum = maximum + shape.heads * s.queries;
  const DropoutRate rate(shape.dropout.rate);
  for (int64_t i = see.low; i < see.high; ++i) {
    float *p = m.p + i * kKeyBlock, *ds = m.ds + i * kKeyBlock;
    const Range mine = whole ? columns : seen(i);
    const auto to_probabilities = [&]() HWY_ATTR {
      probabilities_row(p, ds, mine, n, {m.unit[i], maximum[i], log_sum[i], m.delta[i]});
    };
    if (shape.dropout.rate == 0) {
      to_probabilities();
      continue;
    }
    const int64_t query = t0 + i - s.start;
    const DropoutFactors<kKeyBlock> factors(rate, dropout_row(shape, s, query, h, list.kind()), k0,
                                            {mine.low / N * N, round_up(mine.high, N)});
    factors.multiply(ds);
    to_probabilities();
    factors.multiply(p);
  }
  if (keys_wanted)
    each_tile(columns, [&](int64_t j0, int64_t count) HWY_ATTR {
      const int64_t i0 = std::max(see.low, seen_by(j0).low);
      const int64_t K = std::min(see.high, seen_by(j0 + count - 1).high) - i0;
      if (K <= 0) return;
      const int64_t out = (at + j0) * wide, in = i0 * kKeyBlock + j0;
      tile_row<Rows::kAdjacent>({m.p + in, count, K, 1, kKeyBlock},
                                row_panels(m.d_o + i0 * wide, wide), {0, d},
                                {m.dv + out, count, d, wide}, true);
      tile_row<Rows::kAdjacent>({m.ds + in, count, K, 1, kKeyBlock},
                                row_panels(m.q + i0 * wide, wide), {0, d},
                                {m.dk + out, count, d, wide}, true);
    });
  each_tile(see, [&](int64_t i0, int64_t count) HWY_ATTR {
    const int64_t from = seen(i0).low, to = seen(i0 + count - 1).high;
    tile_row<Rows::kApart>({m.ds + i0 * kKeyBlock + from, count, to - from, kKeyBlock},
                           row_panels(m.keys + (at + from) * wide, wide), {0, d},
                           {m.dq + i0 * wide, count, d, wide}, true);
  });
}

// A block of queries of head h, copied side by side, with the gradient they have so far.
QueriesOfHead load_queries(const BackwardTask& task, const BackwardMemory& m, Range positions,
                           int64_t h, bool first) {
  const AttentionShape& shape = task.shape;
  const AttentionSequence& s = task.sequence;
  const int64_t d = shape.head_dim, wide = m.wide, n = positions.high - positions.low;
  const int64_t i0 = positions.low - s.start;
  copy_rows(s.q + i0 * shape.q_row + h * d, shape.q_row, n, d, wide, m.q);
  copy_rows(task.gradients.d_o + i0 * shape.o_row + h * d, shape.o_row, n, d, wide, m.d_o);
  if (first)
    std::fill_n(m.dq, n * wide, 0.0f);
  else
    copy_rows(task.gradients.dq + i0 * task.gradients.dq_row + h * d, task.gradients.dq_row, n, d,
              wide, m.dq);
  const float* log_sum = s.softmax + (shape.heads + h) * s.queries + i0;
  for (int64_t i = 0; i < n; ++i)
    m.delta[i] =
        output_slope(m.d_o + i * wide, s.o + (i0 + i) * shape.o_row + h * d, d, log_sum[i]);
  std::fill_n(m.unit, n, shape.scale * kLog2E);
  return {positions, h,
          queries_in_range({m.q, n, d, wide}, m.unit, {m.q_divided, n, d, wide}).data};
}

void attention_backward_task(const BackwardTask& task, float* work) {
  const KeyRange& list = task.list();
  const Range keys = task.keys();
  const int64_t d = task.shape.head_dim, g = task.kv_head;
  const int64_t start = task.sequence.start, count = keys.high - keys.low;
  const BackwardMemory m(d, round_up(count, kKeyBlock), work);
  const int64_t wide = m.wide;

  clear_panels(count, d, m.keys_t);
  clear_panels(count, d, m.values_t);
  for (int64_t i = 0; i < count;) {
    const auto run = list.run(task.sequence.keys, start, keys.low + i, count - i);
    transpose_rows(run.k + g * d, run.row, i, run.length, d, m.keys_t);
    transpose_rows(run.v + g * d, run.row, i, run.length, d, m.values_t);
    copy_rows(run.k + g * d, run.row, run.length, d, wide, m.keys + i * wide);
    i += run.length;
  }
  scale_all(count * wide, task.shape.scale, m.keys);
  std::fill_n(m.dk, count * wide, 0.0f);
  std::fill_n(m.dv, count * wide, 0.0f);
  each_query_block(task, [&](Range at, int64_t h, bool first) HWY_ATTR {
    const QueriesOfHead queries = load_queries(task, m, at, h, first);
    for (int64_t i = 0; i < count; i += kKeyBlock)
      backward_block(task, m, queries, i / kKeyBlock,
                     task.wants(keys.low + std::min(i + kKeyBlock, count) - 1));
    float* dq = task.gradients.dq + (at.low - start) * task.gradients.dq_row + h * d;
    for (int64_t i = 0; i < at.high - at.low; ++i)
      copy_rows(m.dq + i * wide, wide, 1, d, d, dq + i * task.gradients.dq_row);
  });
  scale_all(count * wide, task.shape.scale, m.dk);
  put_key_gradients(task, m.dk, m.dv, wide);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(attention_backward_task);

void attention_backward(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                        std::span<const AttentionGradients> gradients, Arena& scratch,
                        ComputeType compute_type) {
  if (compute_type == ComputeType::kBf16 && microkernel())
    return attention_backward_bf16(*microkernel(), shape, sequences, gradients, scratch);
  share_backward(
      shape, sequences, gradients, scratch,
      [&](int64_t keys) { return backward_memory(shape.head_dim, keys); },
      [&](const BackwardTask& task, float* memory) {
        HWY_DYNAMIC_DISPATCH(attention_backward_task)(task, memory);
      });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
