#include "refrain/kernels/gemm_bf16.h"

#include <algorithm>
#include <bit>

#include "refrain/base/parallel.h"
#include "refrain/kernels/bf16.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/gemm_bf16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/tile-inl.h"

#ifndef REFRAIN_KERNELS_GEMM_BF16_ONCE
#define REFRAIN_KERNELS_GEMM_BF16_ONCE
namespace refrain::kernels {
// Blocking: of B [512, 768] in L2; 32 rows of A, and 32 columns of B, of that depth each take 32
// KiB.
inline constexpr int64_t kGrainsDeep = 16, kBlocksWide = 24;

// An operand seen as items (rows of A, columns of B) of numbers along the reduced index.
struct Items {
  const float* data;
  int64_t item, along;  // steps from one item to the next, and along the reduced index
};

struct Bf16Product {
  const Bf16Kernel& kernel;
  Items a, b;
  float* c;
  int64_t c_row, M, N;
  bool add;
  const int32_t* edges;  // grain g is [edges[g], edges[g + 1])
  int64_t grains;
  float* packed;  // of B: [kBlocksWide][kGrainsDeep][kGrainPairs]
};
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// to[j] = the pair (low[j], high[j]), for j < n; zero beyond, up to 16. high: null for zeros.
HWY_INLINE void pairs_across(const float* low, const float* high, int64_t n, float* to) {
  const FloatTag d;
  const hn::Repartition<uint32_t, FloatTag> du;
  const int64_t N = float_lanes();
  for (int64_t j = 0; j < 16; j += N) {
    const Part part{std::clamp<int64_t>(n - j, 0, N)};
    const FloatVec first = rounded_to_bf16(part.load(low + j));
    const FloatVec second = high ? rounded_to_bf16(part.load(high + j)) : hn::Zero(d);
    hn::StoreU(hn::Or(hn::BitCast(d, hn::ShiftRight<16>(hn::BitCast(du, first))), second), d,
               to + j);
  }
}

// to[p] = the pair (from[2 p], from[2 p + 1]), for 2 p < n; zero beyond, up to 16 pairs.
HWY_INLINE void pairs_along(const float* from, int64_t n, float* to) {
#if HWY_TARGET == HWY_SCALAR
  for (int64_t p = 0; p < 16; ++p) {
    const auto bits = [&](int64_t i) -> uint32_t { return i < n ? BFloat16::of(from[i]).bits : 0; };
    to[p] = std::bit_cast<float>(bits(2 * p) | bits(2 * p + 1) << 16);
  }
#else
  const FloatTag d;
  const hn::Repartition<uint32_t, FloatTag> du;
  const int64_t N = float_lanes();
  for (int64_t p = 0; p < 16; p += N) {
    const auto half = [&](int64_t i) {
      return hn::BitCast(du,
                         rounded_to_bf16(Part{std::clamp<int64_t>(n - i, 0, N)}.load(from + i)));
    };
    const auto x = half(2 * p), y = half(2 * p + N);
    const auto first = hn::ShiftRight<16>(hn::ConcatEven(du, y, x));
    hn::StoreU(hn::BitCast(d, hn::Or(first, hn::ConcatOdd(du, y, x))), d, to + p);
  }
#endif
}

// 16 items from `item` on, of which `count` exist, along [k, k + n): [item][pair] or, `turned`,
// [pair][item].
HWY_INLINE void pack_half(Items x, int64_t item, int64_t count, int64_t k, int64_t n, bool turned,
                          float* to) {
  HWY_ALIGN float other[16 * 16];
  if (x.along == 1) {
    float* rows = turned ? other : to;
    for (int64_t i = 0; i < 16; ++i)
      pairs_along(x.data + (item + i) * x.item + k, i < count ? n : 0, rows + i * 16);
    if (turned) transpose(other, 16, 16, 16, to, 16);
  } else {
    float* rows = turned ? to : other;
    for (int64_t p = 0; p < 16; ++p) {
      const float* low = x.data + (k + 2 * p) * x.along + item;
      pairs_across(low, 2 * p + 1 < n ? low + x.along : nullptr, 2 * p < n ? count : 0,
                   rows + p * 16);
    }
    if (!turned) transpose(other, 16, 16, 16, to, 16);
  }
}

// 32 items over the grains [g0, g1).
void pack_items(Items x, int64_t item, int64_t end, const int32_t* edges, int64_t g0, int64_t g1,
                bool turned, float* to) {
  for (int64_t g = g0; g < g1; ++g)
    for (int64_t half = 0; half < 2; ++half, to += kGrainPairs / 2) {
      const int64_t first = item + half * 16;
      pack_half(x, first, std::clamp<int64_t>(end - first, 0, 16), edges[g],
                edges[g + 1] - edges[g], turned, to);
    }
}

// Rows [i0, i0 + 32) of C against blocks [q0, q1) of its columns, from j0 on.
void rows_task(const Bf16Product& x, int64_t i0, int64_t j0, int64_t q0, int64_t q1, int64_t g0,
               int64_t g1) {
  HWY_ALIGN float a[kGrainsDeep * kGrainPairs];
  HWY_ALIGN float edge[kBf16Block * kBf16Block];
  pack_items(x.a, i0, x.M, x.edges, g0, g1, false, a);
  const bool add = x.add || g0 > 0;
  for (int64_t q = q0; q < q1; ++q) {
    const float* b = x.packed + q * (g1 - g0) * kGrainPairs;
    const int64_t j = j0 + q * kBf16Block;
    const int64_t rows = std::min(kBf16Block, x.M - i0), cols = std::min(kBf16Block, x.N - j);
    float* c = x.c + i0 * x.c_row + j;
    if (rows == kBf16Block && cols == kBf16Block) {
      x.kernel.block(a, b, g1 - g0, c, x.c_row, add);
      continue;
    }
    for (int64_t i = 0; i < rows && add; ++i)
      std::copy_n(c + i * x.c_row, cols, edge + i * kBf16Block);
    x.kernel.block(a, b, g1 - g0, edge, kBf16Block, add);
    for (int64_t i = 0; i < rows; ++i) std::copy_n(edge + i * kBf16Block, cols, c + i * x.c_row);
  }
}

void multiply_bf16(const Bf16Product& x) {
  const int64_t row_blocks = (x.M + kBf16Block - 1) / kBf16Block;
  const int64_t col_blocks = (x.N + kBf16Block - 1) / kBf16Block;
  for (int64_t n0 = 0; n0 < col_blocks; n0 += kBlocksWide)
    for (int64_t g0 = 0; g0 < x.grains; g0 += kGrainsDeep) {
      const int64_t g1 = std::min(x.grains, g0 + kGrainsDeep), deep = g1 - g0;
      const int64_t wide = std::min(kBlocksWide, col_blocks - n0), j0 = n0 * kBf16Block;
      parallel_for(
          wide,
          [&](int64_t q) {
            pack_items(x.b, j0 + q * kBf16Block, x.N, x.edges, g0, g1, true,
                       x.packed + q * deep * kGrainPairs);
          },
          kPackingCost * wide * deep * kGrainPairs);
      const int64_t want = 4 * threads(), row_tasks = std::min(row_blocks, want);
      const int64_t col_tasks = std::clamp<int64_t>(want / row_tasks, 1, wide);
      parallel_for(
          row_tasks * col_tasks,
          [&](int64_t task) {
            const int64_t r = task / col_tasks, q = task % col_tasks;
            if (x.kernel.begin) x.kernel.begin();
            for (int64_t i = row_blocks * r / row_tasks; i < row_blocks * (r + 1) / row_tasks; ++i)
              rows_task(x, i * kBf16Block, j0, wide * q / col_tasks, wide * (q + 1) / col_tasks, g0,
                        g1);
            if (x.kernel.end) x.kernel.end();
          },
          // Operations as float32 units would have them, of which these do about eight at a time.
          2 * x.M * wide * kBf16Block * deep * kGrain / 8);
    }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply_bf16);

void gemm_bf16(const Bf16Kernel& kernel, Strided a, Strided b, float* c, int64_t c_row, int64_t M,
               int64_t N, int64_t K, bool add, std::span<const int32_t> pieces, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int32_t one_piece[2] = {0, static_cast<int32_t>(K)};
  if (pieces.empty()) pieces = one_piece;
  int64_t grains = 0;
  for (size_t p = 0; p + 1 < pieces.size(); ++p)
    grains += (pieces[p + 1] - pieces[p] + kGrain - 1) / kGrain;
  const auto edges = scratch.take<int32_t>({grains + 1});
  const int64_t wide = std::min(kBlocksWide, (N + kBf16Block - 1) / kBf16Block);
  const Tensor packed = scratch.take({wide, std::min(grains, kGrainsDeep), kGrainPairs});
  if (scratch.counts_only() || M == 0 || N == 0 || K == 0) return;
  REFRAIN_CHECK(pieces.front() == 0 && pieces.back() == K);
  int32_t* edge = edges.data;
  for (size_t p = 0; p + 1 < pieces.size(); ++p)
    for (int32_t k = pieces[p]; k < pieces[p + 1]; k += static_cast<int32_t>(kGrain)) *edge++ = k;
  *edge = pieces.back();
  HWY_DYNAMIC_DISPATCH(multiply_bf16)
  ({kernel,
    {a.data, a.row, a.col},
    {b.data, b.col, b.row},
    c,
    c_row,
    M,
    N,
    add,
    edges.data,
    grains,
    packed.data});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
