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

// One block of a product: all M rows, `width` columns of C, `depth` of the reduced index. a, c:
// where it begins. b_row: from one row of a panel of B to the next.
struct Block {
  Strided a;
  int64_t b_row;
  float* c;
  int64_t c_row, M, width, depth;
  bool add, pack_rows, bf16;
};

// Tiles [t0, t1) of `tiles` against the panels [p0, p1), panel(p) being where the p-th begins.
template <int V, class Panel>
void block_task(const Block& x, const Panel& panel, int64_t tiles, int64_t t0, int64_t t1,
                int64_t p0, int64_t p1) {
  constexpr int64_t kRows = tile_rows<V>();
  const int64_t NR = V * float_lanes();
  HWY_ALIGN float packed_rows[kRows * kDepth + HWY_MAX_BYTES / sizeof(float)];
  for (int64_t t = t0; t < t1; ++t) {
    const int64_t i0 = x.M * t / tiles, mr = x.M * (t + 1) / tiles - i0;
    const float* from = x.a.data + i0 * x.a.row;
    float* to = x.c + i0 * x.c_row;
    if (x.a.row == 1)
      pack_adjacent(from, x.a.col, mr, x.depth, packed_rows);
    else if (x.pack_rows)
      transpose(from, x.a.row, mr, x.depth, packed_rows, mr);
    if (x.bf16) round_floats(packed_rows, mr * x.depth);
    int64_t p = p0;
    if constexpr (V == 2) {
      constexpr int kTogether = 4;
      if (mr == 1 && !x.pack_rows)
        for (; p + kTogether <= p1 && (p + kTogether) * NR <= x.width; p += kTogether) {
          const float* some[kTogether];
          for (int i = 0; i < kTogether; ++i) some[i] = panel(p + i);
          row_tile<kTogether>(from, some, x.b_row, x.depth, to + p * NR, x.add);
        }
    }
    for (; p < p1; ++p) {
      const int64_t n = std::min(NR, x.width - p * NR);
      if (x.pack_rows)
        tile_of<Rows::kAdjacent, V>(mr, packed_rows, mr, panel(p), x.b_row, x.depth, to + p * NR,
                                    x.c_row, n, x.add);
      else
        tile_of<Rows::kApart, V>(mr, from, x.a.row, panel(p), x.b_row, x.depth, to + p * NR,
                                 x.c_row, n, x.add);
    }
  }
}

// C (+)= A B in panels of V vectors. B: whole, as pack_weight() lays it out (V = 2), or null: then
// blocks of it are packed into `packed`.
template <int V>
void multiply_by_panels(Strided a, Strided b, const float* weights, float* c, int64_t c_row,
                        int64_t M, int64_t N, int64_t K, bool add, bool bf16, float* packed) {
  const int64_t NR = V * float_lanes();
  const int64_t tiles = (M + tile_rows<V>() - 1) / tile_rows<V>();
  const int64_t block_width = even_block(N, kWidth / NR * NR, NR);
  const int64_t block_depth = even_block(K, kDepth, 1);
  for (int64_t j0 = 0; j0 < N; j0 += block_width) {
    const int64_t width = std::min(block_width, N - j0), panels = (width + NR - 1) / NR;
    for (int64_t k0 = 0; k0 < K; k0 += block_depth) {
      const int64_t depth = std::min(block_depth, K - k0);
      if (!weights)
        parallel_for(
            panels,
            [&](int64_t p) {
              const int64_t j = j0 + p * NR;
              float* to = packed + p * depth * NR;
              pack_panel({b.data + k0 * b.row + j * b.col, b.row, b.col}, depth,
                         std::min(NR, N - j), to, NR);
              if (bf16) round_floats(to, depth * NR);
            },
            kPackingCost * depth * width);
      // Where a panel begins.
      const auto panel = [&](int64_t p) -> const float* {
        if (!weights) return packed + p * depth * NR;
        const int64_t j = j0 + p * NR;
        return weights + (j / kWeightPanel * K + k0) * kWeightPanel + j % kWeightPanel;
      };
      // A task is a few row tiles against a run of panels: enough tasks to share, few enough to
      // keep the tile of A in L1 for long.
      const int64_t want = 4 * threads();
      const int64_t row_tasks = std::min(tiles, want);
      const int64_t col_tasks = std::clamp<int64_t>(want / row_tasks, 1, panels);
      const Block block{{a.data + k0 * a.col, a.row, a.col},
                        weights ? kWeightPanel : NR,
                        c + j0,
                        c_row,
                        M,
                        width,
                        depth,
                        add || k0 > 0,
                        a.row == 1 || bf16,
                        bf16};
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

void multiply(Strided a, Strided b, const float* weights, float* c, int64_t c_row, int64_t M,
              int64_t N, int64_t K, bool add, bool bf16, float* packed) {
  // Of wide registers there are enough for three vectors and more rows than their loads cost.
#if HWY_TARGET <= HWY_AVX3
  constexpr int kVectors = 3;
#else
  constexpr int kVectors = 2;
#endif
  if (weights || M == 1)
    multiply_by_panels<2>(a, b, weights, c, c_row, M, N, K, add, bf16, packed);
  else
    multiply_by_panels<kVectors>(a, b, weights, c, c_row, M, N, K, add, bf16, packed);
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
          Arena& scratch, const float* packed, const MatmulOptions& options) {
  REFRAIN_CHECK(options.pieces.empty() || options.pieces.back() == K);
  if (options.compute_type == ComputeType::kInt16)
    return gemm_int16(a, b, c, c_row, M, N, K, add, options.pieces, scratch);
  const bool bf16 = options.compute_type == ComputeType::kBf16;
  if (bf16) {
    if (const Bf16Kernel* kernel = bf16_kernel())
      return gemm_bf16(*kernel, a, b, c, c_row, M, N, K, add, options.pieces, scratch);
    packed = nullptr;  // not rounded
  }
  Arena::Frame frame(scratch);
  Tensor blocks;
  if (!packed) blocks = scratch.take({std::min(K, kDepth), round_up(std::min(N, kWidth), kPanels)});
  if (scratch.planning() || M == 0 || N == 0 || K == 0) return;
  HWY_DYNAMIC_DISPATCH(multiply)
  (a, b, packed, c, c_row, M, N, K, add, bf16, blocks.data);
}

void pack_weight(ConstTensor w, float* to) { HWY_DYNAMIC_DISPATCH(pack_weight)(w, to); }

void linear_forward(ConstTensor x, ConstTensor w, Tensor y, Arena& scratch, const float* packed,
                    const MatmulOptions& options) {
  gemm({x.data, x.cols(), 1}, {w.data, 1, w.cols()}, y.data, y.cols(), x.rows(), w.rows(), x.cols(),
       false, scratch, packed, options);
}
void linear_backward_input(ConstTensor dy, ConstTensor w, Tensor dx, Arena& scratch,
                           const MatmulOptions& options) {
  gemm({dy.data, dy.cols(), 1}, {w.data, w.cols(), 1}, dx.data, dx.cols(), dy.rows(), w.cols(),
       w.rows(), false, scratch, nullptr, options);
}
void linear_backward_weight(ConstTensor dy, ConstTensor x, Tensor dw, Arena& scratch,
                            const MatmulOptions& options) {
  if (!dw) return;
  gemm({dy.data, 1, dy.cols()}, {x.data, x.cols(), 1}, dw.data, dw.cols(), dy.cols(), x.cols(),
       x.rows(), true, scratch, nullptr, options);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
