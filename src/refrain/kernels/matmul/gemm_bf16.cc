#include "refrain/kernels/matmul/gemm_bf16.h"

#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/grains.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/gemm_bf16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/bf16_pairs-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_GEMM_BF16_ONCE
#define REFRAIN_KERNELS_GEMM_BF16_ONCE
namespace refrain::kernels {
// Blocking: of B [512, 768] in L2; 32 rows of A, and 32 columns of B, of that depth each take 32
// KiB. Where A is packed ahead of the tasks, 2,048 rows at a time.
constexpr int64_t kGrainsDeep = 16, kBlocksWide = 24, kBlocksTall = 64;

struct Bf16Product {
  const Bf16Kernel& kernel;
  MatrixView<const float> a, b;  // b transposed: rows of either lie along the reduced index
  MatrixView<float> c;
  bool add;
  const int32_t* edges;  // grain g is [edges[g], edges[g + 1])
  int64_t grains;
  float* packed_b;  // [blocks][grains][kGrainPairs] of what is worked on
  float* packed_a;  // likewise; null where tasks pack A themselves
};
// Of B's blocks, how many are packed at a time.
inline int64_t bf16_blocks_wide(int64_t blocks) {
  const int64_t passes = std::max<int64_t>(1, (blocks + kBlocksWide - 1) / kBlocksWide);
  return (blocks + passes - 1) / passes;
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Packing reads an operand row by row of its memory, for that is what prefetchers follow, and
// writes where each pair belongs. Rounding is what remains.

// 32 items from `item` on, of which those before `end` exist, that lie along the reduced index,
// over the grains [g0, g1): as Bf16Kernel takes A.
void pack_along(MatrixView<const float> x, int64_t item, int64_t end, const int32_t* edges,
                int64_t g0, int64_t g1, float* to) {
  for (int64_t i = 0; i < kBf16Block; ++i, to += 16) {
    const bool there = item + i < end;
    const float* row = x.row(there ? item + i : item);
    for (int64_t g = g0; g < g1; ++g) {
      const float* from = row + edges[g];
      const int64_t n = there ? edges[g + 1] - edges[g] : 0;
      pack_pairs(from, n, from + kHalf, n - kHalf, to + (g - g0) * kGrainPairs);
    }
  }
}
// The same as it takes B.
void pack_along_turned(MatrixView<const float> x, int64_t item, int64_t end, const int32_t* edges,
                       int64_t g0, int64_t g1, float* to) {
  HWY_ALIGN float rows[kGrainsDeep * kGrainPairs];
  pack_along(x, item, end, edges, g0, g1, rows);
  for (int64_t at = 0; at < (g1 - g0) * kGrainPairs; at += 16 * 16)
    transpose(rows + at, 16, 16, 16, to + at, 16);
}

// Items [item, end) that lie across the reduced index, over the grain [k, k + n): a block of 32 of
// them `step` floats after another, as Bf16Kernel takes A, or B with `turned`.
template <bool turned>
void pack_across(MatrixView<const float> x, int64_t item, int64_t end, int64_t k, int64_t n,
                 float* to, int64_t step) {
  const auto pairs_of = [&](int64_t p, int64_t j, float* pairs) HWY_ATTR {
    const float* low = x.data + (k + std::min(p, n - 1)) * x.col_stride + item + j;
    const float* high = p + kHalf < n ? low + kHalf * x.col_stride : low;
    const int64_t left = end - item - j;
    pack_pairs(low, p < n ? left : 0, high, p + kHalf < n ? left : 0, pairs);
  };
  const auto half_block = [&](int64_t j) { return to + j / 32 * step + j % 32 * 16; };
  const int64_t all = round_up(end - item, kBf16Block);
  if constexpr (turned) {
    for (int64_t p = 0; p < kHalf; ++p)
      for (int64_t j = 0; j < all; j += 16) pairs_of(p, j, half_block(j) + p * 16);
  } else {
    HWY_ALIGN float pairs[16 * 16];
    for (int64_t j = 0; j < all; j += 16) {
      for (int64_t p = 0; p < kHalf; ++p) pairs_of(p, j, pairs + p * 16);
      transpose(pairs, 16, 16, 16, half_block(j), 16);
    }
  }
}

// Items [item, end) over the grains [g0, g1), block by block.
template <bool turned>
void pack_all(MatrixView<const float> x, int64_t item, int64_t end, const int32_t* edges,
              int64_t g0, int64_t g1, float* to) {
  const int64_t step = (g1 - g0) * kGrainPairs;
  const int64_t blocks = (end - item + kBf16Block - 1) / kBf16Block, work = blocks * step;
  if (x.col_stride == 1)
    parallel_for(
        blocks,
        [&](int64_t q) {
          const auto pack = turned ? pack_along_turned : pack_along;
          pack(x, item + q * kBf16Block, end, edges, g0, g1, to + q * step);
        },
        kPackingCost * work);
  else
    parallel_for(
        g1 - g0,
        [&](int64_t g) {
          const int32_t* edge = edges + g0 + g;
          pack_across<turned>(x, item, end, edge[0], edge[1] - edge[0], to + g * kGrainPairs, step);
        },
        kPackingCost * work);
}

// A part of C: from row i0 and column j0 on, over the grains [g0, g1).
struct Bf16Part {
  int64_t i0, j0, g0, g1;
};

// Block i of a part's rows against blocks [q0, q1) of its columns.
void rows_task(const Bf16Product& x, const Bf16Part& part, int64_t i, int64_t q0, int64_t q1) {
  HWY_ALIGN float own[kGrainsDeep * kGrainPairs];
  HWY_ALIGN float edge[kBf16Block * kBf16Block];
  const int64_t deep = part.g1 - part.g0, first = part.i0 + i * kBf16Block;
  const float* a = own;
  if (x.packed_a)
    a = x.packed_a + i * deep * kGrainPairs;
  else
    pack_along(x.a, first, x.a.rows, x.edges, part.g0, part.g1, own);
  const bool add = x.add || part.g0 > 0;
  for (int64_t q = q0; q < q1; ++q) {
    const float* b = x.packed_b + q * deep * kGrainPairs;
    const int64_t j = part.j0 + q * kBf16Block;
    const int64_t rows = std::min(kBf16Block, x.c.rows - first);
    const int64_t cols = std::min(kBf16Block, x.c.cols - j), c_row = x.c.row_stride;
    float* c = x.c.row(first) + j;
    if (rows == kBf16Block && cols == kBf16Block) {
      x.kernel.block(a, b, deep, c, c_row, add);
      continue;
    }
    for (int64_t r = 0; r < rows && add; ++r)
      std::copy_n(c + r * c_row, cols, edge + r * kBf16Block);
    x.kernel.block(a, b, deep, edge, kBf16Block, add);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(edge + r * kBf16Block, cols, c + r * c_row);
  }
}

void multiply_bf16(const Bf16Product& x) {
  const int64_t M = x.c.rows, N = x.c.cols;
  const int64_t row_blocks = (M + kBf16Block - 1) / kBf16Block;
  const int64_t col_blocks = (N + kBf16Block - 1) / kBf16Block;
  const int64_t tall = x.packed_a ? std::min(kBlocksTall, row_blocks) : row_blocks;
  const int64_t wide = bf16_blocks_wide(col_blocks);
  for (int64_t n0 = 0; n0 < col_blocks; n0 += wide)
    for (int64_t g0 = 0; g0 < x.grains; g0 += kGrainsDeep) {
      const int64_t g1 = std::min(x.grains, g0 + kGrainsDeep), j0 = n0 * kBf16Block;
      const int64_t columns = std::min(wide, col_blocks - n0);
      pack_all<true>(x.b, j0, std::min(N, j0 + columns * kBf16Block), x.edges, g0, g1, x.packed_b);
      for (int64_t m0 = 0; m0 < row_blocks; m0 += tall) {
        const int64_t i0 = m0 * kBf16Block, rows = std::min(tall, row_blocks - m0);
        if (x.packed_a)
          pack_all<false>(x.a, i0, std::min(M, i0 + rows * kBf16Block), x.edges, g0, g1,
                          x.packed_a);
        const int64_t want = 4 * threads(), row_tasks = std::min(rows, want);
        const int64_t col_tasks = std::clamp<int64_t>(want / row_tasks, 1, columns);
        parallel_for(
            row_tasks * col_tasks,
            [&](int64_t task) {
              const int64_t r = task / col_tasks, q = task % col_tasks;
              if (x.kernel.begin) x.kernel.begin();
              for (int64_t i = rows * r / row_tasks; i < rows * (r + 1) / row_tasks; ++i)
                rows_task(x, {i0, j0, g0, g1}, i, columns * q / col_tasks,
                          columns * (q + 1) / col_tasks);
              if (x.kernel.end) x.kernel.end();
            },
            // Operations as float32 units would have them, of which these do about eight at a time.
            2 * rows * columns * kBf16Block * kBf16Block * (g1 - g0) * kGrain / 8);
      }
    }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply_bf16);

void gemm_bf16(const Bf16Kernel& kernel, MatrixView<const float> a, MatrixView<const float> b,
               MatrixView<float> c, const MatmulOptions& options, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t M = a.rows, N = b.cols, K = a.cols;
  const auto edges = take_grains(K, options.pieces, kGrain, scratch);
  const int64_t grains = edges.size() - 1;
  const int64_t deep = std::min(grains, kGrainsDeep);
  const auto blocks = [](int64_t n) { return (n + kBf16Block - 1) / kBf16Block; };
  const Tensor packed_b = scratch.take({bf16_blocks_wide(blocks(N)), deep, kGrainPairs});
  // Rows of A that lie along the reduced index are packed where they are used.
  const int64_t tall = a.col_stride == 1 ? 0 : std::min(kBlocksTall, blocks(M));
  const Tensor packed_a = scratch.take({tall, deep, kGrainPairs});
  if (scratch.planning() || M == 0 || N == 0 || K == 0) return;
  HWY_DYNAMIC_DISPATCH(multiply_bf16)
  ({kernel, a, b.transposed(), c, options.add, edges.data, grains, packed_b.data,
    tall > 0 ? packed_a.data : nullptr});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
