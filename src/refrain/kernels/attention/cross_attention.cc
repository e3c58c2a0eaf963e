#include "refrain/kernels/attention/cross_attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention/cross_attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention/attention-inl.h"

#ifndef REFRAIN_KERNELS_CROSS_ATTENTION_ONCE
#define REFRAIN_KERNELS_CROSS_ATTENTION_ONCE
namespace refrain::kernels {
// Keys whose scores exist at a time; a multiple of every target's panels.
constexpr int64_t kCrossBlock = 64;
// Floats of a thread's scratch.
inline int64_t cross_work(int64_t head_dim) {
  return kMaxTileRows * (2 * kCrossBlock + 3 * padded_head(head_dim));
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Where a head's part of a pack lies.
HWY_INLINE int64_t head_floats(const CrossShape& shape, int64_t rows) {
  return cross_pack_floats(shape, rows) / shape.heads;
}

void cross_pack_head(const CrossShape& shape, MatrixView<const float> from, const CrossPack& to,
                     int64_t h) {
  const int64_t d = shape.head_dim, rows = from.rows, at = h * head_floats(shape, rows);
  if (to.rows) copy_rows(from.data + h * d, from.row_stride, rows, d, padded_head(d), to.rows + at);
  if (!to.panels) return;
  clear_panels(rows, d, to.panels + at);
  transpose_rows(from.data + h * d, from.row_stride, 0, rows, d, to.panels + at);
}

// One head of a sequence.
struct CrossHead {
  const CrossShape& shape;
  const CrossMemory& memory;
  const CrossQueries& asked;
  int64_t h;

  int64_t d() const { return shape.head_dim; }
  const float* at(const float* pack) const { return pack + h * head_floats(shape, memory.rows); }
  // Rows of keys or values [first, ...) as panels of the products that reduce over d and over rows.
  Panels across(const CrossPack& pack, int64_t first) const {
    return transposed_panels(at(pack.panels) + first / panel_cols() * d() * panel_cols(), d());
  }
  Panels along(const CrossPack& pack, int64_t first) const {
    const int64_t wide = padded_head(d());
    return row_panels(at(pack.rows) + first * wide, wide);
  }
  float* kept(int64_t i) const { return asked.kept.row(i) + h * asked.kept_head; }
  float& maximum(int64_t i) const { return asked.softmax[2 * i * shape.heads + h]; }
  float& log_sum(int64_t i) const { return asked.softmax[(2 * i + 1) * shape.heads + h]; }

  // The window of query i.
  Range window(int64_t i) const {
    const int64_t t = std::min(asked.first + i, memory.rows - 1), low = t - shape.window / 2;
    return {std::max<int64_t>(0, low), std::min(memory.rows, low + shape.window)};
  }
  // Columns of the block of keys at k0, beginning with a whole vector: all that any of the m
  // queries from i0 on sees, or none.
  Range columns(int64_t i0, int64_t m, int64_t k0) const {
    const Range all{0, std::min(kCrossBlock, memory.rows - k0)};
    if (shape.window == 0) return all;
    Range seen = intersection(shifted({window(i0).low, window(i0 + m - 1).high}, -k0), all);
    if (shape.stride > 0 && next_strided(k0, 0) < all.high) {
      const int64_t last = (k0 + all.high) / shape.stride * shape.stride - 1 - k0;
      const bool is_alone = seen.low >= seen.high;
      seen = {is_alone ? next_strided(k0, 0) : std::min(seen.low, next_strided(k0, 0)),
              is_alone ? last + 1 : std::max(seen.high, last + 1)};
    }
    return seen.low < seen.high ? Range{seen.low / float_lanes() * float_lanes(), seen.high}
                                : Range{0, 0};
  }
  // Sets those of the columns of a row that query i does not see.
  void hide(int64_t i, int64_t k0, Range columns, float value, float* row) const {
    if (shape.window == 0) return;
    const Range near = shifted(window(i), -k0);
    hide({columns.low, std::min(columns.high, near.low)}, k0, value, row);
    hide({std::max(columns.low, near.high), columns.high}, k0, value, row);
  }

 private:
  // The first column from j on that every query sees by the stride.
  int64_t next_strided(int64_t k0, int64_t j) const {
    return (k0 + j + shape.stride) / shape.stride * shape.stride - 1 - k0;
  }
  void hide(Range columns, int64_t k0, float value, float* row) const {
    const int64_t stride = shape.stride > 0 ? shape.stride : memory.rows;
    int64_t next = shape.stride > 0 ? next_strided(k0, columns.low) : columns.high;
    for (int64_t j = columns.low; j < columns.high; j = next + 1, next += stride)
      std::fill(row + j, row + std::min(next, columns.high), value);
  }
};

// A tile's queries as scores need them, and the units of the scores. memory: [kMaxTileRows, d].
struct QueryTile {
  HWY_INLINE QueryTile(const CrossHead& x, int64_t i0, int64_t m, float* memory) : count(m) {
    std::fill_n(unit, m, x.shape.scale * kLog2E);
    rows = queries_in_range(x.asked.q.row_range(i0, m).col_range(x.h * x.d(), x.d()), unit,
                            {memory, m, x.d()});
  }
  int64_t count;
  MatrixView<const float> rows;
  float unit[kMaxTileRows];
};

// Some columns of scores [m, n] of a tile of queries against n keys from k0 on.
HWY_INLINE void score_block(const CrossHead& x, const QueryTile& q, int64_t k0, Range columns,
                            MatrixView<float> scores) {
  tile_row<Rows::kApart>(q.rows, x.across(x.memory.keys, k0), columns, scores, false);
}

// to [m, d] += a bᵀ over the columns of a [m, kCrossBlock], b: rows of keys or values from k0 on.
HWY_INLINE void add_rows(const CrossHead& x, const float* a, const CrossPack& pack, int64_t k0,
                         Range columns, MatrixView<float> to) {
  tile_row<Rows::kApart>({a + columns.low, to.rows, columns.high - columns.low, kCrossBlock},
                         x.along(pack, k0 + columns.low), {0, to.cols}, to, true);
}

// Queries i0 .. i0 + m. work: scores [kCrossBlock], sums [d] and the query [d] a row.
HWY_INLINE void forward_rows(const CrossHead& x, int64_t i0, int64_t m, float* work) {
  const FloatTag tag;
  const int64_t d = x.d(), wide = padded_head(d), N = float_lanes();
  float *scores = work, *out = work + kMaxTileRows * kCrossBlock;
  const QueryTile q(x, i0, m, out + kMaxTileRows * wide);
  float maximum[kMaxTileRows], sum[kMaxTileRows];
  std::fill_n(maximum, m, -std::numeric_limits<float>::infinity());
  std::fill_n(sum, m, 0.0f);
  std::fill_n(out, m * wide, 0.0f);
  for (int64_t k0 = 0; k0 < x.memory.rows; k0 += kCrossBlock) {
    const Range seen = x.columns(i0, m, k0);
    if (seen.high == 0) continue;
    score_block(x, q, k0, seen, {scores, m, seen.high, kCrossBlock});
    for (int64_t i = 0; i < m; ++i) {
      float* s = scores + i * kCrossBlock;
      x.hide(i0 + i, k0, seen, -std::numeric_limits<float>::infinity(), s);
      const FloatVec unit = constant(q.unit[i]);
      FloatVec top = constant(-std::numeric_limits<float>::infinity());
      for (int64_t j = seen.low; j < seen.high; j += N)
        top = hn::Max(top, hn::IfThenElse(lanes_in(seen, j), hn::LoadU(tag, s + j), top));
      const float high = std::max(maximum[i], hn::GetLane(hn::MaxOfLanes(tag, top)));
      if (high == -std::numeric_limits<float>::infinity()) {  // it has seen no key yet
        std::fill(s + seen.low, s + seen.high, 0.0f);
        continue;
      }
      if (high != maximum[i]) {
        const FloatVec keep = vector_exp2(constant(q.unit[i] * (maximum[i] - high)));
        float* o = out + i * wide;
        for (int64_t j = 0; j < wide; j += N)
          hn::StoreU(hn::Mul(hn::LoadU(tag, o + j), keep), tag, o + j);
        sum[i] *= hn::GetLane(keep);
        maximum[i] = high;
      }
      FloatVec total = hn::Zero(tag);
      for (int64_t j = seen.low; j < seen.high; j += N) {
        const FloatVec below = hn::Sub(hn::LoadU(tag, s + j), constant(high));
        const FloatVec p = hn::IfThenElseZero(lanes_in(seen, j), vector_exp2(hn::Mul(below, unit)));
        total = hn::Add(total, p);
        hn::StoreU(p, tag, s + j);
      }
      sum[i] += hn::GetLane(hn::SumOfLanes(tag, total));
    }
    add_rows(x, scores, x.memory.values, k0, seen, {out, m, d, wide});
  }
  for (int64_t i = 0; i < m; ++i) {
    const FloatVec inverse = constant(1.0f / sum[i]);
    const float* from = out + i * wide;
    float* o = x.asked.o.row(i0 + i) + x.h * d;
    each(d, [&](auto at, int64_t j)
                HWY_ATTR { at.store(hn::Mul(at.load(from + j), inverse), o + j); });
    x.maximum(i0 + i) = maximum[i];
    x.log_sum(i0 + i) = std::log2(sum[i]);
  }
}

// P of a tile of queries, the first of them i0, and the block of keys at k0, by what forward left.
HWY_INLINE void probability_block(const CrossHead& x, const QueryTile& q, int64_t i0, int64_t k0,
                                  Range columns, float* p) {
  score_block(x, q, k0, columns, {p, q.count, columns.high, kCrossBlock});
  for (int64_t i = 0; i < q.count; ++i) {
    float* s = p + i * kCrossBlock;
    const FloatVec unit = constant(q.unit[i]), highest = constant(x.maximum(i0 + i));
    const FloatVec log_sum = constant(x.log_sum(i0 + i));
    each(columns.high - columns.low, [&](auto at, int64_t column) HWY_ATTR {
      const int64_t j = columns.low + column;
      const FloatVec below = hn::Sub(at.load(s + j), highest);
      at.store(vector_exp2(hn::MulSub(below, unit, log_sum)), s + j);
    });
    x.hide(i0 + i, k0, columns, 0, s);
  }
}

// The same with P whole and kept.
HWY_INLINE void forward_rows_kept(const CrossHead& x, int64_t i0, int64_t m, float* work) {
  const int64_t d = x.d(), wide = padded_head(d), n = x.memory.rows;
  const QueryTile q(x, i0, m, work + kMaxTileRows * wide);
  score_block(x, q, 0, {0, n}, {x.kept(i0), m, n, x.asked.kept.row_stride});
  for (int64_t i = 0; i < m; ++i) {
    float* s = x.kept(i0 + i);
    x.hide(i0 + i, 0, {0, n}, -std::numeric_limits<float>::infinity(), s);
    const FloatVec unit = constant(q.unit[i]);
    const float high = *std::max_element(s, s + n);
    const double sum = sum_each(n, [&](auto at, int64_t j, FloatVec acc) HWY_ATTR {
      const FloatVec p = vector_exp2(hn::Mul(hn::Sub(at.load(s + j), constant(high)), unit));
      at.store(p, s + j);
      return hn::Add(acc, at.fill(p, hn::Zero(FloatTag())));
    });
    const FloatVec inverse = constant(static_cast<float>(1 / sum));
    each(n,
         [&](auto at, int64_t j) HWY_ATTR { at.store(hn::Mul(at.load(s + j), inverse), s + j); });
    x.maximum(i0 + i) = high;
    x.log_sum(i0 + i) = static_cast<float>(std::log2(sum));
  }
  tile_row<Rows::kApart>({x.kept(i0), m, n, x.asked.kept.row_stride}, x.along(x.memory.values, 0),
                         {0, d}, {work, m, d, wide}, false);
  for (int64_t i = 0; i < m; ++i) std::copy_n(work + i * wide, d, x.asked.o.row(i0 + i) + x.h * d);
}

// A tile of queries in backward, from i0 on.
struct GradientTile {
  // memory: [kMaxTileRows, d]
  HWY_INLINE GradientTile(const CrossHead& head, const CrossGradients& gradients, int64_t first,
                          int64_t m, float* memory)
      : x(head), g(gradients), i0(first), q(head, first, x.asked.kept ? 0 : m, memory) {
    for (int64_t i = 0; i < m; ++i)
      sums[i] = output_slope(g.d_o.row(i0 + i) + x.h * x.d(), x.asked.o.row(i0 + i) + x.h * x.d(),
                             x.d(), x.log_sum(i0 + i));
  }
  const CrossHead& x;
  const CrossGradients& g;
  int64_t i0;
  QueryTile q;
  float sums[kMaxTileRows];  // rowsum(dO o)
};

// P and scale dS of m queries and the block of keys at k0; the columns that they see.
HWY_INLINE Range gradient_block(const GradientTile& tile, int64_t m, int64_t k0, float* p,
                                float* ds) {
  const CrossHead& x = tile.x;
  const CrossGradients& g = tile.g;
  const int64_t i0 = tile.i0;
  const Range seen = x.columns(i0, m, k0);
  const int64_t low = seen.low, n = seen.high - low;
  if (n == 0) return seen;
  if (x.asked.kept)
    for (int64_t i = 0; i < m; ++i)
      std::copy_n(x.kept(i0 + i) + k0 + low, n, p + i * kCrossBlock + low);
  else
    probability_block(x, tile.q, i0, k0, seen, p);
  tile_row<Rows::kApart>(g.d_o.row_range(i0, m).col_range(x.h * x.d(), x.d()),
                         x.across(x.memory.values, k0), seen, {ds, m, seen.high, kCrossBlock},
                         false);
  const FloatVec scale = constant(x.shape.scale);
  for (int64_t i = 0; i < m; ++i) {
    const float* probability = p + i * kCrossBlock + low;
    float* s = ds + i * kCrossBlock + low;
    const FloatVec sum = constant(tile.sums[i]);
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      const auto slope = hn::Mul(at.load(probability + j), hn::Sub(at.load(s + j), sum));
      at.store(hn::Mul(slope, scale), s + j);
    });
  }
  return seen;
}

