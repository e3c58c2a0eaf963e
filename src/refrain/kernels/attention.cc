#include "refrain/kernels/attention.h"

#include <cmath>
#include <limits>

#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/tile-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_ONCE
#define REFRAIN_KERNELS_ATTENTION_ONCE
namespace refrain::kernels {
// Keys in a block; also the queries that backward takes at a time. Part of the numbers: it decides
// where the running sum is rescaled.
inline constexpr int64_t kBlock = 64;
// Queries a forward task takes per head: their share of packing a block of keys is small.
inline constexpr int64_t kQueries = 256;

// Operations of the two products of forward.
inline int64_t operations(const AttentionShape& shape, std::span<const AttentionSequence> all) {
  int64_t pairs = 0;
  for (const AttentionSequence& s : all) pairs += s.queries * s.keys;
  return 4 * pairs * shape.heads * shape.head_dim;
}

inline int64_t padded(int64_t head_dim) { return (head_dim + 31) / 32 * 32; }
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// A block of rows [n, cols] as panels for `tile`: itself where whole panels lie in its rows,
// otherwise a copy padded with zeros.
struct RowPanels {
  const float* data;
  int64_t row;
};
HWY_INLINE RowPanels row_panels(const float* from, int64_t row, int64_t n, int64_t cols,
                                float* copy) {
  if (cols % tile_cols() == 0) return {from, row};
  const int64_t width = padded(cols);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < cols; ++j) copy[i * width + j] = from[i * row + j];
    for (int64_t j = cols; j < width; ++j) copy[i * width + j] = 0;
  }
  return {copy, width};
}

// to: panels of the transpose of rows [n, d]: for each tile_cols() rows, [d][tile_cols()].
HWY_INLINE void transposed_panels(const float* from, int64_t row, int64_t n, int64_t d, float* to) {
  const int64_t NR = tile_cols();
  for (int64_t j = 0; j < n; j += NR, to += d * NR) {
    const int64_t m = std::min(NR, n - j);
    if (m < NR)
      for (int64_t i = 0; i < d * NR; ++i) to[i] = 0;
    transpose(from + j * row, row, m, d, to, NR);
  }
}

// c[m, n] (+)= A B over ceil(n / tile_cols()) panels of B that lie `panel_step` floats apart.
template <Rows kRows>
HWY_INLINE void tiles(int64_t m, int64_t n, int64_t K, const float* a, int64_t a_step,
                      const float* b, int64_t b_row, int64_t panel_step, float* c, int64_t c_row,
                      bool add) {
  const int64_t NR = tile_cols();
  const int64_t count = (m + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < count; ++t) {
    const int64_t i0 = m * t / count, mr = m * (t + 1) / count - i0;
    const float* at = kRows == Rows::kAdjacent ? a + i0 : a + i0 * a_step;
    for (int64_t j = 0; j < n; j += NR)
      tile_of<kRows>(mr, at, a_step, b + j / NR * panel_step, b_row, K, c + i0 * c_row + j, c_row,
                     std::min(NR, n - j), add);
  }
}

// One row of scores of a block: the first `seen` of `width` (a multiple of the lanes) count.
// Scores become probabilities relative to the running maximum; returns the factor that what was
// accumulated before must be scaled by.
HWY_INLINE float softmax_row(float* s, int64_t seen, int64_t width, float scale, float& maximum,
                             float& sum) {
  const FloatTag d;
  const int64_t N = float_lanes();
  FloatVec top = hn::Set(d, -std::numeric_limits<float>::infinity());
  const FloatVec factor = hn::Set(d, scale);
  for (int64_t j = 0; j < seen; j += N) {
    const auto mask = hn::FirstN(d, static_cast<size_t>(seen - j));
    const FloatVec v = hn::IfThenElse(mask, hn::Mul(hn::LoadU(d, s + j), factor),
                                      hn::Set(d, -std::numeric_limits<float>::infinity()));
    hn::StoreU(v, d, s + j);
    top = hn::Max(top, v);
  }
  const float highest = std::max(maximum, hn::GetLane(hn::MaxOfLanes(d, top)));
  const FloatVec high = hn::Set(d, highest);
  FloatVec total = hn::Zero(d);
  for (int64_t j = 0; j < seen; j += N) {
    const FloatVec v = hn::LoadU(d, s + j);
    const auto mask = hn::FirstN(d, static_cast<size_t>(seen - j));
    const FloatVec p = hn::IfThenElseZero(mask, vector_exp(hn::Sub(v, high)));
    total = hn::Add(total, p);
    hn::StoreU(p, d, s + j);
  }
  for (int64_t j = (seen + N - 1) / N * N; j < width; j += N) hn::StoreU(hn::Zero(d), d, s + j);
  const float keep = maximum == highest ? 1.0f : std::exp(maximum - highest);
  sum = sum * keep + hn::GetLane(hn::SumOfLanes(d, total));
  maximum = highest;
  return keep;
}

