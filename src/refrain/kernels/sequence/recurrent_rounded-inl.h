// What the time loops of recurrent.cc need for products of rounded operands: w_hh rounded once, and
// what a step finds rounded in every step. Included once per SIMD target by the kernel files.
#if defined(REFRAIN_KERNELS_RECURRENT_ROUNDED_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_RECURRENT_ROUNDED_INL_H_
#undef REFRAIN_KERNELS_RECURRENT_ROUNDED_INL_H_
#else
#define REFRAIN_KERNELS_RECURRENT_ROUNDED_INL_H_
#endif

#include "hwy/highway.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/bf16_blocks-inl.h"
#include "refrain/kernels/matmul/int16-inl.h"
#include "refrain/kernels/sequence/time_loop-inl.h"

#ifndef REFRAIN_KERNELS_RECURRENT_ROUNDED_ONCE
#define REFRAIN_KERNELS_RECURRENT_ROUNDED_ONCE
namespace refrain::kernels {

// Some places of a time loop, [low, high).
struct Places {
  int64_t low, high;
};

// What a step finds of all places: rows of `row` floats.
struct RecurrentEdge {
  const float* data;
  int64_t row;
};

// w_hh, as many columns of it as B has, in panels of units.
struct RoundedToInt16 {
  ConstTensor w_hh;
  ReductionGroups groups;       // of what an edge holds
  Pair* w_pairs = nullptr;      // panels of [pairs][columns]
  float* w_scales = nullptr;    // and of [groups][columns]
  TensorOf<Pair> edge_pairs{};  // [threads, places pairs]
  Tensor edge_scales{};         // [threads, places groups kMostLanes]
  explicit operator bool() const { return w_pairs != nullptr; }
};

// On the units for it; layouts are Microkernel's.
struct RoundedToBf16 {
  const Microkernel* kernel = nullptr;
  ConstTensor w_hh;
  TensorOf<int32_t> edges;  // of the groups
  float* w = nullptr;       // [panel][groups][kGroupPairs]
  Tensor edge{};            // [threads, blocks of 32 places, groups, kGroupPairs]
  int64_t groups() const { return edges.size() - 1; }
  int64_t block() const { return groups() * kGroupPairs; }
  float* edge_block(int worker, int64_t i) const { return edge.row(worker) + i * block(); }
  explicit operator bool() const { return w != nullptr; }
};

// Take what products of an edge of K numbers with `panels` panels of w_hh need.
inline RoundedToInt16 take_int16(ConstTensor w_hh, int64_t K, int64_t columns, int64_t places,
                                 Arena& scratch) {
  const int64_t count = blocks_of(K, kInt16Features), pairs = blocks_of(K, 2);
  const auto edges = make_reduction_groups(K, {}, kInt16Features, scratch);
  const int64_t width = (columns + kMaxPanel - 1) / kMaxPanel * kMaxPanel;
  RoundedToInt16 x{.w_hh = w_hh, .groups = {edges.data, count, pairs}};
  x.w_pairs = scratch.take<Pair>({width, pairs}).data;
  x.w_scales = scratch.take({width, count}).data;
  x.edge_pairs = scratch.take<Pair>({threads(), places * pairs});
  x.edge_scales = scratch.take({threads(), places * count * kMostLanes});
  return x;
}
inline RoundedToBf16 take_bf16(ConstTensor w_hh, int64_t K, int64_t panels, int64_t places,
                               Arena& scratch) {
  RoundedToBf16 x{.kernel = microkernel(),
                  .w_hh = w_hh,
                  .edges = make_reduction_groups(K, {}, kReductionGroup, scratch)};
  x.w = scratch.take({panels, x.block()}).data;
  x.edge = scratch.take({threads(), blocks_of(places, kBf16Block) * x.block()});
  return x;
}

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// The rows of w as panels of columns, from panel `first` of the run's on.
void pack_int16_units(const RoundedToInt16& x, MatrixView<const float> w, int64_t first) {
  const int64_t n = w.rows;
  const int64_t NR = tile_cols(), panels = blocks_of(n, NR), pairs = x.groups.pairs;
  constexpr int32_t kLargest = int16_largest(kInt16Features);
  parallel_for(
      panels,
      [&](int64_t p) {
        pack_int16_panels(w.row_range(p * NR, std::min(NR, n - p * NR)), x.groups, kLargest,
                          {x.w_pairs + (first + p) * pairs * NR,
                           x.w_scales + (first + p) * x.groups.count * NR, NR, 0, 0});
      },
      kPackingCost * 2 * pairs * n);
}

// What a step finds of the first `n` of the places [i0, i1), rounded, tile after tile.
void round_edge(const RoundedToInt16& x, const RecurrentEdge& edge, Places places, int64_t n,
                int worker) {
  const ReductionGroups& groups = x.groups;
  constexpr int32_t kLargest = int16_largest(kInt16Features);
  int64_t tile = 0;
  each_tile(places.low, places.high, [&](int64_t first, int64_t count) HWY_ATTR {
    float* scales = x.edge_scales.row(worker) + tile++ * groups.count * kMostLanes;
    for (int64_t i = 0; i < count && first + i < places.low + n; ++i) {
      const float* from = edge.data + (first + i) * edge.row;
      Pair* to = x.edge_pairs.row(worker) + (first + i - places.low) * groups.pairs;
      for (int64_t g = 0; g < groups.count; to += groups.pairs_of(g), ++g)
        scales[g * kMostLanes + i] =
            round_k_contiguous(from + groups.begin(g), groups.length(g), kLargest, to);
    }
  });
}

// p [count, tile_cols()]: rows from `row` on of what round_edge() left for the places of a worker,
// its tile-th tile, against a panel.
HWY_INLINE void int16_step(const RoundedToInt16& x, int64_t tile, int64_t row, int64_t panel,
                           MatrixView<float> p, int worker) {
  const int64_t NR = tile_cols(), pairs = x.groups.pairs, groups = x.groups.count;
  const auto multiply = [&](auto dot) HWY_ATTR {
    int16_tile_of<decltype(dot), Rows::kApart, 2, false>(
        {x.edge_pairs.row(worker) + row * pairs, pairs,
         x.edge_scales.row(worker) + tile * groups * kMostLanes},
        {x.w_pairs + panel * pairs * NR, NR, x.w_scales + panel * groups * NR}, x.groups, nullptr,
        p, false);
  };
#if HWY_TARGET <= HWY_AVX3 && defined(__x86_64__)
  if (int16_is_fast()) return multiply(Vnni());
#endif
  multiply(MultiplyAdd());
}

// The same for bfloat16. Groups are packed a few at a time.
void pack_bf16_units(const RoundedToBf16& x, MatrixView<const float> w, int64_t first) {
  parallel_for(
      blocks_of(w.rows, kBf16Block),
      [&](int64_t p) {
        const int64_t u = p * kBf16Block;
        float* to = x.w + (first + p) * x.block();
        for (int64_t g = 0; g < x.groups(); g += kKBlocks) {
          const int64_t n = std::min(kKBlocks, x.groups() - g);
          pack_k_contiguous_transposed(w.row_range(u, std::min(kBf16Block, w.rows - u)),
                                       {x.edges.data + g, static_cast<size_t>(n) + 1},
                                       to + g * kGroupPairs);
        }
      },
      kPackingCost * w.rows * w.cols);
}
// The columns of w as units.
void pack_bf16_columns(const RoundedToBf16& x, MatrixView<const float> w) {
  parallel_for(
      x.groups(),
      [&](int64_t g) {
        const int32_t* edge = x.edges.data + g;
        pack_k_strided<true>(w.transposed().col_range(edge[0], edge[1] - edge[0]),
                             x.w + g * kGroupPairs, x.block());
      },
      kPackingCost * w.rows * w.cols);
}

// What a step finds of the first `n` of these places; zeros of the others.
void round_edge(const RoundedToBf16& x, const RecurrentEdge& edge, Places places, int64_t n,
                int worker) {
  const int64_t K = x.edges.data[x.groups()];
  for (int64_t i = 0; i < n; i += kBf16Block)
    pack_k_contiguous(MatrixView<const float>(edge.data + (places.low + i) * edge.row,
                                              std::min(kBf16Block, n - i), K, edge.row),
                      {x.edges.data, static_cast<size_t>(x.groups()) + 1},
                      x.edge_block(worker, i / kBf16Block));
}

// c (+)= the first rows of a block of places against a panel: as many as `rows`, or more.
HWY_INLINE void bf16_step(const RoundedToBf16& x, const float* a, int64_t panel, int64_t rows,
                          float* c, int64_t c_row) {
  const float* b = x.w + panel * x.block();
  if (x.kernel->begin) x.kernel->begin();
  if (!x.kernel->strip || rows > kBf16Block - kStripRows)
    x.kernel->block(a, b, x.groups(), c, c_row, false);
  else
    for (int64_t r = 0; r < rows; r += kStripRows)
      x.kernel->strip(a + r / 16 * (kGroupPairs / 2) + r % 16 * 16, b, x.groups(), c + r * c_row,
                      c_row, false);
  if (x.kernel->end) x.kernel->end();
}

// f(first, count, block) for the blocks of 32 of these places, the last one with what is left.
template <class F>
HWY_INLINE void each_bf16_block(Places places, F&& f) {
  for (int64_t i = places.low; i < places.high; i += kBf16Block)
    f(i, std::min(kBf16Block, places.high - i), (i - places.low) / kBf16Block);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
