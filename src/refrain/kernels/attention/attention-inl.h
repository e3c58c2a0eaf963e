// Parts that forward and backward of attention share, on one instruction set: blocks of keys and
// values packed for the register tile, products over a range of the reduced dimension, and 2^x.
//
// Rows of q, k, v and o are a whole model's width apart. With a stride close to a power of two they
// share a few sets of the cache. So data that is used more than once is copied into dense buffers.
#if defined(REFRAIN_KERNELS_ATTENTION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_ATTENTION_INL_H_
#undef REFRAIN_KERNELS_ATTENTION_INL_H_
#else
#define REFRAIN_KERNELS_ATTENTION_INL_H_
#endif

#include "hwy/highway.h"
#include "refrain/kernels/attention/attention_pattern.h"
#include "refrain/kernels/attention/scores-inl.h"
#include "refrain/kernels/elementwise/dropout-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_INL_ONCE
#define REFRAIN_KERNELS_ATTENTION_INL_ONCE
namespace refrain::kernels {
// Scores are scaled by log2 e, so that 2^x is e^x without a multiplication.
inline constexpr float kLog2E = 1.44269504f;
// No target's tile has more rows.
inline constexpr int64_t kMaxTileRows = 16;
// Floats of a row of head_dim that whole vectors of any target cover.
inline int64_t padded_head(int64_t head_dim) { return round_up(head_dim, kMaxPanel / 2); }

inline DropoutRow dropout_row(const AttentionShape& shape, const AttentionSequence& s,
                              int64_t query, int64_t head, KeyRange::Kind kind) {
  return {shape.dropout.key, s.row_ids[query],
          static_cast<uint32_t>(2 * head + (kind == KeyRange::kLocal ? 1 : 0))};
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Tiles as wide as a usual head, where registers allow: their left operand is read less often.
#if HWY_TARGET <= HWY_AVX3
inline constexpr int kPanelVectors = 4;
#else
inline constexpr int kPanelVectors = 2;
#endif
inline int64_t panel_cols() { return kPanelVectors * float_lanes(); }
inline constexpr int64_t kRowsAtOnce = tile_rows<kPanelVectors>();
static_assert(kRowsAtOnce <= kMaxTileRows);

inline constexpr float kLowestExponent = -125;
// 2^x for x from there to 127 within 1.5 ulp, NaN of NaN. 2^0 is 1. x = n + r, |r| <= 1/2;
// 2^r = 1 + r q(r), q minimax of degree 4 (error 9e-8).
HWY_INLINE FloatVec exp2_in_range(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  // Adding it rounds to an integer in the low bits, n with the bias of exponents.
  const auto shift = hn::Set(d, 0x1.8p23f + 127);
  const auto shifted = hn::Add(x, shift);
  const auto r = hn::Sub(x, hn::Sub(shifted, shift));
  auto q = hn::MulAdd(r, hn::Set(d, 0.0013264727f), hn::Set(d, 0.0096715127f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.0555073374f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.2402224208f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.6931469776f));
  q = hn::MulAdd(q, r, hn::Set(d, 1.0f));
  // The shift drops the bits above them.
  return hn::Mul(q, hn::BitCast(d, hn::ShiftLeft<23>(hn::BitCast(di, shifted))));
}
// 0 for all smaller x. Keys may be so large that 2^-125 times them would count.
HWY_INLINE FloatVec vector_exp2(FloatVec x) {
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(FloatTag(), kLowestExponent)), exp2_in_range(x));
}

// rowsum(dO o) of a row whose probabilities add up to 2^log_sum times the highest. If one key has
// them all, o is its value. The result then has the bits of that key's dP, a chain in the order of
// a tile's. So dS is exactly 0, and there is no rounding error for large keys to amplify.
HWY_INLINE float output_slope(const float* d_o, const float* o, int64_t n, float log_sum) {
  const FloatTag d;
  FloatVec acc = hn::Zero(d);
  if (log_sum == 0) {
    for (int64_t j = 0; j < n; ++j) acc = hn::MulAdd(constant(d_o[j]), constant(o[j]), acc);
    return hn::GetLane(acc);
  }
  each(n, [&](auto at, int64_t j)
              HWY_ATTR { acc = hn::MulAdd(at.load(d_o + j), at.load(o + j), acc); });
  return hn::GetLane(hn::SumOfLanes(d, acc));
}

// to [n, wide] = rows of `cols` floats, `row` apart, zero beyond them.
HWY_INLINE void copy_rows(const float* from, int64_t row, int64_t n, int64_t cols, int64_t wide,
                          float* to) {
  for (int64_t i = 0; i < n; ++i, from += row, to += wide) {
    each(cols, [&](auto at, int64_t j) HWY_ATTR { at.store(at.load(from + j), to + j); });
    for (int64_t j = cols; j < wide; ++j) to[j] = 0;
  }
}

