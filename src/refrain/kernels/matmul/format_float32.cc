// The format of float32: panels of B side by side, and rows of A as they lie or packed by tile.
#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/driver.h"
#include "refrain/kernels/matmul/gemm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/format_float32.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/storage/halves-inl.h"
#include "refrain/kernels/matmul/storage/unpack-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_FORMAT_FLOAT32_ONCE
#define REFRAIN_KERNELS_FORMAT_FLOAT32_ONCE
namespace refrain::kernels {
// Blocking: a tile of A [rows, kDepth] stays in L1, a block of B [kDepth, kWidth] in L2.
constexpr int64_t kDepth = 384, kWidth = 576;
// A multiple of every target's panels.
constexpr int64_t kPanels = 96;

// Blocks of B are packed into `blocks`, but weights in float32 are read where they are; `rounded`:
// operands to bfloat16.
struct Float32Product : Product {
  bool rounded;
  const float* weights;
  float* blocks;
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

// In panels of V vectors, 2 of them with weights.
template <int V>
class Float32Blocks final : public BlockedProduct {
 public:
  explicit Float32Blocks(const Float32Product& x)
      : x_(x),
        width_(even_block(x.b.cols, kWidth / NR_ * NR_, NR_)),
        depth_(even_block(x.a.cols, kDepth, x.packed || x.stored ? kWeightGroup : 1)),
        tiles_(blocks_of(x.a.rows, tile_rows<V>())) {}

  Blocking blocking() const {
    return {tiles_, blocks_of(x_.b.cols, NR_), tiles_, width_ / NR_, blocks_of(x_.a.cols, depth_)};
  }

  TaskCount packing_b(const Block& block) const override {
    if (x_.weights) return {0, 0};
    return {block.panels, kPackingCost * depth(block) * width(block)};
  }
  void pack_b(const Block& block, int64_t p) const override {
    const int64_t depth = this->depth(block), j = (block.panel + p) * NR_;
    float* to = x_.blocks + p * depth * NR_;
    if (x_.packed)
      return unpack_columns(x_.packed.panels_from(j / kWeightPanel, x_.a.cols), first(block), depth,
                            {to, NR_, j % kWeightPanel});
    if (x_.stored)
      unpack_b(first(block), depth, j, to);
    else
      pack_panel(x_.b.row_range(first(block), depth).col_range(j, std::min(NR_, x_.b.cols - j)), to,
                 NR_);
    if (x_.rounded) round_floats(to, depth * NR_);
  }

  int64_t operations(const Block& block) const override {
    return 2 * x_.a.rows * width(block) * depth(block);
  }
  void multiply(const Block& block, const TaskRange& task, int) const override {
    constexpr int64_t kRows = tile_rows<V>();
    const int64_t NR = NR_, depth = this->depth(block), width = this->width(block);
    const int64_t j0 = block.panel * NR, k0 = first(block), K = x_.a.cols, M = x_.a.rows;
    const int64_t b_row = x_.weights ? kWeightPanel : NR;
    const MatrixView<const float> a = x_.a.col_range(k0, depth);
    const MatrixView<float> c = x_.c.col_range(j0, width);
    const bool add = x_.add || k0 > 0, pack_rows = a.row_stride == 1 || x_.rounded;
    // Where a panel begins.
    const auto panel = [&](int64_t p) -> const float* {
      if (!x_.weights) return x_.blocks + p * depth * NR;
      const int64_t j = j0 + p * NR;
      return x_.weights + (j / kWeightPanel * K + k0) * kWeightPanel + j % kWeightPanel;
    };
    HWY_ALIGN float packed_rows[kRows * kDepth + HWY_MAX_BYTES / sizeof(float)];
    for (int64_t t = task.first_tile; t < task.last_tile; ++t) {
      const int64_t i0 = M * t / tiles_, mr = M * (t + 1) / tiles_ - i0;
      const float* from = a.row(i0);
      float* to = c.row(i0);
      if (a.row_stride == 1)
        pack_adjacent(from, a.col_stride, mr, depth, packed_rows);
      else if (pack_rows)
        transpose(from, a.row_stride, mr, depth, packed_rows, mr);
      if (x_.rounded) round_floats(packed_rows, mr * depth);
      int64_t p = task.first_panel;
      if constexpr (V == 2) {
        constexpr int kTogether = 4;
        if (mr == 1 && !pack_rows)
          for (; p + kTogether <= task.last_panel && (p + kTogether) * NR <= width;
               p += kTogether) {
            const float* some[kTogether];
            for (int i = 0; i < kTogether; ++i) some[i] = panel(p + i);
            row_tile<kTogether>(from, some, b_row, depth, to + p * NR, add);
          }
      }
      for (; p < task.last_panel; ++p) {
        const int64_t n = std::min(NR, width - p * NR);
        const MatrixView<const float> right(panel(p), depth, n, b_row);
        const MatrixView<float> out(to + p * NR, mr, n, c.row_stride);
        if (pack_rows)
          tile_of<Rows::kAdjacent, V>({packed_rows, mr, depth, 1, mr}, right, out, add);
        else
          tile_of<Rows::kApart, V>(a.row_range(i0, mr), right, out, add);
      }
    }
  }

