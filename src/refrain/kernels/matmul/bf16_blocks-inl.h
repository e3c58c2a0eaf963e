// The blocked product of operands in bfloat16 (format_bf16.h) on one instruction set: packing, and
// what happens to the blocks of the product. Included once per SIMD target by the kernel files.
#if defined(REFRAIN_KERNELS_BF16_BLOCKS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_BF16_BLOCKS_INL_H_
#undef REFRAIN_KERNELS_BF16_BLOCKS_INL_H_
#else
#define REFRAIN_KERNELS_BF16_BLOCKS_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <span>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "refrain/kernels/matmul/bf16_pairs-inl.h"
#include "refrain/kernels/matmul/bf16_product.h"
#include "refrain/kernels/matmul/storage/unpack-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Packing reads an operand row by row of its memory, for that is what prefetchers follow, and
// writes where each pair belongs. Rounding is what remains.

// Up to 32 rows of x that are k-contiguous, over some groups, as Microkernel takes A. edges: of the
// groups, and where the last one ends.
template <class T>  // float or BFloat16
void pack_k_contiguous(MatrixView<const T> x, std::span<const int32_t> edges, float* to) {
  for (int64_t i = 0; i < kBf16Block; ++i, to += 16) {
    const bool there = i < x.rows;
    const T* row = x.row(there ? i : 0);
    for (size_t g = 0; g + 1 < edges.size(); ++g) {
      const T* from = row + edges[g];
      const int64_t n = there ? edges[g + 1] - edges[g] : 0;
      pack_pairs(from, n, from + kHalf, n - kHalf, to + static_cast<int64_t>(g) * kGroupPairs);
    }
  }
}
// The same as it takes B.
template <class T>
void pack_k_contiguous_transposed(MatrixView<const T> x, std::span<const int32_t> edges,
                                  float* to) {
  HWY_ALIGN float rows[kKBlocks * kGroupPairs];
  pack_k_contiguous(x, edges, rows);
  for (int64_t at = 0; at < (std::ssize(edges) - 1) * kGroupPairs; at += 16 * 16)
    transpose(rows + at, 16, 16, 16, to + at, 16);
}