// One task of forward: the queries [q0, q1) of the heads that share key/value head g.
void forward_task(const AttentionShape& shape, const AttentionSequence& s, int64_t g, int64_t q0,
                  int64_t q1, float* work) {
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads, N = float_lanes();
  const int64_t wide = padded(d), count = q1 - q0, past = s.keys - s.queries;
  float* keys = work;                            // panels of a block's keys, transposed
  float* values = keys + d * kBlock;             // padded copy of its values
  float* scores = values + kBlock * wide;        // [kTileRows][kBlock]
  float* maximum = scores + kTileRows * kBlock;  // [group][count]
  float* sum = maximum + group * kQueries;
  for (int64_t i = 0; i < group * kQueries; ++i) {
    maximum[i] = -std::numeric_limits<float>::infinity();
    sum[i] = 0;
  }
  const auto out = [&](int64_t h, int64_t i) {
    return s.o + (q0 + i) * shape.o_row + (g * group + h) * d;
  };
  for (int64_t h = 0; h < group; ++h)
    for (int64_t i = 0; i < count; ++i)
      for (int64_t j = 0; j < d; ++j) out(h, i)[j] = 0;

  for (int64_t k0 = 0; k0 < past + q1; k0 += kBlock) {
    const int64_t n = std::min(kBlock, past + q1 - k0);
    transposed_panels(s.k + k0 * shape.kv_row + g * d, shape.kv_row, n, d, keys);
    const RowPanels v = row_panels(s.v + k0 * shape.kv_row + g * d, shape.kv_row, n, d, values);
    const int64_t first = std::max<int64_t>(0, k0 - past - q0);  // first query that sees the block
    const int64_t tile_count = (count - first + kTileRows - 1) / kTileRows;
    for (int64_t h = 0; h < group; ++h)
      for (int64_t t = 0; t < tile_count; ++t) {
        const int64_t i0 = first + (count - first) * t / tile_count;
        const int64_t mr = first + (count - first) * (t + 1) / tile_count - i0;
        const int64_t seen = std::min(n, past + q0 + i0 + mr - k0);  // by the last of them
        tiles<Rows::kApart>(mr, seen, d, s.q + (q0 + i0) * shape.q_row + (g * group + h) * d,
                            shape.q_row, keys, tile_cols(), d * tile_cols(), scores, kBlock, false);
        for (int64_t i = 0; i < mr; ++i) {
          const int64_t at = h * kQueries + i0 + i;
          const float keep =
              softmax_row(scores + i * kBlock, std::min(n, past + q0 + i0 + i + 1 - k0),
                          (seen + N - 1) / N * N, shape.scale, maximum[at], sum[at]);
          if (keep != 1.0f) {
            float* o = out(h, i0 + i);
            for (int64_t j = 0; j < d; ++j) o[j] *= keep;
          }
        }
        tiles<Rows::kApart>(mr, d, seen, scores, kBlock, v.data, v.row, tile_cols(), out(h, i0),
                            shape.o_row, true);
      }
  }
  for (int64_t h = 0; h < group; ++h)
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = h * kQueries + i;
      float* o = out(h, i);
      const FloatVec inverse = hn::Set(FloatTag(), 1.0f / sum[at]);
      each(d, [&](auto part, int64_t j)
                  HWY_ATTR { part.store(hn::Mul(part.load(o + j), inverse), o + j); });
      s.lse[(g * group + h) * s.queries + q0 + i] = maximum[at] + std::log(sum[at]);
    }
}