 private:
  // The columns [j, j + NR_) of a panel, which divides 32, of rows [first, first + depth).
  void unpack_b(int64_t first, int64_t depth, int64_t j, float* to) const {
    HWY_ALIGN float group[kWeightPanel * kWeightGroup];
    const int64_t from = j % kWeightPanel;
    for (int64_t k = 0; k < depth; k += kWeightGroup, to += kWeightGroup * NR_) {
      const int64_t rows = std::min(kWeightGroup, depth - k), at = (first + k) / kWeightGroup;
      if (x_.stored_is_b) {
        unpack_group(x_.stored, group_at(x_.stored, {at, j / kWeightGroup}, x_.b.cols), group);
        transpose(group + from * kWeightPanel, kWeightPanel, NR_, rows, to, NR_);
      } else {
        unpack_group(x_.stored, group_at(x_.stored, {j / kWeightPanel, at}, x_.a.cols), group);
        for (int64_t row = 0; row < rows; ++row)
          std::copy_n(group + row * kWeightPanel + from, NR_, to + row * NR_);
      }
    }
  }
  int64_t first(const Block& block) const { return block.part * depth_; }
  int64_t depth(const Block& block) const { return std::min(depth_, x_.a.cols - first(block)); }
  int64_t width(const Block& block) const {
    return std::min(block.panels * NR_, x_.b.cols - block.panel * NR_);
  }

  const Float32Product& x_;
  const int64_t NR_ = V * float_lanes();  // columns of a panel
  const int64_t width_, depth_, tiles_;   // of a block; of the product
};

template <int V>
void multiply_by_panels(const Float32Product& x) {
  const Float32Blocks<V> blocks(x);
  run_blocks(blocks.blocking(), blocks);
}

void multiply(const Float32Product& x) {
  // Of wide registers there are enough for three vectors and more rows than their loads cost.
#if HWY_TARGET <= HWY_AVX3
  constexpr int kVectors = 3;
#else
  constexpr int kVectors = 2;
#endif
  if (x.packed || x.stored || x.a.rows == 1)
    multiply_by_panels<2>(x);
  else
    multiply_by_panels<kVectors>(x);
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

namespace {
void multiply_as(const Product& product, bool rounded, Arena& scratch) {
  Arena::Frame frame(scratch);
  Float32Product x{product, rounded, product.packed.floats(), nullptr};
  if (rounded && x.weights) x.weights = nullptr, x.packed = {};
  Tensor blocks;
  if (!x.weights)
    blocks =
        scratch.take({std::min(x.a.cols, kDepth), round_up(std::min(x.b.cols, kWidth), kPanels)});
  if (scratch.planning() || x.is_empty()) return;
  x.blocks = blocks.data;
  HWY_DYNAMIC_DISPATCH(multiply)(x);
}
}  // namespace

void multiply_float32(const Product& x, Arena& scratch) { multiply_as(x, false, scratch); }
void multiply_rounded(const Product& x, Arena& scratch) { multiply_as(x, true, scratch); }

void pack_weight(ConstTensor w, float* to) { HWY_DYNAMIC_DISPATCH(pack_weight)(w, to); }

}  // namespace refrain::kernels
#endif  // HWY_ONCE
