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
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/kernels/simd-inl.h"

// Accumulators live in registers only if the loops over them disappear.
#define REFRAIN_UNROLL _Pragma("GCC unroll 16")

#ifndef REFRAIN_KERNELS_TILE_ONCE
#define REFRAIN_KERNELS_TILE_ONCE
namespace refrain::kernels {
// Widest panel of two vectors of any target: buffers are sized for it.
inline constexpr int64_t kMaxPanel = 32;
// Packing an element takes as long as so many operations of a product.
inline constexpr int64_t kPackingCost = 16;
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Rows of a tile of V vectors: as many accumulators as the registers hold beside the operands.
template <int V = 2>
constexpr int tile_rows() {
#if HWY_TARGET <= HWY_AVX3  // 32 registers
  return V <= 2 ? 14 : V == 3 ? 9 : 6;
#else  // 16 registers
  return V <= 2 ? 6 : V == 3 ? 4 : 2;
#endif
}
inline constexpr int64_t kTileRows = tile_rows();
inline int64_t tile_cols() { return 2 * float_lanes(); }

// How the rows of A lie: one after another, each with its own stride (a row-major matrix), or side
// by side, so that the tile's rows are neighbours in memory (packed, or the transpose of
// row-major).
enum class Rows { kApart, kAdjacent };

// A [MR, K]: col_stride is 1 (kApart) or row_stride is 1 (kAdjacent). B [K, n], a panel: rows of V
// vectors, of which the first n columns are stored in C [MR, n], more than V - 1 vectors of them.
template <int MR, Rows kRows, int V = 2>
HWY_NOINLINE void tile(const MatrixView<const float>& left, const MatrixView<const float>& right,
                       const MatrixView<float>& out, bool add) {
  const FloatTag d;
  const float *HWY_RESTRICT a = left.data, *HWY_RESTRICT b = right.data;
  float* HWY_RESTRICT c = out.data;
  const int64_t a_step = kRows == Rows::kApart ? left.row_stride : left.col_stride, K = left.cols;
  const int64_t b_row = right.row_stride, c_row = out.row_stride, n = out.cols;
  const int64_t N = float_lanes();
  const bool whole = n == V * N;
  const Part last{n - (V - 1) * N};
  FloatVec acc[MR][V];
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    const float* from = c + m * c_row;
    REFRAIN_UNROLL
    for (int v = 0; v < V; ++v) acc[m][v] = hn::Zero(d);
    if (!add) continue;
    REFRAIN_UNROLL
    for (int v = 0; v + 1 < V; ++v) acc[m][v] = hn::LoadU(d, from + v * N);
    from += (V - 1) * N;
    acc[m][V - 1] = whole ? hn::LoadU(d, from) : last.load(from);
  }
  // A pointer for every three rows: base, base + step, base + 2 step are addressing modes, and the
  // pointers still fit the integer registers.
  constexpr int kGroups = (MR + 2) / 3;
  const float* rows[kGroups];
  REFRAIN_UNROLL
  for (int g = 0; g < kGroups; ++g) rows[g] = a + 3 * g * a_step;
  for (int64_t k = 0; k < K; ++k, b += b_row) {
    FloatVec bv[V];
    REFRAIN_UNROLL
    for (int v = 0; v < V; ++v) bv[v] = hn::LoadU(d, b + v * N);
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      const FloatVec am =
          hn::Set(d, kRows == Rows::kAdjacent ? a[m] : rows[m / 3][(m % 3) * a_step]);
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) acc[m][v] = hn::MulAdd(am, bv[v], acc[m][v]);
    }
    if constexpr (kRows == Rows::kAdjacent) {
      a += a_step;
    } else {
      REFRAIN_UNROLL
      for (int g = 0; g < kGroups; ++g) ++rows[g];
    }
  }
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    float* to = c + m * c_row;
    REFRAIN_UNROLL
    for (int v = 0; v + 1 < V; ++v) hn::StoreU(acc[m][v], d, to + v * N);
    to += (V - 1) * N;
    whole ? hn::StoreU(acc[m][V - 1], d, to) : last.store(acc[m][V - 1], to);
  }
}

// tile<c.rows> for c known at run time, 1 <= c.rows <= MR, 1 <= c.cols <= V vectors.
template <Rows kRows, int V = 2, int MR = tile_rows<V>()>
HWY_INLINE void tile_of(const MatrixView<const float>& a, const MatrixView<const float>& b,
                        const MatrixView<float>& c, bool add) {
  if constexpr (V > 1)
    if (c.cols <= (V - 1) * float_lanes()) return tile_of<kRows, V - 1, MR>(a, b, c, add);
  if (c.rows == MR) return tile<MR, kRows, V>(a, b, c, add);
  if constexpr (MR > 1) tile_of<kRows, V, MR - 1>(a, b, c, add);
}

// to[c * to_row + r] = from[r * from_row + c] for r < rows, c < cols.
HWY_INLINE void transpose(const float* HWY_RESTRICT from, int64_t from_row, int64_t rows,
                          int64_t cols, float* HWY_RESTRICT to, int64_t to_row) {
  int64_t r = 0;
#if HWY_TARGET != HWY_SCALAR
  const hn::FixedTag<float, 4> d;
  const hn::Repartition<double, decltype(d)> d2;
  const int64_t whole_cols = cols / 4 * 4;
  for (; r < rows / 4 * 4; r += 4) {
    const float* in = from + r * from_row;
    float* out = to + r;
    for (int64_t c = 0; c < whole_cols; c += 4) {
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
    for (int64_t c = whole_cols; c < cols; ++c)
      for (int64_t i = 0; i < 4; ++i) out[c * to_row + i] = in[i * from_row + c];
  }
#endif
  for (; r < rows; ++r)
    for (int64_t c = 0; c < cols; ++c) to[c * to_row + r] = from[r * from_row + c];
}

// One panel of B, [b.rows][NR], zero beyond b's columns. NR: whole vectors.
inline void pack_panel(MatrixView<const float> b, float* to, int64_t NR) {
  const int64_t depth = b.rows, n = b.cols;
  if (n < NR)
    for (int64_t i = 0; i < depth * NR; ++i) to[i] = 0;
  if (b.col_stride == 1) {
    const FloatTag d;
    const int64_t N = float_lanes();
    for (int64_t k = 0; k < depth; ++k, to += NR) {
      const float* from = b.row(k);
      if (n == NR) {
        for (int64_t j = 0; j < NR; j += N) hn::StoreU(hn::LoadU(d, from + j), d, to + j);
      } else {
        for (int64_t j = 0; j < n; ++j) to[j] = from[j];
      }
    }
  } else if (b.row_stride == 1) {
    transpose(b.data, b.col_stride, n, depth, to, NR);
  } else {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t j = 0; j < n; ++j) to[k * NR + j] = b.at(k, j);
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
