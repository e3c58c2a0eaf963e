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
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// One row against P neighbouring panels: a single panel's two chains of additions would leave the
// multipliers waiting. c: P * tile_cols() columns.
template <int P>
HWY_NOINLINE void row_tile(const float* HWY_RESTRICT a, const float* const* panels, int64_t b_row,
                           int64_t K, float* HWY_RESTRICT c, bool add) {
  const FloatTag d;
  const int64_t N = float_lanes();
  FloatVec acc[2 * P];
  REFRAIN_UNROLL
  for (int i = 0; i < 2 * P; ++i) acc[i] = add ? hn::LoadU(d, c + i * N) : hn::Zero(d);
  for (int64_t k = 0; k < K; ++k) {
    const FloatVec ak = hn::Set(d, a[k]);
    REFRAIN_UNROLL
    for (int p = 0; p < P; ++p) {
      const float* b = panels[p] + k * b_row;
      acc[2 * p] = hn::MulAdd(ak, hn::LoadU(d, b), acc[2 * p]);
      acc[2 * p + 1] = hn::MulAdd(ak, hn::LoadU(d, b + N), acc[2 * p + 1]);
    }
  }
  REFRAIN_UNROLL
  for (int i = 0; i < 2 * P; ++i) hn::StoreU(acc[i], d, c + i * N);
}

// `weights`: all of B as pack_weight() lays it out, or null: then blocks of it are packed into
// `packed`.
void multiply(Strided a, Strided b, const float* weights, float* c, int64_t c_row, int64_t M,
              int64_t N, int64_t K, bool add, float* packed) {
  const int64_t NR = tile_cols();
  const int64_t tiles = (M + kTileRows - 1) / kTileRows;
  for (int64_t j0 = 0; j0 < N; j0 += kWidth) {
    const int64_t width = std::min(kWidth, N - j0), panels = (width + NR - 1) / NR;
    for (int64_t k0 = 0; k0 < K; k0 += kDepth) {
      const int64_t depth = std::min(kDepth, K - k0);
      if (!weights)
        parallel_for(
            panels,
            [&](int64_t p) {
              const int64_t j = j0 + p * NR;
              pack_panel({b.data + k0 * b.row + j * b.col, b.row, b.col}, depth,
                         std::min(NR, N - j), packed + p * depth * NR);
            },
            kPackingCost * depth * width);
      // Where a panel begins, and from one row of it to the next.
      const int64_t b_row = weights ? kWeightPanel : NR;
      const auto panel_at = [&](int64_t p) -> const float* {
        if (!weights) return packed + p * depth * NR;
        const int64_t j = j0 + p * NR;
        return weights + (j / kWeightPanel * K + k0) * kWeightPanel + j % kWeightPanel;
      };
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
              int64_t p = p0;
              constexpr int kTogether = 4;
              for (; mr == 1 && a.col == 1 && p + kTogether <= p1 && (p + kTogether) * NR <= width;
                   p += kTogether) {
                const float* some[kTogether];
                for (int i = 0; i < kTogether; ++i) some[i] = panel_at(p + i);
                row_tile<kTogether>(from, some, b_row, depth, c + i0 * c_row + j0 + p * NR,
                                    add_here);
              }
              for (; p < p1; ++p) {
                const int64_t j = j0 + p * NR, n = std::min(NR, N - j);
                const float* panel = panel_at(p);
                float* to = c + i0 * c_row + j;
                if (pack_rows)
                  tile_of<Rows::kAdjacent>(mr, packed_rows, kTileRows, panel, b_row, depth, to,
                                           c_row, n, add_here);
                else
                  tile_of<Rows::kApart>(mr, from, a.row, panel, b_row, depth, to, c_row, n,
                                        add_here);
              }
            }
          },
          2 * M * width * depth);
    }
  }
}

void pack_weight(ConstTensor w, float* to) {
  const int64_t N = w.rows(), K = w.cols(), panels = (N + kWeightPanel - 1) / kWeightPanel;
  parallel_for(
      panels,
      [&](int64_t p) {
        float* panel = to + p * K * kWeightPanel;
        const int64_t n = std::min(kWeightPanel, N - p * kWeightPanel);
        if (n < kWeightPanel) std::fill(panel, panel + K * kWeightPanel, 0.0f);
        transpose(w.row(p * kWeightPanel), K, n, K, panel, kWeightPanel);
      },
      kPackingCost * N * K);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply);
HWY_EXPORT(pack_weight);

void gemm(Strided a, Strided b, float* c, int64_t c_row, int64_t M, int64_t N, int64_t K, bool add,
          Arena& scratch, const float* packed) {
  Arena::Frame frame(scratch);
  Tensor blocks;
  if (!packed)
    blocks = scratch.take({std::min(K, kDepth), round_up(std::min(N, kWidth), kMaxPanel)});
  if (scratch.counts_only() || M == 0 || N == 0) return;
  HWY_DYNAMIC_DISPATCH(multiply)(a, b, packed, c, c_row, M, N, K, add, blocks.data);
}

void pack_weight(ConstTensor w, float* to) { HWY_DYNAMIC_DISPATCH(pack_weight)(w, to); }

void linear_forward(ConstTensor x, ConstTensor w, Tensor y, Arena& scratch, const float* packed) {
  gemm({x.data, x.cols(), 1}, {w.data, 1, w.cols()}, y.data, y.cols(), x.rows(), w.rows(), x.cols(),
       false, scratch, packed);
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