HWY_INLINE void query_gradient_rows(const CrossHead& x, const CrossGradients& g, int64_t i0,
                                    int64_t m, float* work) {
  float *p = work, *ds = p + kMaxTileRows * kCrossBlock, *dq = ds + kMaxTileRows * kCrossBlock;
  const int64_t d = x.d(), wide = padded_head(d);
  const GradientTile tile(x, g, i0, m, dq + kMaxTileRows * wide);
  std::fill_n(dq, m * wide, 0.0f);
  for (int64_t k0 = 0; k0 < x.memory.rows; k0 += kCrossBlock) {
    const Range seen = gradient_block(tile, m, k0, p, ds);
    add_rows(x, ds, x.memory.keys, k0, seen, {dq, m, d, wide});
  }
  for (int64_t i = 0; i < m; ++i) std::copy_n(dq + i * wide, d, g.dq.row(i0 + i) + x.h * d);
}

// to [n, d] += aᵀ b with a [m, kCrossBlock], b [m, wide].
HWY_INLINE void add_outer(const float* a, const float* b, int64_t m, MatrixView<float> to) {
  each_tile({0, to.rows}, [&](int64_t j, int64_t rows) HWY_ATTR {
    tile_row<Rows::kAdjacent>({a + j, rows, m, 1, kCrossBlock}, row_panels(b, padded_head(to.cols)),
                              {0, to.cols}, to.row_range(j, rows), true);
  });
}

