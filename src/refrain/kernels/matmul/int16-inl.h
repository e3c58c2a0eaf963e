// Numbers rounded to 16-bit integers with shared scales, and the register tile of their products
// (format_int16.h says what they are), on one instruction set. Included once per SIMD target by the
// kernel files.
#if defined(REFRAIN_KERNELS_INT16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_INT16_INL_H_
#undef REFRAIN_KERNELS_INT16_INL_H_
#else
#define REFRAIN_KERNELS_INT16_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "refrain/kernels/matmul/driver.h"
#include "refrain/kernels/matmul/format_int16.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_INT16_ONCE
#define REFRAIN_KERNELS_INT16_ONCE
namespace refrain::kernels {
inline constexpr int64_t kMostLanes = 16;     // of a vector of any target
inline constexpr int64_t kMostPacked = 2304;  // columns that are packed in one call

// Two neighbours along the reduced index, the first in the lower half.
using Pair = int32_t;

// Groups that are worked at a time.
struct ReductionGroups {
  const int32_t* edges;  // group g is [edges[g], edges[g + 1])
  int64_t count, pairs;  // pairs: of all of them

  int64_t begin(int64_t g) const { return edges[g]; }
  int64_t length(int64_t g) const { return edges[g + 1] - edges[g]; }
  int64_t pairs_of(int64_t g) const { return (length(g) + 1) / 2; }
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

using PairTag = hn::RebindToSigned<FloatTag>;
using PairVec = hn::Vec<PairTag>;

// acc + the sums of both products of each pair of a and b.
struct MultiplyAdd {
  static HWY_INLINE PairVec add(PairVec acc, PairVec a, PairVec b) {
#if HWY_ARCH_X86 && HWY_TARGET != HWY_SCALAR  // where a pair's two products are not reordered
    const PairTag d;
    const hn::Repartition<int16_t, PairTag> d16;
    PairVec unused = hn::Zero(d);
    return hn::ReorderWidenMulAccumulate(d, hn::BitCast(d16, a), hn::BitCast(d16, b), acc, unused);
#else
    const auto low = [](PairVec x) HWY_ATTR { return hn::ShiftRight<16>(hn::ShiftLeft<16>(x)); };
    const auto high = [](PairVec x) HWY_ATTR { return hn::ShiftRight<16>(x); };
    return hn::Add(acc, hn::Add(hn::Mul(low(a), low(b)), hn::Mul(high(a), high(b))));
#endif
  }
};

#if HWY_TARGET <= HWY_AVX3 && defined(__x86_64__)
// The same in one instruction, which this target does not promise: by its name.
struct Vnni {
  static HWY_INLINE PairVec add(PairVec acc, PairVec a, PairVec b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(acc.raw) : "v"(a.raw), "v"(b.raw));
    return acc;
  }
};
#endif

// Numbers up to this count as zero: largest over it could overflow.
inline constexpr float kSmallest = 0x1p-100f;
// What x is multiplied by, largest / magnitude, and what undoes it. Nothing but zeros: zero. Where
// the magnitude is infinite or NaN, the scale is.
struct Scale {
  FloatVec inverse, scale;
};
HWY_INLINE Scale scale_of(FloatVec magnitude, int32_t largest) {
  const FloatTag d;
  const auto top = hn::Set(d, static_cast<float>(largest));
  const auto counts = hn::Gt(magnitude, hn::Set(d, kSmallest));
  const auto none = hn::Le(magnitude, hn::Set(d, kSmallest));
  return {hn::IfThenElseZero(counts, hn::Div(top, magnitude)),
          hn::IfThenZeroElse(none, hn::Div(magnitude, top))};
}

// Rows come from far: so many ahead of the one at hand are asked for.
inline constexpr int64_t kPrefetchedRows = 4;
HWY_INLINE void prefetch(const float* row, int64_t n) {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t i = 0; i < n; i += kLine) __builtin_prefetch(row + i, 0, 3);
}