// Rows of x, a group, that are k-strided: a block of 32 of them `step` floats after another, as
// Microkernel takes A, or B with `transposed`.
template <bool transposed, class T>
void pack_k_strided(MatrixView<const T> x, float* to, int64_t step) {
  const int64_t n = x.cols;
  // `ahead`: how far what will be read soon lies behind what is read.
  const auto pairs_of = [&](int64_t p, int64_t j, int64_t ahead, float* pairs) HWY_ATTR {
    const T* low = x.data + std::min(p, n - 1) * x.col_stride + j;
    const T* high = p + kHalf < n ? low + kHalf * x.col_stride : low;
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

// The product, tiles of 32 rows. What becomes of it, a Sink says:
//
//   kWidth            blocks of 32 columns that make a panel
//   column(panel, i)  where the i-th of them begins
//   panels()          how many there are
//   kKeeps            the product itself is what is wanted: it goes to C. Otherwise C is only used
//                     where the reduced index has several parts, and each block is given to
//   finish(row, rows, column, blocks, stride)
//                     while it is in the first-level cache: up to 32 rows from `row` on of the
//                     panel's blocks, of which the first begins at `column`
template <class Sink>
class Bf16Blocks final : public BlockedProduct {
 public:
  Bf16Blocks(const Bf16Product& x, const Sink& sink)
      : x_(x), sink_(sink), columns_(x.b.transposed()), columns16_(x.b16.transposed()) {}

  Blocking blocking() const {
    const int64_t tiles = blocks_of(x_.a.rows, kBf16Block), panels = sink_.panels();
    const int64_t n_block = panels_at_a_time(panels, Sink::kWidth, std::min(x_.groups, kKBlocks));
    return {tiles, panels, x_.packed_a ? std::min(kMBlocks, tiles) : tiles, n_block,
            blocks_of(x_.groups, kKBlocks)};
  }

  TaskCount packing_b(const Block& block) const override {
    if (x_.packed) return {0, 0};
    return {x_.stored || k_contiguous() ? block.panels * Sink::kWidth : groups(block),
            kPackingCost * block.panels * Sink::kWidth * groups(block) * kGroupPairs};
  }
  void pack_b(const Block& block, int64_t task) const override {
    if (x_.stored)
      unpack_b(block, task);
    else if (x_.b16)
      pack_b(columns16_, block, task);
    else
      pack_b(columns_, block, task);
  }
  TaskCount packing_a(const Block& block) const override {
    if (!x_.packed_a) return {0, 0};
    return {groups(block), kPackingCost * block.tiles * groups(block) * kGroupPairs};
  }
  void pack_a(const Block& block, int64_t task) const override {
    const auto pack = [&](auto a) {
      const auto rows = group(rows_of(a, block.tile, block.tiles), block, task);
      float* to = x_.packed_a + task * kGroupPairs;
      const int64_t step = groups(block) * kGroupPairs;
      if (x_.kernel.block_of_columns)
        pack_k_strided<true>(rows, to, step);
      else
        pack_k_strided<false>(rows, to, step);
    };
    if (x_.a16)
      pack(x_.a16);
    else
      pack(x_.a);
  }

  // As float32 units would have them, of which these do about eight at a time.
  int64_t operations(const Block& block) const override {
    return 2 * block.tiles * block.panels * Sink::kWidth * kBf16Block * kBf16Block * groups(block) *
           kReductionGroup / 8;
  }
  void multiply(const Block& block, const TaskRange& task, int) const override {
    if (x_.kernel.begin) x_.kernel.begin();
    for (int64_t i = task.first_tile; i < task.last_tile; ++i) multiply_tile(block, task, i);
    if (x_.kernel.end) x_.kernel.end();
  }

 private:
  bool k_contiguous() const { return columns_.col_stride == 1; }
  // By how pack_a() and multiply_tile() pack A.
  Microkernel::Block* kernel() const {
    return x_.packed_a && x_.kernel.block_of_columns ? x_.kernel.block_of_columns : x_.kernel.block;
  }
  int64_t first(const Block& block) const { return block.part * kKBlocks; }
  int64_t groups(const Block& block) const { return std::min(kKBlocks, x_.groups - first(block)); }
  std::span<const int32_t> edges(const Block& block) const {
    return {x_.edges + first(block), static_cast<size_t>(groups(block)) + 1};
  }
  // Some blocks of an operand's rows; a group of them.
  template <class T>
  static MatrixView<const T> rows_of(MatrixView<const T> x, int64_t at, int64_t count) {
    const int64_t row = at * kBf16Block;
    return x.row_range(row, std::min(x.rows - row, count * kBf16Block));
  }
  template <class T>
  MatrixView<const T> group(MatrixView<const T> rows, const Block& block, int64_t g) const {
    const int32_t* edge = x_.edges + first(block) + g;
    return rows.col_range(edge[0], edge[1] - edge[0]);
  }

  template <class T>
  void pack_b(MatrixView<const T> columns, const Block& block, int64_t task) const {
    const int64_t step = groups(block) * kGroupPairs;
    if (k_contiguous()) {
      const int64_t column = sink_.column(block.panel + task / Sink::kWidth, task % Sink::kWidth);
      const int64_t count = std::min(kBf16Block, columns.rows - column);
      pack_k_contiguous_transposed(columns.row_range(column, count), edges(block),
                                   x_.packed_b + task * step);
    } else if constexpr (Sink::kWidth == 1) {
      pack_k_strided<true>(group(rows_of(columns, block.panel, block.panels), block, task),
                           x_.packed_b + task * kGroupPairs, step);
    }
  }

  void unpack_b(const Block& block, int64_t task) const {
    HWY_ALIGN float floats[kWeightPanel * kWeightGroup];
    const int64_t column = sink_.column(block.panel + task / Sink::kWidth, task % Sink::kWidth);
    const int64_t at = column / kBf16Block;
    float* to = x_.packed_b + task * groups(block) * kGroupPairs;
    for (int64_t g = first(block); g < first(block) + groups(block); ++g, to += kGroupPairs) {
      if (x_.stored_is_b) {
        constexpr int32_t kWhole[] = {0, kReductionGroup};
        unpack_group(x_.stored, group_at(x_.stored, {g, at}, x_.b.cols), floats);
        pack_k_contiguous_transposed(
            MatrixView<const float>(floats, kWeightGroup, kWeightPanel, kWeightPanel), kWhole, to);
      } else if (x_.stored.type == Storage::kBf16) {  // the same layout
        std::memcpy(to, group_at(x_.stored, {at, g}, x_.a.cols), group_bytes(Storage::kBf16));
      } else {
        unpack_group(x_.stored, group_at(x_.stored, {at, g}, x_.a.cols), floats);
        pack_k_strided<true>(
            MatrixView<const float>(floats, kWeightPanel, kWeightGroup, 1, kWeightPanel), to, 0);
      }
    }
  }

  // Tile i of the block.
  void multiply_tile(const Block& block, const TaskRange& task, int64_t i) const {
    HWY_ALIGN float own[kKBlocks * kGroupPairs];
    HWY_ALIGN float results[Sink::kWidth * kBf16Block * kBf16Block];
    const int64_t k_blocks = groups(block), g0 = first(block);
    const int64_t row = (block.tile + i) * kBf16Block, rows = std::min(kBf16Block, x_.a.rows - row);
    const float* a = own;
    if (x_.packed_a)
      a = x_.packed_a + i * k_blocks * kGroupPairs;
    else if (x_.a16)
      pack_k_contiguous(rows_of(x_.a16, block.tile + i, 1), edges(block), own);
    else
      pack_k_contiguous(rows_of(x_.a, block.tile + i, 1), edges(block), own);
    const bool add = x_.add || g0 > 0, is_last = g0 + k_blocks == x_.groups;
    const bool is_local = !Sink::kKeeps && x_.groups <= kKBlocks;
    for (int64_t q = task.first_panel; q < task.last_panel; ++q) {
      if (!x_.packed_a && i + 1 < task.last_tile)
        fetch(block, i + 1, q - task.first_panel, task.last_panel - task.first_panel);
      const float* blocks[Sink::kWidth];
      for (int64_t half = 0; half < Sink::kWidth; ++half) {
        const float* b = panel(block, q * Sink::kWidth + half);
        const int64_t column = sink_.column(block.panel + q, half);
        float* c = results + half * kBf16Block * kBf16Block;
        if (is_local) {
          kernel()(a, b, k_blocks, c, kBf16Block, add);
        } else {
          c = x_.c.row(row) + column;
          multiply_block(a, b, k_blocks,
                         {c, rows, std::min(kBf16Block, x_.c.cols - column), x_.c.row_stride}, add);
        }
        blocks[half] = c;
      }
      if constexpr (!Sink::kKeeps)
        if (is_last)
          sink_.finish(row, rows, sink_.column(block.panel + q, 0), blocks,
                       is_local ? kBf16Block : x_.c.row_stride);
    }
  }

  // Where what the block has of its i-th panel begins.
  const float* panel(const Block& block, int64_t i) const {
    if (!x_.packed) return x_.packed_b + i * groups(block) * kGroupPairs;
    const std::byte* whole = x_.packed.panels_from(block.panel + i, x_.a.cols).data;
    return reinterpret_cast<const float*>(whole) + first(block) * kGroupPairs;
  }

  // c (+)= a b, up to 32 x 32 of it.
  void multiply_block(const float* a, const float* b, int64_t k_blocks, MatrixView<float> c,
                      bool add) const {
    if (c.rows == kBf16Block && c.cols == kBf16Block)
      return kernel()(a, b, k_blocks, c.data, c.row_stride, add);
    HWY_ALIGN float whole[kBf16Block * kBf16Block];
    for (int64_t r = 0; r < c.rows && add; ++r)
      std::copy_n(c.row(r), c.cols, whole + r * kBf16Block);
    kernel()(a, b, k_blocks, whole, kBf16Block, add);
    for (int64_t r = 0; r < c.rows; ++r) std::copy_n(whole + r * kBf16Block, c.cols, c.row(r));
  }

  // Part `at` of `parts` of what tile i will pack, into L2, while another tile is multiplied.
  // Inline: GCC drops calls of functions that only prefetch.
  HWY_INLINE void fetch(const Block& block, int64_t i, int64_t at, int64_t parts) const {
    if (x_.a16)
      fetch(x_.a16, block, i, at, parts);
    else
      fetch(x_.a, block, i, at, parts);
  }
  template <class T>
  HWY_INLINE void fetch(MatrixView<const T> rows, const Block& block, int64_t i, int64_t at,
                        int64_t parts) const {
    constexpr int64_t kLine = 64 / sizeof(T);
    const MatrixView<const T> tile = rows_of(rows, block.tile + i, 1);
    const std::span<const int32_t> cut = edges(block);
    for (int64_t r = tile.rows * at / parts; r < tile.rows * (at + 1) / parts; ++r)
      for (int64_t k = cut.front(); k < cut.back(); k += kLine)
        __builtin_prefetch(tile.row(r) + k, 0, 2);
  }

  const Bf16Product& x_;
  const Sink sink_;
  const MatrixView<const float> columns_;  // of B
  const MatrixView<const BFloat16> columns16_;
};

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