HWY_INLINE void memory_gradient_rows(const CrossHead& x, const CrossGradients& g, int64_t i0,
                                     int64_t m, float* work) {
  const int64_t d = x.d(), wide = padded_head(d), column = x.h * d;
  float *p = work, *ds = p + kMaxTileRows * kCrossBlock, *q = ds + kMaxTileRows * kCrossBlock;
  float* d_o = q + kMaxTileRows * wide;
  const GradientTile tile(x, g, i0, m, d_o + kMaxTileRows * wide);
  copy_rows(x.asked.q.row(i0) + column, x.asked.q.row_stride, m, d, wide, q);
  copy_rows(g.d_o.row(i0) + column, g.d_o.row_stride, m, d, wide, d_o);
  for (int64_t k0 = 0; k0 < x.memory.rows; k0 += kCrossBlock) {
    const Range seen = gradient_block(tile, m, k0, p, ds);
    const int64_t low = seen.low, n = seen.high - low;
    if (n == 0) continue;
    add_outer(p + low, d_o, m, g.dv.row_range(k0 + low, n).col_range(column, d));
    add_outer(ds + low, q, m, g.dk.row_range(k0 + low, n).col_range(column, d));
  }
}

// All queries of a head, in tiles.
void cross_forward_head(const CrossShape& shape, const CrossMemory& memory,
                        const CrossQueries& asked, int64_t h, float* work) {
  const CrossHead x{shape, memory, asked, h};
  each_tile({0, asked.count()}, [&](int64_t i0, int64_t m) HWY_ATTR {
    if (asked.kept)
      forward_rows_kept(x, i0, m, work);
    else
      forward_rows(x, i0, m, work);
  });
}
void cross_backward_queries_head(const CrossShape& shape, const CrossMemory& memory,
                                 const CrossQueries& asked, const CrossGradients& g, int64_t h,
                                 float* work) {
  const CrossHead x{shape, memory, asked, h};
  each_tile({0, asked.count()},
            [&](int64_t i0, int64_t m) HWY_ATTR { query_gradient_rows(x, g, i0, m, work); });
}
void cross_backward_memory_head(const CrossShape& shape, const CrossMemory& memory,
                                const CrossQueries& asked, const CrossGradients& g, int64_t h,
                                float* work) {
  const CrossHead x{shape, memory, asked, h};
  each_tile({0, asked.count()},
            [&](int64_t i0, int64_t m) HWY_ATTR { memory_gradient_rows(x, g, i0, m, work); });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(cross_pack_head);
HWY_EXPORT(cross_forward_head);
HWY_EXPORT(cross_backward_queries_head);
HWY_EXPORT(cross_backward_memory_head);
namespace {

// f(sequence, head, scratch of the thread) for all of them; `per_score`: operations of a query, a
// key and an element of the head.
template <class F>
void each_head(const CrossShape& shape, std::span<const CrossMemory> memory,
               std::span<const CrossQueries> asked, int64_t per_score, Arena& scratch, F&& f) {
  REFRAIN_CHECK(memory.size() == asked.size());
  Arena::Frame frame(scratch);
  const Tensor work = scratch.take({threads(), cross_work(shape.head_dim)});
  if (scratch.planning()) return;
  int64_t scores = 0;
  for (size_t b = 0; b < asked.size(); ++b) {
    REFRAIN_CHECK(asked[b].count() == 0 || memory[b].rows > 0);
    const bool near = shape.window > 0 && shape.stride == 0;
    scores += asked[b].count() * (near ? std::min(shape.window, memory[b].rows) : memory[b].rows);
  }
  parallel_for(
      static_cast<int64_t>(asked.size()) * shape.heads,
      [&](int64_t task, int worker) {
        f(static_cast<size_t>(task / shape.heads), task % shape.heads, work.row(worker));
      },
      per_score * scores * shape.width());
}

}  // namespace

int64_t cross_pack_floats(const CrossShape& shape, int64_t rows) {
  return shape.heads * round_up(rows, kCrossBlock) * padded_head(shape.head_dim);
}

void cross_pack(const CrossShape& shape, MatrixView<const float> from, const CrossPack& to) {
  for (int64_t h = 0; h < shape.heads; ++h)
    HWY_DYNAMIC_DISPATCH(cross_pack_head)(shape, from, to, h);
}

void cross_forward(const CrossShape& shape, std::span<const CrossMemory> memory,
                   std::span<const CrossQueries> asked, Arena& scratch) {
  each_head(shape, memory, asked, 4, scratch, [&](size_t b, int64_t h, float* work) {
    HWY_DYNAMIC_DISPATCH(cross_forward_head)(shape, memory[b], asked[b], h, work);
  });
}

void cross_backward_queries(const CrossShape& shape, std::span<const CrossMemory> memory,
                            std::span<const CrossQueries> asked,
                            std::span<const CrossGradients> gradients, Arena& scratch) {
  each_head(shape, memory, asked, 6, scratch, [&](size_t b, int64_t h, float* work) {
    HWY_DYNAMIC_DISPATCH(cross_backward_queries_head)
    (shape, memory[b], asked[b], gradients[b], h, work);
  });
}

void cross_backward_memory(const CrossShape& shape, std::span<const CrossMemory> memory,
                           std::span<const CrossQueries> asked,
                           std::span<const CrossGradients> gradients, Arena& scratch) {
  each_head(shape, memory, asked, 8, scratch, [&](size_t b, int64_t h, float* work) {
    HWY_DYNAMIC_DISPATCH(cross_backward_memory_head)
    (shape, memory[b], asked[b], gradients[b], h, work);
  });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
