#include "refrain/kernels/gemm.h"

#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/gemm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/tile-inl.h"

#ifndef REFRAIN_KERNELS_GEMM_ONCE
#define REFRAIN_KERNELS_GEMM_ONCE
namespace refrain::kernels {
// Blocking: a tile of A [kTileRows, kDepth] stays in L1, a block of B [kDepth, kWidth] in L2.
inline constexpr int64_t kDepth = 384, kWidth = 512;
// Widest panel of any target: buffers are sized for it.
inline constexpr int64_t kMaxPanel = 32;
// Packing an element takes as long as so many operations of a product.
inline constexpr int64_t kPackingCost = 16;
inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// One panel of B, [depth][tile_cols()], zero beyond n columns.
void pack_panel(Strided b, int64_t depth, int64_t n, float* to) {
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

void multiply(Strided a, Strided b, float* c, int64_t c_row, int64_t M, int64_t N, int64_t K,
              bool add, float* packed) {
  const int64_t NR = tile_cols();
  const int64_t tiles = (M + kTileRows - 1) / kTileRows;
  for (int64_t j0 = 0; j0 < N; j0 += kWidth) {
    const int64_t width = std::min(kWidth, N - j0), panels = (width + NR - 1) / NR;
    for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
      const int64_t depth = std::min(kDepth, K - k0);
      parallel_for(
          panels,
          [&](int64_t p) {
            const int64_t j = j0 + p * NR;
            pack_panel({b.data + k0 * b.row + j * b.col, b.row, b.col}, depth, std::min(NR, N - j),
                       packed + p * depth * NR);
          },
          kPackingCost * depth * width);
      // A task is a few row tiles against a run of panels: enough tasks to share, few enough to
      // keep the tile of A in L1 for long.
      const int64_t want = 4 * threads();
      const int64_t row_tasks = std::min(tiles, want);
      const int64_t col_tasks = std::clamp<int64_t>(want / row_tasks, 1, panels);
      const bool add_here = add || k0 > 0;
      // Rows at a large power of two from each other fall into the same few cache sets.
      const bool pack_rows = a.row == 1 || (a.row % 256 == 0 && panels / col_tasks >= 4);
      parallel_for(
          row_tasks * col_tasks,
          [&](int64_t task) {
            const int64_t r = task / col_tasks, q = task % col_tasks;
            const int64_t p0 = panels * q / col_tasks, p1 = panels * (q + 1) / col_tasks;
            HWY_ALIGN float packed_rows[kTileRows * kDepth];
            for (int64_t t = tiles * r / row_tasks; t < tiles * (r + 1) / row_tasks; ++t) {
              const int64_t i0 = M * t / tiles, mr = M * (t + 1) / tiles - i0;
              const float* from = a.data + i0 * a.row + k0 * a.col;
              if (a.row == 1) {
                for (int64_t k = 0; k < depth; ++k)
                  for (int64_t m = 0; m < mr; ++m)
                    packed_rows[k * kTileRows + m] = from[k * a.col + m];
              } else if (pack_rows) {
                transpose(from, a.row, mr, depth, packed_rows, kTileRows);
              }
              for (int64_t p = p0; p < p1; ++p) {
                const int64_t j = j0 + p * NR, n = std::min(NR, N - j);
                const float* panel = packed + p * depth * NR;
                float* to = c + i0 * c_row + j;
                if (pack_rows)
                  tile_of<Rows::kAdjacent>(mr, packed_rows, kTileRows, panel, NR, depth, to, c_row,
                                           n, add_here);
                else
                  tile_of<Rows::kApart>(mr, from, a.row, panel, NR, depth, to, c_row, n, add_here);
              }
            }
          },
          2 * M * width * depth);
    }
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply);

void gemm(Strided a, Strided b, float* c, int64_t c_row, int64_t M, int64_t N, int64_t K, bool add,
          Arena& scratch) {
  Arena::Frame frame(scratch);
  const Tensor packed =
      scratch.take({std::min(K, kDepth), round_up(std::min(N, kWidth), kMaxPanel)});
  if (scratch.counts_only() || M == 0 || N == 0) return;
  HWY_DYNAMIC_DISPATCH(multiply)(a, b, c, c_row, M, N, K, add, packed.data);
}

void linear_forward(ConstTensor x, ConstTensor w, Tensor y, Arena& scratch) {
  gemm({x.data, x.cols(), 1}, {w.data, 1, w.cols()}, y.data, y.cols(), x.rows(), w.rows(), x.cols(),
       false, scratch);
}
void linear_backward_input(ConstTensor dy, ConstTensor w, Tensor dx, Arena& scratch) {
  gemm({dy.data, dy.cols(), 1}, {w.data, w.cols(), 1}, dx.data, dx.cols(), dy.rows(), w.cols(),
       w.rows(), false, scratch);
}
void linear_backward_weight(ConstTensor dy, ConstTensor x, Tensor dw, Arena& scratch) {
  gemm({dy.data, 1, dy.cols()}, {x.data, x.cols(), 1}, dw.data, dw.cols(), dy.cols(), x.cols(),
       x.rows(), true, scratch);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