// The larger magnitude, NaN being the largest: as their bits are ordered.
HWY_INLINE PairVec larger(PairVec so_far, FloatVec v) {
  const PairTag di;
  return hn::Max(so_far, hn::And(hn::BitCast(di, v), hn::Set(di, 0x7fffffff)));
}

// The integer nearest to x times inverse, of at most 2^15, in the lower half of the bits: added to
// a number whose last bit counts ones, it stands there.
HWY_INLINE PairVec rounded(FloatVec x, FloatVec inverse) {
  return hn::BitCast(PairTag(), hn::MulAdd(x, inverse, hn::Set(FloatTag(), 0x1.8p23f)));
}
HWY_INLINE PairVec rounded_pair(FloatVec x, FloatVec y, FloatVec inverse) {
  const auto low = hn::And(rounded(x, inverse), hn::Set(PairTag(), 0xffff));
  return hn::Or(low, hn::ShiftLeft<16>(rounded(y, inverse)));
}

// n numbers of one item, one after another, to (n + 1) / 2 pairs. Returns their scale.
HWY_INLINE float round_k_contiguous(const float* HWY_RESTRICT from, int64_t n, int32_t largest,
                                    Pair* HWY_RESTRICT to) {
  const FloatTag d;
  const PairTag di;
  PairVec most = hn::Zero(di);
  each(n, [&](auto at, int64_t i) HWY_ATTR { most = larger(most, at.load(from + i)); });
  // As scale_of() for one, which is sooner done than for a vector.
  const float magnitude = hn::GetLane(hn::BitCast(d, hn::MaxOfLanes(di, most)));
  const auto top = static_cast<float>(largest);
  const FloatVec inverse = hn::Set(d, magnitude > kSmallest ? top / magnitude : 0);
#if HWY_TARGET == HWY_SCALAR
  for (int64_t p = 0; p < (n + 1) / 2; ++p) {
    const auto x = hn::LoadU(d, from + 2 * p);
    const auto y = 2 * p + 1 < n ? hn::LoadU(d, from + 2 * p + 1) : hn::Zero(d);
    hn::StoreU(rounded_pair(x, y, inverse), di, to + p);
  }
#else
  const int64_t N = float_lanes();
  const hn::Repartition<uint32_t, FloatTag> d32;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const auto halves = [&](FloatVec x) HWY_ATTR {
    return hn::TruncateTo(d16, hn::BitCast(d32, rounded(x, inverse)));
  };
  auto* all = reinterpret_cast<uint16_t*>(to);
  int64_t i = 0;
  for (; i + N <= n; i += N) hn::StoreU(halves(hn::LoadU(d, from + i)), d16, all + i);
  if (i < n) {
    HWY_ALIGN uint16_t last[HWY_MAX_BYTES / sizeof(float)];
    hn::StoreU(halves(Part{n - i}.load(from + i)), d16, last);
    // A vector has an even number of lanes, those beyond n are zero.
    std::copy_n(last, (n - i + 1) / 2 * 2, all + i);
  }
#endif
  return magnitude <= kSmallest ? 0 : magnitude / top;
}

// Of items, the rows of x, side by side: pair p of item j to to(j)[p * to_row], in whole vectors.
// scales: [items], in whole vectors.
template <class To>
HWY_INLINE void round_k_strided(MatrixView<const float> x, int32_t largest, float* scales,
                                int64_t to_row, To&& to) {
  const int64_t count = x.rows, n = x.cols, k_stride = x.col_stride;
  const FloatTag d;
  const PairTag di;
  const int64_t N = float_lanes();
  // Row after row, as they lie in memory.
  std::fill(scales, scales + round_up(count, N), 0.0f);
  for (int64_t k = 0; k < n; ++k) {
    const float* row = x.data + k * k_stride;
    if (k + kPrefetchedRows < n) prefetch(row + kPrefetchedRows * k_stride, count);
    each(count, [&](auto at, int64_t j) HWY_ATTR {
      const PairVec most = hn::BitCast(di, hn::LoadU(d, scales + j));
      hn::StoreU(hn::BitCast(d, larger(most, at.load(row + j))), d, scales + j);
    });
  }
  each(count, [&](auto at, int64_t j) HWY_ATTR {
    const Scale s = scale_of(hn::LoadU(d, scales + j), largest);
    hn::StoreU(s.scale, d, scales + j);
    const float* from = x.data + j;
    Pair* pair = to(j);
    int64_t k = 0;
    for (; k + 1 < n; k += 2, from += 2 * k_stride, pair += to_row)
      hn::StoreU(rounded_pair(at.load(from), at.load(from + k_stride), s.inverse), di, pair);
    if (k < n) hn::StoreU(rounded_pair(at.load(from), hn::Zero(d), s.inverse), di, pair);
  });
}