// One task of backward: key/value head g of one sequence, and the query heads that share it.
void backward_task(const AttentionShape& shape, const AttentionSequence& s,
                   const AttentionGradients& grad, int64_t dq_row, int64_t dkv_row, bool add_kv,
                   int64_t g, float* work, float* delta /*[group, queries]*/) {
  const FloatTag tag;
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads, N = float_lanes();
  const int64_t NR = tile_cols(), wide = padded(d), past = s.keys - s.queries;
  float* keys = work;                   // panels: keys transposed
  float* values = keys + d * kBlock;    // panels: values transposed
  float* copy_k = values + d * kBlock;  // padded copies, where rows are not whole panels
  float* copy_q = copy_k + kBlock * wide;
  float* copy_o = copy_q + kBlock * wide;
  float* p = copy_o + kBlock * wide;  // [kBlock queries][kBlock keys]: S, then P
  float* ds = p + kBlock * kBlock;    // dP, then dS
  float* dk = ds + kBlock * kBlock;   // [kBlock][wide]
  float* dv = dk + kBlock * wide;

  for (int64_t h = 0; h < group; ++h)
    for (int64_t i = 0; i < s.queries; ++i) {
      const int64_t head = (g * group + h) * d;
      const float *o = s.o + i * shape.o_row + head, *d_o = grad.d_o + i * shape.o_row + head;
      FloatVec acc = hn::Zero(tag);
      each(d, [&](auto at, int64_t j)
                  HWY_ATTR { acc = hn::MulAdd(at.load(o + j), at.load(d_o + j), acc); });
      delta[h * s.queries + i] = hn::GetLane(hn::SumOfLanes(tag, acc));
      float* dq = grad.dq + i * dq_row + head;
      for (int64_t j = 0; j < d; ++j) dq[j] = 0;
    }

  for (int64_t k0 = 0; k0 < s.keys; k0 += kBlock) {
    const int64_t n = std::min(kBlock, s.keys - k0);
    const float* k_rows = s.k + k0 * shape.kv_row + g * d;
    transposed_panels(k_rows, shape.kv_row, n, d, keys);
    transposed_panels(s.v + k0 * shape.kv_row + g * d, shape.kv_row, n, d, values);
    const RowPanels k = row_panels(k_rows, shape.kv_row, n, d, copy_k);
    for (int64_t i = 0; i < kBlock * wide; ++i) dk[i] = dv[i] = 0;
    const int64_t first = std::max<int64_t>(0, k0 - past);
    for (int64_t h = 0; h < group; ++h)
      // Queries in blocks at absolute positions, so that a chain is the same however T is cut.
      for (int64_t q0 = first; q0 < s.queries;) {
        const int64_t q1 = std::min(s.queries, ((past + q0) / kBlock + 1) * kBlock - past);
        const int64_t rows = q1 - q0, head = (g * group + h) * d;
        const int64_t seen = std::min(n, past + q1 - k0);
        const int64_t width = (seen + N - 1) / N * N;
        const float* q_rows = s.q + q0 * shape.q_row + head;
        const float* o_rows = grad.d_o + q0 * shape.o_row + head;
        tiles<Rows::kApart>(rows, seen, d, q_rows, shape.q_row, keys, NR, d * NR, p, kBlock, false);
        tiles<Rows::kApart>(rows, seen, d, o_rows, shape.o_row, values, NR, d * NR, ds, kBlock,
                            false);
        for (int64_t i = 0; i < rows; ++i) {
          const int64_t visible = std::min(seen, past + q0 + i + 1 - k0);
          const FloatVec lse = hn::Set(tag, s.lse[(g * group + h) * s.queries + q0 + i]);
          const FloatVec row_delta = hn::Set(tag, delta[h * s.queries + q0 + i]);
          const FloatVec scale = hn::Set(tag, shape.scale);
          float *p_row = p + i * kBlock, *ds_row = ds + i * kBlock;
          for (int64_t j = 0; j < width; j += N) {
            const auto mask =
                hn::FirstN(tag, static_cast<size_t>(std::max<int64_t>(visible - j, 0)));
            const FloatVec x = hn::Sub(hn::Mul(hn::LoadU(tag, p_row + j), scale), lse);
            const FloatVec prob = hn::IfThenElseZero(mask, vector_exp(x));
            const FloatVec dp = hn::Sub(hn::LoadU(tag, ds_row + j), row_delta);
            hn::StoreU(prob, tag, p_row + j);
            hn::StoreU(hn::IfThenElseZero(mask, hn::Mul(hn::Mul(prob, dp), scale)), tag,
                       ds_row + j);
          }
        }
        const RowPanels q = row_panels(q_rows, shape.q_row, rows, d, copy_q);
        const RowPanels d_o = row_panels(o_rows, shape.o_row, rows, d, copy_o);
        tiles<Rows::kAdjacent>(seen, d, rows, p, kBlock, d_o.data, d_o.row, NR, dv, wide, true);
        tiles<Rows::kAdjacent>(seen, d, rows, ds, kBlock, q.data, q.row, NR, dk, wide, true);
        tiles<Rows::kApart>(rows, d, seen, ds, kBlock, k.data, k.row, NR,
                            grad.dq + q0 * dq_row + head, dq_row, true);
        q0 = q1;
      }
    for (int64_t i = 0; i < n; ++i) {
      float* to_k = grad.dk + (k0 + i) * dkv_row + g * d;
      float* to_v = grad.dv + (k0 + i) * dkv_row + g * d;
      for (int64_t j = 0; j < d; ++j) {
        to_k[j] = dk[i * wide + j] + (add_kv ? to_k[j] : 0.0f);
        to_v[j] = dv[i * wide + j] + (add_kv ? to_v[j] : 0.0f);
      }
    }
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(forward_task);
HWY_EXPORT(backward_task);

void attention_forward(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                       Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  const Tensor work =
      scratch.take({threads(), kBlock * (d + padded(d) + 16) + 2 * group * kQueries});
  if (scratch.counts_only() || sequences.empty()) return;
  int64_t longest = 0;
  for (const AttentionSequence& s : sequences) longest = std::max(longest, s.queries);
  // Enough tasks for the threads, of no more than kQueries queries.
  const int64_t heads = static_cast<int64_t>(sequences.size()) * shape.kv_heads;
  const int64_t pieces = std::max((longest + kQueries - 1) / kQueries,
                                  std::min((longest + 63) / 64, 4 * threads() / heads + 1));
  const int64_t per_piece = (longest + pieces - 1) / pieces;
  parallel_for(
      heads * pieces,
      [&](int64_t task, int worker) {
        // The last pieces see the most keys: they go first.
        const int64_t piece = pieces - 1 - task / heads, head = task % heads;
        const AttentionSequence& s = sequences[static_cast<size_t>(head / shape.kv_heads)];
        const int64_t q0 = piece * per_piece, q1 = std::min(s.queries, q0 + per_piece);
        if (q0 < q1) HWY_DYNAMIC_DISPATCH(forward_task)
        (shape, s, head % shape.kv_heads, q0, q1, work.row(worker));
      },
      operations(shape, sequences));
}

void attention_backward(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                        std::span<const AttentionGradients> gradients, int64_t dq_row,
                        int64_t dkv_row, bool add_kv, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  int64_t longest = 0;
  for (const AttentionSequence& s : sequences) longest = std::max(longest, s.queries);
  const Tensor work = scratch.take({threads(), kBlock * (2 * d + 5 * padded(d) + 2 * kBlock)});
  const Tensor delta = scratch.take({threads(), group * longest});
  if (scratch.counts_only() || sequences.empty()) return;
  const int64_t heads = static_cast<int64_t>(sequences.size()) * shape.kv_heads;
  parallel_for(
      heads,
      [&](int64_t task, int worker) {
        const auto b = static_cast<size_t>(task / shape.kv_heads);
        HWY_DYNAMIC_DISPATCH(backward_task)
        (shape, sequences[b], gradients[b], dq_row, dkv_row, add_kv, task % shape.kv_heads,
         work.row(worker), delta.row(worker));
      },
      5 * operations(shape, sequences) / 2);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
