// The register tile that every product is made of:
//
//   C[mr, nr] = (C +) sum_k A[m, k] B[k, n]
//
// Each element of C is one chain of fused multiply-adds in ascending k, started from zero or from C
// itself. A product may therefore be cut anywhere, in any dimension, the reduced one included,
// without changing a bit (on one instruction set): docs/decisions/0003-fixed-order-products.md.
//
// Included once per SIMD target by the kernel files.
#if defined(REFRAIN_KERNELS_TILE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_TILE_INL_H_
#undef REFRAIN_KERNELS_TILE_INL_H_
#else
#define REFRAIN_KERNELS_TILE_INL_H_
#endif

#include <cstdint>

#include "hwy/highway.h"
#include "refrain/kernels/gemm.h"
#include "refrain/kernels/simd-inl.h"

// Accumulators live in registers only if the loops over them disappear.
#define REFRAIN_UNROLL _Pragma("GCC unroll 16")

#ifndef REFRAIN_KERNELS_TILE_ONCE
#define REFRAIN_KERNELS_TILE_ONCE
namespace refrain::kernels {
// Widest panel of any target: buffers are sized for it.
inline constexpr int64_t kMaxPanel = 32;
// Packing an element takes as long as so many operations of a product.
inline constexpr int64_t kPackingCost = 16;
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Rows and columns of a tile: as many accumulators as the registers hold beside the operands.
#if HWY_TARGET <= HWY_AVX3  // 32 registers
inline constexpr int64_t kTileRows = 14;
#else  // 16 registers
inline constexpr int64_t kTileRows = 6;
#endif
inline int64_t tile_cols() { return 2 * float_lanes(); }

// How the rows of A lie: one after another, each with its own stride (a row-major matrix), or side
// by side, so that the tile's rows are neighbours in memory (packed, or the transpose of
// row-major).
enum class Rows { kApart, kAdjacent };

// kApart: element (m, k) at a[m * a_step + k].  kAdjacent: at a[m + k * a_step].
// b: a panel, [K] rows of tile_cols() floats at stride b_row. n <= tile_cols() columns are stored.
template <int MR, Rows kRows>
HWY_NOINLINE void tile(const float* HWY_RESTRICT a, int64_t a_step, const float* HWY_RESTRICT b,
                       int64_t b_row, int64_t K, float* HWY_RESTRICT c, int64_t c_row, int64_t n,
                       bool add) {
  const FloatTag d;
  const int64_t N = float_lanes();
  const bool whole = n == 2 * N;
  FloatVec acc0[MR], acc1[MR];
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    const float* from = c + m * c_row;
    acc0[m] = acc1[m] = hn::Zero(d);
    if (add && whole) {
      acc0[m] = hn::LoadU(d, from);
      acc1[m] = hn::LoadU(d, from + N);
    } else if (add) {
      acc0[m] = Part{std::min(n, N)}.load(from);
      if (n > N) acc1[m] = Part{n - N}.load(from + N);
    }
  }
  if constexpr (kRows == Rows::kAdjacent) {
    for (int64_t k = 0; k < K; ++k, a += a_step, b += b_row) {
      const FloatVec b0 = hn::LoadU(d, b), b1 = hn::LoadU(d, b + N);
      REFRAIN_UNROLL
      for (int m = 0; m < MR; ++m) {
        const FloatVec am = hn::Set(d, a[m]);
        acc0[m] = hn::MulAdd(am, b0, acc0[m]);
        acc1[m] = hn::MulAdd(am, b1, acc1[m]);
      }
    }
  } else {
    // A pointer for every three rows: base, base + step, base + 2 step are addressing modes, and
    // the pointers still fit the integer registers.
    constexpr int kGroups = (MR + 2) / 3;
    const float* rows[kGroups];
    REFRAIN_UNROLL
    for (int g = 0; g < kGroups; ++g) rows[g] = a + 3 * g * a_step;
    for (int64_t k = 0; k < K; ++k, b += b_row) {
      const FloatVec b0 = hn::LoadU(d, b), b1 = hn::LoadU(d, b + N);
      REFRAIN_UNROLL
      for (int m = 0; m < MR; ++m) {
        const FloatVec am = hn::Set(d, rows[m / 3][(m % 3) * a_step]);
        acc0[m] = hn::MulAdd(am, b0, acc0[m]);
        acc1[m] = hn::MulAdd(am, b1, acc1[m]);
      }
      REFRAIN_UNROLL
      for (int g = 0; g < kGroups; ++g) ++rows[g];
    }
  }
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    if (whole) {
      hn::StoreU(acc0[m], d, c + m * c_row);
      hn::StoreU(acc1[m], d, c + m * c_row + N);
    } else {
      Part{std::min(n, N)}.store(acc0[m], c + m * c_row);
      if (n > N) Part{n - N}.store(acc1[m], c + m * c_row + N);
    }
  }
}