// Where columns of B go: panels of `columns`, zero beyond the last.
struct PackedPanels {
  Pair* pairs;
  float* scales;
  int64_t columns, pairs_apart, scales_apart;  // from a panel to the next
};
// x: columns of B, up to kMostPacked, as rows.
inline void pack_int16_panels(MatrixView<const float> x, const ReductionGroups& run,
                              int32_t largest, PackedPanels to) {
  const int64_t columns = to.columns, count = x.rows;
  if (const int64_t last = count / columns; count % columns > 0) {
    Pair* pairs = to.pairs + last * to.pairs_apart;
    float* scales = to.scales + last * to.scales_apart;
    std::fill(pairs, pairs + run.pairs * columns, 0);
    std::fill(scales, scales + run.count * columns, 0.0f);
  }
  HWY_ALIGN Pair rows[kMostLanes * kInt16Features / 2];
  HWY_ALIGN float found[kMostPacked + kMostLanes];
  for (int64_t g = 0; g < run.count; ++g) {
    const int64_t pairs = run.pairs_of(g), n = run.length(g);
    const float* from = x.data + run.begin(g) * x.col_stride;
    const auto pairs_at = [&](int64_t j) {
      return to.pairs + j / columns * to.pairs_apart + j % columns;
    };
    if (x.col_stride == 1) {
      const int64_t step = std::min(kMostLanes, columns);
      for (int64_t j = 0; j < count; j += step) {
        const int64_t some = std::min(count - j, step);
        for (int64_t i = 0; i < some; ++i)
          found[j + i] =
              round_k_contiguous(from + (j + i) * x.row_stride, n, largest, rows + i * pairs);
        transpose(reinterpret_cast<const float*>(rows), pairs, some, pairs,
                  reinterpret_cast<float*>(pairs_at(j)), columns);
      }
    } else {
      round_k_strided(x.col_range(run.begin(g), n), largest, found, columns, pairs_at);
    }
    for (int64_t j = 0; j < count; j += columns)
      std::copy_n(found + j, std::min(columns, count - j),
                  to.scales + j / columns * to.scales_apart + g * columns);
    to.pairs += pairs * columns;
  }
}

// A or B of a tile, rounded. A: the stride of tile_of() that is not 1. B: a panel, rows of V
// vectors at stride `step`.
struct Int16Operand {
  const Pair* pairs;
  int64_t step;
  const float* scales;  // of a group: kMostLanes of A, `step` of B
};