HWY_INLINE void scale_all(int64_t n, float by, float* x) {
  const FloatVec factor = constant(by);
  each(n, [&](auto at, int64_t j) HWY_ATTR { at.store(hn::Mul(at.load(x + j), factor), x + j); });
}

// to: panels of the transpose of rows [n, d], panel_cols() of them side by side: [d][panel_cols()].
// They are the rows `first`, `first` + 1, ... of what the panels hold.
HWY_INLINE void transpose_rows(const float* from, int64_t row, int64_t first, int64_t n, int64_t d,
                               float* to) {
  const int64_t NR = panel_cols();
  for (int64_t i = 0; i < n;) {
    const int64_t at = first + i, m = std::min(n - i, NR - at % NR);
    transpose(from + i * row, row, m, d, to + at / NR * d * NR + at % NR, NR);
    i += m;
  }
}
HWY_INLINE void clear_panels(int64_t n, int64_t d, float* to) {
  const int64_t NR = panel_cols();
  if (n % NR != 0) std::fill_n(to + n / NR * d * NR, d * NR, 0.0f);
}

// B of a product: rows of a panel of panel_cols() floats at stride `row`, panels `step` apart.
struct Panels {
  const float* data;
  int64_t row, step;
  Panels from_row(int64_t k) const { return {data + k * row, row, step}; }
};
HWY_INLINE Panels transposed_panels(const float* data, int64_t d) {
  return {data, panel_cols(), d * panel_cols()};
}
HWY_INLINE Panels row_panels(const float* data, int64_t row) { return {data, row, panel_cols()}; }

// Some columns of c (+)= A B for up to kRowsAtOnce rows. columns.low: whole vectors.
template <Rows kRows>
HWY_INLINE void tile_row(MatrixView<const float> a, Panels b, Range columns, MatrixView<float> c,
                         bool add) {
  const int64_t NR = panel_cols();
  for (int64_t j = columns.low; j < columns.high;) {
    const int64_t n = std::min(NR - j % NR, columns.high - j);
    tile_of<kRows, kPanelVectors>(a, {b.data + j / NR * b.step + j % NR, a.cols, n, b.row},
                                  c.col_range(j, n), add);
    j += n;
  }
}

// f(first, count) for tiles of nearly equal height that cover [low, high).
template <class F>
HWY_INLINE void each_tile(Range rows, F&& f) {
  const int64_t m = rows.high - rows.low, count = (m + kRowsAtOnce - 1) / kRowsAtOnce;
  for (int64_t t = 0; t < count; ++t)
    f(rows.low + m * t / count, m * (t + 1) / count - m * t / count);
}

// Lanes whose column j + lane is in the range.
HWY_INLINE hn::Mask<FloatTag> lanes_in(Range range, int64_t j) {
  const FloatTag d;
  const auto first_n = [&](int64_t n) HWY_ATTR {
    return hn::FirstN(d, static_cast<size_t>(std::max<int64_t>(n, 0)));
  };
  return hn::AndNot(first_n(range.low - j), first_n(range.high - j));
}

// The factors of dropout for the probabilities of one query and head: 0 or 1 / (1 - rate).
template <int64_t kMostColumns>
struct DropoutFactors {
  // Of keys k0 + columns.low, ..., in whole vectors.
  HWY_INLINE DropoutFactors(const DropoutRate& rate, DropoutRow row, int64_t k0, Range columns)
      : columns_(columns) {
    const FloatTag d;
    const int64_t first = (k0 + columns.low) / drawn_columns() * drawn_columns();
    const auto scale = hn::Set(d, rate.scale);
    of_column_ = memory_ + k0 - first;
    each_drawn(row, first, k0 + columns.low + round_up(columns.high - columns.low, float_lanes()),
               rate.threshold, [&](KeptMask keep, int64_t j) HWY_ATTR {
                 hn::StoreU(hn::IfThenElseZero(keep, scale), d, memory_ + j - first);
               });
  }
  HWY_INLINE void multiply(float* x) const {
    const FloatTag d;
    for (int64_t j = columns_.low; j < columns_.high; j += float_lanes())
      hn::StoreU(hn::Mul(hn::LoadU(d, x + j), hn::LoadU(d, of_column_ + j)), d, x + j);
  }

 private:
  Range columns_;
  const float* of_column_;
  HWY_ALIGN float memory_[kMostColumns + 2 * kMaxDrawn];
};

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