// tile<mr> for mr known at run time, 1 <= mr <= kTileRows.
template <Rows kRows, int MR = kTileRows>
HWY_INLINE void tile_of(int64_t mr, const float* a, int64_t a_step, const float* b, int64_t b_row,
                        int64_t K, float* c, int64_t c_row, int64_t n, bool add) {
  if (mr == MR) return tile<MR, kRows>(a, a_step, b, b_row, K, c, c_row, n, add);
  if constexpr (MR > 1) tile_of<kRows, MR - 1>(mr, a, a_step, b, b_row, K, c, c_row, n, add);
}

// to[c * to_row + r] = from[r * from_row + c] for r < rows, c < cols.
HWY_INLINE void transpose(const float* HWY_RESTRICT from, int64_t from_row, int64_t rows,
                          int64_t cols, float* HWY_RESTRICT to, int64_t to_row) {
  int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  const hn::Repartition<double, decltype(d)> d2;
  for (; r + 4 <= rows; r += 4) {
    const float* in = from + r * from_row;
    float* out = to + r;
    int64_t c = 0;
    for (; c + 4 <= cols; c += 4) {
      const auto x0 = hn::LoadU(d, in + c), x1 = hn::LoadU(d, in + from_row + c);
      const auto x2 = hn::LoadU(d, in + 2 * from_row + c), x3 = hn::LoadU(d, in + 3 * from_row + c);
      const auto y0 = hn::BitCast(d2, hn::InterleaveLower(d, x0, x1));
      const auto y1 = hn::BitCast(d2, hn::InterleaveLower(d, x2, x3));
      const auto y2 = hn::BitCast(d2, hn::InterleaveUpper(d, x0, x1));
      const auto y3 = hn::BitCast(d2, hn::InterleaveUpper(d, x2, x3));
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d2, y0, y1)), d, out + c * to_row);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d2, y0, y1)), d, out + (c + 1) * to_row);
      hn::StoreU(hn::BitCast(d, hn::InterleaveLower(d2, y2, y3)), d, out + (c + 2) * to_row);
      hn::StoreU(hn::BitCast(d, hn::InterleaveUpper(d2, y2, y3)), d, out + (c + 3) * to_row);
    }
    for (; c < cols; ++c)
      for (int64_t i = 0; i < 4; ++i) out[c * to_row + i] = in[i * from_row + c];
  }
#endif
  for (; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * to_row + r] = from[r * from_row + c];
}

// One panel of B, [depth][tile_cols()], zero beyond n columns.
inline void pack_panel(Strided b, int64_t depth, int64_t n, float* to) {
  const int64_t NR = tile_cols();
  if (n < NR)
    for (int64_t i = 0; i < depth * NR; ++i) to[i] = 0;
  if (b.col == 1) {
    const FloatTag d;
    const int64_t N = float_lanes();
    for (int64_t k = 0; k < depth; ++k, to += NR) {
      const float* from = b.data + k * b.row;
      if (n == NR) {
        hn::StoreU(hn::LoadU(d, from), d, to);
        hn::StoreU(hn::LoadU(d, from + N), d, to + N);
      } else {
        for (int64_t j = 0; j < n; ++j) to[j] = from[j];
      }
    }
  } else if (b.row == 1) {
    transpose(b.data, b.col, n, depth, to, NR);
  } else {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t j = 0; j < n; ++j) to[k * NR + j] = b.data[k * b.row + j * b.col];
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