// C [MR, n] (+)= A B over a run of groups. kPrefetch: with each pair, a line comes into the
// second-level cache.
template <class Dot, int MR, Rows kRows, int V, bool kPrefetch>
HWY_NOINLINE void int16_tile(const Int16Operand& left, const Int16Operand& right,
                             const ReductionGroups& run, const char* const* lines,
                             const MatrixView<float>& out, bool add) {
  const Pair *HWY_RESTRICT a = left.pairs, *HWY_RESTRICT b = right.pairs;
  const float *HWY_RESTRICT a_scales = left.scales, *HWY_RESTRICT b_scales = right.scales;
  float* HWY_RESTRICT c = out.data;
  const int64_t a_step = left.step, columns = right.step, c_row = out.row_stride, n = out.cols;
  const FloatTag d;
  const PairTag di;
  const int64_t N = float_lanes();
  const bool whole = n == V * N;
  const Part last{n - (V - 1) * N};
  constexpr int kGroups = (MR + 2) / 3;
  for (int64_t g = 0; g < run.count; ++g) {
    const int64_t pairs = run.pairs_of(g);
    PairVec acc[MR][V];
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) acc[m][v] = hn::Zero(di);
    }
    const Pair* rows[kGroups];
    REFRAIN_UNROLL
    for (int i = 0; i < kGroups; ++i) rows[i] = a + 3 * i * a_step;
    const Pair* adjacent = a;
    for (int64_t p = 0; p < pairs; ++p, b += columns) {
      if constexpr (kPrefetch) __builtin_prefetch(*lines++, 0, 2);
      PairVec bv[V];
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) bv[v] = hn::LoadU(di, b + v * N);
      REFRAIN_UNROLL
      for (int m = 0; m < MR; ++m) {
        const PairVec am =
            hn::Set(di, kRows == Rows::kAdjacent ? adjacent[m] : rows[m / 3][(m % 3) * a_step]);
        REFRAIN_UNROLL
        for (int v = 0; v < V; ++v) acc[m][v] = Dot::add(acc[m][v], am, bv[v]);
      }
      if constexpr (kRows == Rows::kAdjacent) {
        adjacent += a_step;
      } else {
        REFRAIN_UNROLL
        for (int i = 0; i < kGroups; ++i) ++rows[i];
      }
    }
    a += kRows == Rows::kAdjacent ? pairs * a_step : pairs;
    FloatVec sb[V];
    REFRAIN_UNROLL
    for (int v = 0; v < V; ++v) sb[v] = hn::LoadU(d, b_scales + v * N);
    PairVec sums[MR][V];  // a copy, since what a lambda refers to would stand in memory
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) sums[m][v] = acc[m][v];
    }
    const auto put = [&](auto chain, auto at) HWY_ATTR {
      REFRAIN_UNROLL
      for (int m = 0; m < MR; ++m) {
        float* to = c + m * c_row;
        const FloatVec sa = hn::Set(d, a_scales[m]);
        REFRAIN_UNROLL
        for (int v = 0; v < V; ++v, to += N) {
          const FloatVec s = hn::Mul(sa, sb[v]);
          const auto one = [&](auto part) HWY_ATTR {
            FloatVec before = hn::Zero(d);
            if constexpr (chain) before = part.load(to);
            part.store(hn::MulAdd(hn::ConvertTo(d, sums[m][v]), s, before), to);
          };
          v + 1 < V ? one(Whole()) : one(at);
        }
      }
    };
    const bool chain = add || g > 0;
    if (chain && whole)
      put(std::true_type(), Whole());
    else if (chain)
      put(std::true_type(), last);
    else if (whole)
      put(std::false_type(), Whole());
    else
      put(std::false_type(), last);
    a_scales += kMostLanes;
    b_scales += columns;
  }
}

// int16_tile<c.rows> for c known at run time.
template <class Dot, Rows kRows, int V, bool kPrefetch, int MR = tile_rows<V>()>
HWY_INLINE void int16_tile_of(const Int16Operand& a, const Int16Operand& b,
                              const ReductionGroups& run, const char* const* lines,
                              const MatrixView<float>& c, bool add) {
  if constexpr (V > 1)
    if (c.cols <= (V - 1) * float_lanes())
      return int16_tile_of<Dot, kRows, V - 1, kPrefetch, MR>(a, b, run, lines, c, add);
  if (c.rows == MR) return int16_tile<Dot, MR, kRows, V, kPrefetch>(a, b, run, lines, c, add);
  if constexpr (MR > 1) int16_tile_of<Dot, kRows, V, kPrefetch, MR - 1>(a, b, run, lines, c, add);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
