#include "refrain/kernels/matmul/gemm.h"

#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/gemm_bf16.h"
#include "refrain/kernels/matmul/gemm_int16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/gemm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_GEMM_ONCE
#define REFRAIN_KERNELS_GEMM_ONCE
namespace refrain::kernels {
// Blocking: a tile of A [rows, kDepth] stays in L1, a block of B [kDepth, kWidth] in L2.
constexpr int64_t kDepth = 384, kWidth = 576;
// A multiple of every target's panels.
constexpr int64_t kPanels = 96;

struct Float32Product {
  MatrixView<const float> a, b;
  MatrixView<float> c;
  const float* weights;  // b as pack_weight() lays it out, or null
  bool add, bf16;        // bf16: rounds what it packs
};
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

// Rows that lie side by side, packed: to[k * mr + m] = from[k * step + m] for m < mr. Writes a
// whole vector each time, the next one over what is too much of it.
HWY_INLINE void pack_adjacent(const float* HWY_RESTRICT from, int64_t step, int64_t mr,
                              int64_t depth, float* HWY_RESTRICT to) {
  const FloatTag d;
  if (mr <= float_lanes()) {
    const Part part{mr};
    for (int64_t k = 0; k < depth; ++k) hn::StoreU(part.load(from + k * step), d, to + k * mr);
  } else {
    for (int64_t k = 0; k < depth; ++k)
      for (int64_t m = 0; m < mr; ++m) to[k * mr + m] = from[k * step + m];
  }
}

// Blocks of n > 0 of equal size, none beyond `most`, all but the last multiples of `of`.
HWY_INLINE int64_t even_block(int64_t n, int64_t most, int64_t of) {
  const int64_t blocks = (n + most - 1) / most;
  return std::min(most, round_up((n + blocks - 1) / blocks, of));
}

HWY_INLINE void round_floats(float* x, int64_t n) {
  each(n, [&](auto at, int64_t i) HWY_ATTR { at.store(rounded_to_bf16(at.load(x + i)), x + i); });
}

// One block of a product: all rows, some columns of C, a part of the reduced index. b_row: from one
// row of a panel of B to the next.
struct Block {
  MatrixView<const float> a;  // [M, depth]
  int64_t b_row;
  MatrixView<float> c;  // [M, width]
  bool add, pack_rows, bf16;
};

// Tiles [t0, t1) of `tiles` against the panels [p0, p1), panel(p) being where the p-th begins.
template <int V, class Panel>
void block_task(const Block& x, const Panel& panel, int64_t tiles, int64_t t0, int64_t t1,
                int64_t p0, int64_t p1) {
  constexpr int64_t kRows = tile_rows<V>();
  const int64_t NR = V * float_lanes(), depth = x.a.cols, width = x.c.cols;
  HWY_ALIGN float packed_rows[kRows * kDepth + HWY_MAX_BYTES / sizeof(float)];
  for (int64_t t = t0; t < t1; ++t) {
    const int64_t M = x.a.rows, i0 = M * t / tiles, mr = M * (t + 1) / tiles - i0;
    const float* from = x.a.row(i0);
    float* to = x.c.row(i0);
    if (x.a.row_stride == 1)
      pack_adjacent(from, x.a.col_stride, mr, depth, packed_rows);
    else if (x.pack_rows)
      transpose(from, x.a.row_stride, mr, depth, packed_rows, mr);
    if (x.bf16) round_floats(packed_rows, mr * depth);
    int64_t p = p0;
    if constexpr (V == 2) {
      constexpr int kTogether = 4;
      if (mr == 1 && !x.pack_rows)
        for (; p + kTogether <= p1 && (p + kTogether) * NR <= width; p += kTogether) {
          const float* some[kTogether];
          for (int i = 0; i < kTogether; ++i) some[i] = panel(p + i);
          row_tile<kTogether>(from, some, x.b_row, depth, to + p * NR, x.add);
        }
    }
    for (; p < p1; ++p) {
      const int64_t n = std::min(NR, width - p * NR);
      if (x.pack_rows)
        tile_of<Rows::kAdjacent, V>(mr, packed_rows, mr, panel(p), x.b_row, depth, to + p * NR,
                                    x.c.row_stride, n, x.add);
      else
        tile_of<Rows::kApart, V>(mr, from, x.a.row_stride, panel(p), x.b_row, depth, to + p * NR,
                                 x.c.row_stride, n, x.add);
    }
  }
}

// C (+)= A B in panels of V vectors, 2 of them with weights; without, blocks of B are packed into
// `packed`.
template <int V>
void multiply_by_panels(const Float32Product& x, float* packed) {
  const int64_t NR = V * float_lanes(), M = x.a.rows, N = x.b.cols, K = x.a.cols;
  const int64_t tiles = (M + tile_rows<V>() - 1) / tile_rows<V>();
  const int64_t block_width = even_block(N, kWidth / NR * NR, NR);
  const int64_t block_depth = even_block(K, kDepth, 1);
  for (int64_t j0 = 0; j0 < N; j0 += block_width) {
    const int64_t width = std::min(block_width, N - j0), panels = (width + NR - 1) / NR;
    for (int64_t k0 = 0; k0 < K; k0 += block_depth) {
      const int64_t depth = std::min(block_depth, K - k0);
      if (!x.weights)
        parallel_for(
            panels,
            [&](int64_t p) {
              const int64_t j = j0 + p * NR;
              float* to = packed + p * depth * NR;
              pack_panel(x.b.row_range(k0, depth).col_range(j, std::min(NR, N - j)), to, NR);
              if (x.bf16) round_floats(to, depth * NR);
            },
            kPackingCost * depth * width);
      // Where a panel begins.
      const auto panel = [&](int64_t p) -> const float* {
        if (!x.weights) return packed + p * depth * NR;
        const int64_t j = j0 + p * NR;
        return x.weights + (j / kWeightPanel * K + k0) * kWeightPanel + j % kWeightPanel;
      };
      // A task is a few row tiles against a run of panels: enough tasks to share, few enough to
      // keep the tile of A in L1 for long.
      const int64_t want = 4 * threads();
      const int64_t row_tasks = std::min(tiles, want);
      const int64_t col_tasks = std::clamp<int64_t>(want / row_tasks, 1, panels);
      const Block block{x.a.col_range(k0, depth),      x.weights ? kWeightPanel : NR,
                        x.c.col_range(j0, width),      x.add || k0 > 0,
                        x.a.row_stride == 1 || x.bf16, x.bf16};
      parallel_for(
          row_tasks * col_tasks,
          [&](int64_t task) {
            const int64_t r = task / col_tasks, q = task % col_tasks;
            block_task<V>(block, panel, tiles, tiles * r / row_tasks, tiles * (r + 1) / row_tasks,
                          panels * q / col_tasks, panels * (q + 1) / col_tasks);
          },
          2 * M * width * depth);
    }
  }
}

void multiply(const Float32Product& x, float* packed) {
  // Of wide registers there are enough for three vectors and more rows than their loads cost.
#if HWY_TARGET <= HWY_AVX3
  constexpr int kVectors = 3;
#else
  constexpr int kVectors = 2;
#endif
  if (x.weights || x.a.rows == 1)
    multiply_by_panels<2>(x, packed);
  else
    multiply_by_panels<kVectors>(x, packed);
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

void gemm(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> c, Arena& scratch,
          const float* packed, const MatmulOptions& options) {
  const int64_t M = a.rows, N = b.cols, K = a.cols;
  REFRAIN_CHECK(b.rows == K && c.rows == M && c.cols == N && c.col_stride == 1);
  REFRAIN_CHECK(options.pieces.empty() || options.pieces.back() == K);
  if (options.compute_type == ComputeType::kInt16) return gemm_int16(a, b, c, options, scratch);
  const bool bf16 = options.compute_type == ComputeType::kBf16;
  if (bf16) {
    if (const Bf16Kernel* kernel = bf16_kernel())
      return gemm_bf16(*kernel, a, b, c, options, scratch);
    packed = nullptr;  // not rounded
  }
  Arena::Frame frame(scratch);
  Tensor blocks;
  if (!packed) blocks = scratch.take({std::min(K, kDepth), round_up(std::min(N, kWidth), kPanels)});
  if (scratch.planning() || M == 0 || N == 0 || K == 0) return;
  HWY_DYNAMIC_DISPATCH(multiply)
  ({a, b, c, packed, options.add, bf16}, blocks.data);
}

void pack_weight(ConstTensor w, float* to) { HWY_DYNAMIC_DISPATCH(pack_weight)(w, to); }

void linear_forward(MatrixView<const float> x, MatrixView<const float> w, MatrixView<float> y,
                    Arena& scratch, const float* packed, const MatmulOptions& options) {
  gemm(x, w.transposed(), y, scratch, packed, options);
}
void linear_backward_input(MatrixView<const float> dy, MatrixView<const float> w,
                           MatrixView<float> dx, Arena& scratch, const MatmulOptions& options) {
  gemm(dy, w, dx, scratch, nullptr, options);
}
void linear_backward_weight(MatrixView<const float> dy, MatrixView<const float> x,
                            MatrixView<float> dw, Arena& scratch, const MatmulOptions& options) {
  if (!dw) return;
  MatmulOptions adding = options;
  adding.add = true;
  gemm(dy.transposed(), x, dw, scratch, nullptr, adding);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
