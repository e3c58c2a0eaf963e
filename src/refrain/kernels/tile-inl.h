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

// Accumulators live in registers only if the loops over them disappear.
#define REFRAIN_UNROLL _Pragma("GCC unroll 16")

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using VecTag = hn::ScalableTag<float>;
using Vec = hn::Vec<VecTag>;

// Rows and columns of a tile: as many accumulators as the registers hold beside the operands.
#if HWY_TARGET <= HWY_AVX3  // 32 registers
inline constexpr int64_t kTileRows = 14;
#else  // 16 registers
inline constexpr int64_t kTileRows = 6;
#endif
inline constexpr int64_t kLanes = HWY_MAX_BYTES / 4;
inline int64_t lanes() { return static_cast<int64_t>(hn::Lanes(VecTag())); }
inline int64_t tile_cols() { return 2 * lanes(); }

// a: element (m, k) at a[m * a_row + k * a_col]. b: panel [K][tile_cols()], contiguous when
// b_row = tile_cols(). n <= tile_cols() columns are stored.
template <int MR>
HWY_INLINE void tile(const float* HWY_RESTRICT a, int64_t a_row, int64_t a_col,
                     const float* HWY_RESTRICT b, int64_t b_row, int64_t K, float* HWY_RESTRICT c,
                     int64_t c_row, int64_t n, bool add) {
  const VecTag d;
  const int64_t N = lanes();
  const bool whole = n == 2 * N;
  const auto mask0 = hn::FirstN(d, static_cast<size_t>(n));
  const auto mask1 = hn::FirstN(d, static_cast<size_t>(n > N ? n - N : 0));
  Vec acc0[MR], acc1[MR];
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    if (!add) {
      acc0[m] = acc1[m] = hn::Zero(d);
    } else if (whole) {
      acc0[m] = hn::LoadU(d, c + m * c_row);
      acc1[m] = hn::LoadU(d, c + m * c_row + N);
    } else {
      acc0[m] = hn::MaskedLoad(mask0, d, c + m * c_row);
      acc1[m] = n > N ? hn::MaskedLoad(mask1, d, c + m * c_row + N) : hn::Zero(d);
    }
  }
  for (int64_t k = 0; k < K; ++k) {
    const Vec b0 = hn::LoadU(d, b), b1 = hn::LoadU(d, b + N);
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      const Vec am = hn::Set(d, a[m * a_row]);
      acc0[m] = hn::MulAdd(am, b0, acc0[m]);
      acc1[m] = hn::MulAdd(am, b1, acc1[m]);
    }
    a += a_col;
    b += b_row;
  }
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    if (whole) {
      hn::StoreU(acc0[m], d, c + m * c_row);
      hn::StoreU(acc1[m], d, c + m * c_row + N);
    } else {
      hn::BlendedStore(acc0[m], mask0, d, c + m * c_row);
      if (n > N) hn::BlendedStore(acc1[m], mask1, d, c + m * c_row + N);
    }
  }
}

// tile<mr> for mr known at run time, 1 <= mr <= kTileRows.
template <int MR = kTileRows>
HWY_INLINE void tile_of(int64_t mr, const float* a, int64_t a_row, int64_t a_col, const float* b,
                        int64_t b_row, int64_t K, float* c, int64_t c_row, int64_t n, bool add) {
  if constexpr (MR > 1) {
    if (mr < MR)
      return tile_of<MR - 1>(mr, a, a_row, a_col, b, b_row, K, c, c_row, n, add);
  }
  tile<MR>(a, a_row, a_col, b, b_row, K, c, c_row, n, add);
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
      const auto x2 = hn::LoadU(d, in + 2 * from_row + c),
                 x3 = hn::LoadU(d, in + 3 * from_row + c);
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

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
