#include "refrain/kernels/matmul/format_bf16.h"

#include <algorithm>
#include <span>

#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/reduction_groups.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/format_bf16.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/bf16_pairs-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_FORMAT_BF16_ONCE
#define REFRAIN_KERNELS_FORMAT_BF16_ONCE
namespace refrain::kernels {
// Blocking: of B [512, 768] in L2; 32 rows of A, and 32 columns of B, of that depth each take 32
// KiB. Where A is packed ahead of the tasks, 2,048 rows at a time.
constexpr int64_t kKBlocks = 16, kNBlocks = 24, kMBlocks = 64;

struct Bf16Product : Product {
  const Microkernel& kernel;
  const int32_t* edges;  // group g is [edges[g], edges[g + 1])
  int64_t groups;
  float* packed_b;  // [blocks][groups][kGroupPairs] of what is worked on
  float* packed_a;  // likewise; null where tasks pack A themselves
};
// Of B's blocks, how many are packed at a time.
inline int64_t n_blocks_of(int64_t blocks) {
  return blocks_of(blocks, std::max<int64_t>(1, blocks_of(blocks, kNBlocks)));
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Packing reads an operand row by row of its memory, for that is what prefetchers follow, and
// writes where each pair belongs. Rounding is what remains.

// Up to 32 rows of x that are k-contiguous, over some groups, as Microkernel takes A. edges: of the
// groups, and where the last one ends.
void pack_k_contiguous(MatrixView<const float> x, std::span<const int32_t> edges, float* to) {
  for (int64_t i = 0; i < kBf16Block; ++i, to += 16) {
    const bool there = i < x.rows;
    const float* row = x.row(there ? i : 0);
    for (size_t g = 0; g + 1 < edges.size(); ++g) {
      const float* from = row + edges[g];
      const int64_t n = there ? edges[g + 1] - edges[g] : 0;
      pack_pairs(from, n, from + kHalf, n - kHalf, to + static_cast<int64_t>(g) * kGroupPairs);
    }
  }
}
// The same as it takes B.
void pack_k_contiguous_transposed(MatrixView<const float> x, std::span<const int32_t> edges,
                                  float* to) {
  HWY_ALIGN float rows[kKBlocks * kGroupPairs];
  pack_k_contiguous(x, edges, rows);
  for (int64_t at = 0; at < (std::ssize(edges) - 1) * kGroupPairs; at += 16 * 16)
    transpose(rows + at, 16, 16, 16, to + at, 16);
}

// Rows of x, a group, that are k-strided: a block of 32 of them `step` floats after another, as
// Microkernel takes A, or B with `transposed`.
template <bool transposed>
void pack_k_strided(MatrixView<const float> x, float* to, int64_t step) {
  const int64_t n = x.cols;
  // `ahead`: how far what will be read soon lies behind what is read.
  const auto pairs_of = [&](int64_t p, int64_t j, int64_t ahead, float* pairs) HWY_ATTR {
    const float* low = x.data + std::min(p, n - 1) * x.col_stride + j;
    const float* high = p + kHalf < n ? low + kHalf * x.col_stride : low;
    const int64_t left = x.rows - j;
    hwy::Prefetch(low + ahead);
    hwy::Prefetch(high + ahead);
    pack_pairs(low, p < n ? left : 0, high, p + kHalf < n ? left : 0, pairs);
  };
  const auto half_block = [&](int64_t j) { return to + j / 32 * step + j % 32 * 16; };
  const int64_t all = round_up(x.rows, kBf16Block);
  if constexpr (transposed) {
    for (int64_t p = 0; p < kHalf; ++p) {
      const int64_t next_row = p + 1 < std::min(n, kHalf) ? x.col_stride : 0;
      for (int64_t j = 0; j < all; j += 16) pairs_of(p, j, next_row, half_block(j) + p * 16);
    }
  } else {
    HWY_ALIGN float pairs[16 * 16];
    for (int64_t j = 0; j < all; j += 16) {
      for (int64_t p = 0; p < kHalf; ++p) pairs_of(p, j, 64, pairs + p * 16);
      transpose(pairs, 16, 16, 16, half_block(j), 16);
    }
  }
}

// Tiles and panels are blocks of kBf16Block rows and columns.
class Bf16Blocks final : public BlockedProduct {
 public:
  explicit Bf16Blocks(const Bf16Product& x) : x_(x), columns_(x.b.transposed()) {}

  Blocking blocking() const {
    const int64_t tiles = blocks_of(x_.c.rows, kBf16Block);
    const int64_t panels = blocks_of(x_.c.cols, kBf16Block);
    return {tiles, panels, x_.packed_a ? std::min(kMBlocks, tiles) : tiles, n_blocks_of(panels),
            blocks_of(x_.groups, kKBlocks)};
  }

  TaskCount packing_b(const Block& block) const override {
    return {k_contiguous() ? block.panels : groups(block),
            kPackingCost * block.panels * groups(block) * kGroupPairs};
  }
  void pack_b(const Block& block, int64_t task) const override {
    const int64_t step = groups(block) * kGroupPairs;
    if (k_contiguous())
      pack_k_contiguous_transposed(blocks(columns_, block.panel + task, 1), edges(block),
                                   x_.packed_b + task * step);
    else
      pack_k_strided<true>(group(blocks(columns_, block.panel, block.panels), block, task),
                           x_.packed_b + task * kGroupPairs, step);
  }
  TaskCount packing_a(const Block& block) const override {
    if (!x_.packed_a) return {0, 0};
    return {groups(block), kPackingCost * block.tiles * groups(block) * kGroupPairs};
  }
  void pack_a(const Block& block, int64_t task) const override {
    pack_k_strided<false>(group(blocks(x_.a, block.tile, block.tiles), block, task),
                          x_.packed_a + task * kGroupPairs, groups(block) * kGroupPairs);
  }

  // As float32 units would have them, of which these do about eight at a time.
  int64_t operations(const Block& block) const override {
    return 2 * block.tiles * block.panels * kBf16Block * kBf16Block * groups(block) *
           kReductionGroup / 8;
  }
  void multiply(const Block& block, const TaskRange& task, int) const override {
    if (x_.kernel.begin) x_.kernel.begin();
    for (int64_t i = task.first_tile; i < task.last_tile; ++i) multiply_tile(block, task, i);
    if (x_.kernel.end) x_.kernel.end();
  }

 private:
  bool k_contiguous() const { return columns_.col_stride == 1; }
  int64_t first(const Block& block) const { return block.part * kKBlocks; }
  int64_t groups(const Block& block) const { return std::min(kKBlocks, x_.groups - first(block)); }
  std::span<const int32_t> edges(const Block& block) const {
    return {x_.edges + first(block), static_cast<size_t>(groups(block)) + 1};
  }
  // Some blocks of an operand's rows; a group of them.
  static MatrixView<const float> blocks(MatrixView<const float> x, int64_t at, int64_t count) {
    const int64_t row = at * kBf16Block;
    return x.row_range(row, std::min(x.rows - row, count * kBf16Block));
  }
  MatrixView<const float> group(MatrixView<const float> rows, const Block& block, int64_t g) const {
    const int32_t* edge = x_.edges + first(block) + g;
    return rows.col_range(edge[0], edge[1] - edge[0]);
  }

  // Tile i of the block.
  void multiply_tile(const Block& block, const TaskRange& task, int64_t i) const {
    HWY_ALIGN float own[kKBlocks * kGroupPairs];
    HWY_ALIGN float edge[kBf16Block * kBf16Block];
    const int64_t k_blocks = groups(block), g0 = first(block), c_row = x_.c.row_stride;
    const int64_t row = (block.tile + i) * kBf16Block;
    const float* a = own;
    if (x_.packed_a)
      a = x_.packed_a + i * k_blocks * kGroupPairs;
    else
      pack_k_contiguous(blocks(x_.a, block.tile + i, 1), edges(block), own);
    const bool add = x_.add || g0 > 0;
    for (int64_t q = task.first_panel; q < task.last_panel; ++q) {
      const float* b = x_.packed_b + q * k_blocks * kGroupPairs;
      const int64_t column = (block.panel + q) * kBf16Block;
      const int64_t rows = std::min(kBf16Block, x_.c.rows - row);
      const int64_t cols = std::min(kBf16Block, x_.c.cols - column);
      float* c = x_.c.row(row) + column;
      if (!x_.packed_a && i + 1 < task.last_tile)
        fetch(block, i + 1, q - task.first_panel, task.last_panel - task.first_panel);
      if (rows == kBf16Block && cols == kBf16Block) {
        x_.kernel.block(a, b, k_blocks, c, c_row, add);
        continue;
      }
      for (int64_t r = 0; r < rows && add; ++r)
        std::copy_n(c + r * c_row, cols, edge + r * kBf16Block);
      x_.kernel.block(a, b, k_blocks, edge, kBf16Block, add);
      for (int64_t r = 0; r < rows; ++r) std::copy_n(edge + r * kBf16Block, cols, c + r * c_row);
    }
  }

  // Part `at` of `parts` of what tile i will pack, into L2, while another tile is multiplied.
  // Inline: GCC drops calls of functions that only prefetch.
  HWY_INLINE void fetch(const Block& block, int64_t i, int64_t at, int64_t parts) const {
    constexpr int64_t kLine = 16;
    const MatrixView<const float> tile = blocks(x_.a, block.tile + i, 1);
    const std::span<const int32_t> cut = edges(block);
    for (int64_t r = tile.rows * at / parts; r < tile.rows * (at + 1) / parts; ++r)
      for (int64_t k = cut.front(); k < cut.back(); k += kLine)
        __builtin_prefetch(tile.row(r) + k, 0, 2);
  }

  const Bf16Product& x_;
  const MatrixView<const float> columns_;  // of B
};

void multiply(const Bf16Product& x) {
  const Bf16Blocks blocks(x);
  run_blocks(blocks.blocking(), blocks);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply);

void multiply_bf16(const Product& product, const Microkernel& kernel, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t M = product.c.rows, N = product.c.cols;
  const auto edges =
      make_reduction_groups(product.a.cols, product.cu_seqlens, kReductionGroup, scratch);
  const int64_t groups = edges.size() - 1, k_blocks = std::min(groups, kKBlocks);
  const Tensor packed_b =
      scratch.take({n_blocks_of(blocks_of(N, kBf16Block)), k_blocks, kGroupPairs});
  // Rows of A that lie along the reduced index are packed where they are used.
  const int64_t m_blocks =
      product.a.col_stride == 1 ? 0 : std::min(kMBlocks, blocks_of(M, kBf16Block));
  const Tensor packed_a = scratch.take({m_blocks, k_blocks, kGroupPairs});
  if (scratch.planning() || product.is_empty()) return;
  HWY_DYNAMIC_DISPATCH(multiply)
  ({product, kernel, edges.data, groups, packed_b.data, m_blocks > 0 ? packed_a.data : nullptr});
}

void multiply_bf16(const Product& product, Arena& scratch) {
  if (const Microkernel* kernel = microkernel()) return multiply_bf16(product, *kernel, scratch);
  multiply_rounded(product, scratch);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
