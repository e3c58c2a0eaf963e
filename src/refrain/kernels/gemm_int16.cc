#include "refrain/kernels/gemm_int16.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "refrain/base/parallel.h"
#include "refrain/kernels/isa.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/gemm_int16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/tile-inl.h"

#ifndef REFRAIN_KERNELS_GEMM_INT16_ONCE
#define REFRAIN_KERNELS_GEMM_INT16_ONCE
namespace refrain::kernels {
// Blocking: a run of kPairsDeep pairs of a panel of B stays in the first-level cache while a block
// of A, kBlockTiles tiles of the same pairs, passes by, and with it a panel of C. In the second are
// all runs of the block, a part of the reduced index: kPairsFar pairs, for which kInt16Width columns
// of B are packed at a time.
inline constexpr int64_t kPairsDeep = 128, kGrainsDeep = 16, kBlockTiles = 16;
inline constexpr int64_t kPairsFar = 512, kGrainsFar = 64, kInt16Width = 2304;
// Room for the tallest tile and the widest vector of any target.
inline constexpr int64_t kMostTileRows = 9, kMostLanes = 16;
inline constexpr int64_t kBlockRows = kBlockTiles * kMostTileRows;

// Two neighbours along the reduced index, the first in the lower half.
using Pair = int32_t;

// An operand seen as items (rows of A, columns of B) of numbers along the reduced index.
struct Int16Items {
  const float* data;
  int64_t item, along;  // steps from one item to the next, and along the reduced index
};

// Grains that are worked at a time.
struct GrainRun {
  const int32_t* edges;  // grain g is [edges[g], edges[g + 1])
  int64_t count, pairs;
  int64_t runs_before, grains_before, pairs_before;  // in the same part

  int64_t begin(int64_t g) const { return edges[g]; }
  int64_t length(int64_t g) const { return edges[g + 1] - edges[g]; }
  int64_t pairs_of(int64_t g) const { return (length(g) + 1) / 2; }
};

struct Int16Product {
  Int16Items a, b;
  float* c;
  int64_t c_row, M, N;
  bool add;
  std::span<const GrainRun> runs;
  int32_t largest;
  // Of the part of B that is packed: panels of [pairs][columns], and of [grains][columns].
  Pair* b_pairs;
  float* b_scales;
  // Of the block of A that each thread works on, [threads, ...].
  TensorOf<Pair> a_pairs;
  Tensor a_scales;
};

inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

using PairTag = hn::RebindToSigned<FloatTag>;
using PairVec = hn::Vec<PairTag>;

// acc + the sums of both products of each pair of a and b.
struct MultiplyAdd {
  static HWY_INLINE PairVec add(PairVec acc, PairVec a, PairVec b) {
    const PairTag d;
#if HWY_TARGET == HWY_SCALAR
    const int32_t x = hn::GetLane(a), y = hn::GetLane(b);
    const int32_t sum = static_cast<int16_t>(x) * static_cast<int16_t>(y) + (x >> 16) * (y >> 16);
    return hn::Add(acc, hn::Set(d, sum));
#else
    const hn::Repartition<int16_t, PairTag> d16;
    PairVec unused = hn::Zero(d);
    return hn::ReorderWidenMulAccumulate(d, hn::BitCast(d16, a), hn::BitCast(d16, b), acc, unused);
#endif
  }
};

#if HWY_TARGET <= HWY_AVX3 && defined(__x86_64__)
// The same in one instruction, which this target does not promise: by its name.
struct Vnni {
  static HWY_INLINE PairVec add(PairVec acc, PairVec a, PairVec b) {
    asm("vpdpwssd %2, %1, %0" : "+v"(acc.raw) : "v"(a.raw), "v"(b.raw));
    return acc;
  }
};
#endif

// What x is multiplied by, largest / magnitude, and what undoes it. Nothing but zeros: zero. Where
// the magnitude is infinite or NaN, the scale is.
struct Scale {
  FloatVec inverse, scale;
};
HWY_INLINE Scale scale_of(FloatVec magnitude, int32_t largest) {
  const FloatTag d;
  const auto top = hn::Set(d, static_cast<float>(largest));
  // Below, the quotient could overflow.
  const auto counts = hn::Gt(magnitude, hn::Set(d, 0x1p-100f));
  const auto none = hn::Le(magnitude, hn::Set(d, 0x1p-100f));
  return {hn::IfThenElseZero(counts, hn::Div(top, magnitude)),
          hn::IfThenZeroElse(none, hn::Div(magnitude, top))};
}

// What is needed next, rows of memory. A tile asks for a part of it, a line with each pair, which
// hides how far away it is.
class Ahead {
 public:
  Ahead() = default;
  Ahead(const void* from, int64_t rows, int64_t row_bytes, int64_t apart, int64_t parts)
      : at_(static_cast<const char*>(from)),
        lines_(blocks_of(row_bytes, kLine)),
        apart_(apart),
        part_(blocks_of(rows * lines_, parts)),
        left_(rows * lines_) {}
  // to[i] = from + i * step for i < n, and beyond in whole vectors.
  static HWY_INLINE void put_lines(const char* from, int64_t step, int64_t n, const char** to) {
    const hn::ScalableTag<int64_t> d;
    const auto lanes = static_cast<int64_t>(hn::Lanes(d));
    auto line = hn::Add(hn::Set(d, reinterpret_cast<int64_t>(from)),
                        hn::Mul(hn::Iota(d, 0), hn::Set(d, step)));
    for (int64_t i = 0; i < n; i += lanes, line = hn::Add(line, hn::Set(d, lanes * step)))
      hn::StoreU(line, d, reinterpret_cast<int64_t*>(to + i));
  }

  // The next part's lines, as many as there is room for.
  HWY_INLINE const char** put(const char** to, const char** end) {
    int64_t n = std::min({part_, left_, static_cast<int64_t>(end - to)});
    left_ -= n;
    while (n > 0) {
      const int64_t some = std::min(n, lines_ - line_);
      put_lines(at_ + line_ * kLine, kLine, some, to);
      to += some;
      n -= some;
      line_ += some;
      if (line_ == lines_) line_ = 0, at_ += apart_;
    }
    return to;
  }

 private:
  static constexpr int64_t kLine = 64;
  const char* at_ = nullptr;
  int64_t lines_ = 0, apart_ = 0, part_ = 0, left_ = 0, line_ = 0;
};

// The larger magnitude, NaN being the largest: as their bits are ordered.
HWY_INLINE PairVec larger(PairVec so_far, FloatVec v) {
  const PairTag di;
  return hn::Max(so_far, hn::And(hn::BitCast(di, v), hn::Set(di, 0x7fffffff)));
}

// The integer nearest to x times inverse, of at most 2^15, in the lower half of the bits: added to
// a number whose last bit counts ones, it stands there.
HWY_INLINE PairVec rounded(FloatVec x, FloatVec inverse) {
  return hn::BitCast(PairTag(), hn::MulAdd(x, inverse, hn::Set(FloatTag(), 0x1.8p23f)));
}
HWY_INLINE PairVec rounded_pair(FloatVec x, FloatVec y, FloatVec inverse) {
  const auto low = hn::And(rounded(x, inverse), hn::Set(PairTag(), 0xffff));
  return hn::Or(low, hn::ShiftLeft<16>(rounded(y, inverse)));
}

// n numbers of one item, one after another, to (n + 1) / 2 pairs. Returns their scale.
HWY_INLINE float round_along(const float* HWY_RESTRICT from, int64_t n, int32_t largest,
                             Pair* HWY_RESTRICT to) {
  const FloatTag d;
  const PairTag di;
  PairVec most = hn::Zero(di);
  each(n, [&](auto at, int64_t i) HWY_ATTR { most = larger(most, at.load(from + i)); });
  const Scale s = scale_of(hn::BitCast(d, hn::MaxOfLanes(di, most)), largest);
#if HWY_TARGET == HWY_SCALAR
  for (int64_t p = 0; p < (n + 1) / 2; ++p) {
    const auto x = hn::LoadU(d, from + 2 * p);
    const auto y = 2 * p + 1 < n ? hn::LoadU(d, from + 2 * p + 1) : hn::Zero(d);
    hn::StoreU(rounded_pair(x, y, s.inverse), di, to + p);
  }
#else
  const int64_t N = float_lanes();
  const hn::Repartition<uint32_t, FloatTag> d32;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const auto halves = [&](FloatVec x) HWY_ATTR {
    return hn::TruncateTo(d16, hn::BitCast(d32, rounded(x, s.inverse)));
  };
  auto* all = reinterpret_cast<uint16_t*>(to);
  int64_t i = 0;
  for (; i + N <= n; i += N) hn::StoreU(halves(hn::LoadU(d, from + i)), d16, all + i);
  if (i < n) {
    HWY_ALIGN uint16_t last[HWY_MAX_BYTES / sizeof(float)];
    hn::StoreU(halves(Part{n - i}.load(from + i)), d16, last);
    // A vector has an even number of lanes, those beyond n are zero.
    std::copy_n(last, (n - i + 1) / 2 * 2, all + i);
  }
#endif
  return hn::GetLane(s.scale);
}

// Of `count` items side by side, n numbers each, `along` apart: pair p of item j to
// to(j)[p * to_row], in whole vectors. scales: [count], in whole vectors.
template <class To>
HWY_INLINE void round_across(const float* from, int64_t along, int64_t count, int64_t n,
                             int32_t largest, float* scales, int64_t to_row, To&& to) {
  const FloatTag d;
  const PairTag di;
  const int64_t N = float_lanes();
  // Row after row, as they lie in memory.
  std::fill(scales, scales + round_up(count, N), 0.0f);
  for (int64_t k = 0; k < n; ++k) {
    const float* row = from + k * along;
    each(count, [&](auto at, int64_t j) HWY_ATTR {
      const PairVec most = hn::BitCast(di, hn::LoadU(d, scales + j));
      hn::StoreU(hn::BitCast(d, larger(most, at.load(row + j))), d, scales + j);
    });
  }
  each(count, [&](auto at, int64_t j) HWY_ATTR {
    const Scale s = scale_of(hn::LoadU(d, scales + j), largest);
    hn::StoreU(s.scale, d, scales + j);
    const float* x = from + j;
    Pair* pair = to(j);
    int64_t k = 0;
    for (; k + 1 < n; k += 2, x += 2 * along, pair += to_row)
      hn::StoreU(rounded_pair(at.load(x), at.load(x + along), s.inverse), di, pair);
    if (k < n) hn::StoreU(rounded_pair(at.load(x), hn::Zero(d), s.inverse), di, pair);
  });
}

// Columns [item, item + count) of B: panels of `columns`, zero beyond the last one.
struct PackedPanels {
  Pair* pairs;
  float* scales;
  int64_t columns, pairs_apart, scales_apart;  // from a panel to the next
};
void pack_int16_panels(const Int16Items& x, const GrainRun& run, int32_t largest, int64_t item,
                       int64_t count, PackedPanels to) {
  const int64_t columns = to.columns;
  if (const int64_t last = count / columns; count % columns > 0) {
    Pair* pairs = to.pairs + last * to.pairs_apart;
    float* scales = to.scales + last * to.scales_apart;
    std::fill(pairs, pairs + run.pairs * columns, 0);
    std::fill(scales, scales + run.count * columns, 0.0f);
  }
  HWY_ALIGN Pair rows[kMostLanes * kInt16Features / 2];
  HWY_ALIGN float found[kInt16Width + kMostLanes];
  for (int64_t g = 0; g < run.count; ++g) {
    const int64_t pairs = run.pairs_of(g), n = run.length(g);
    const float* from = x.data + item * x.item + run.begin(g) * x.along;
    const auto pairs_at = [&](int64_t j) {
      return to.pairs + j / columns * to.pairs_apart + j % columns;
    };
    if (x.along == 1) {
      for (int64_t j = 0; j < count; j += kMostLanes) {
        const int64_t some = std::min(count - j, kMostLanes);
        for (int64_t i = 0; i < some; ++i)
          found[j + i] = round_along(from + (j + i) * x.item, n, largest, rows + i * pairs);
        transpose(reinterpret_cast<const float*>(rows), pairs, some, pairs,
                  reinterpret_cast<float*>(pairs_at(j)), columns);
      }
    } else {
      round_across(from, x.along, count, n, largest, found, columns, pairs_at);
    }
    for (int64_t j = 0; j < count; j += columns)
      std::copy_n(found + j, std::min(columns, count - j),
                  to.scales + j / columns * to.scales_apart + g * columns);
    to.pairs += pairs * columns;
  }
}

// A block of tiles: tile t has the rows [row(t), row(t + 1)).
class TileRows {
 public:
  TileRows(int64_t first, int64_t rows, int64_t tiles) : tiles_(tiles) {
    for (int64_t t = 0; t <= tiles; ++t) row_[t] = first + rows * t / tiles;
    most_ = blocks_of(rows, tiles);
  }
  int64_t tiles() const { return tiles_; }
  int64_t row(int64_t t) const { return row_[t]; }
  int64_t rows() const { return row_[tiles_] - row_[0]; }
  // Where a run of tile t is packed; vectors may write beyond its end.
  int64_t at(const GrainRun& run, int64_t t) const {
    return tiles_ * (most_ * run.pairs_before + run.runs_before * kMostLanes) +
           t * (most_ * run.pairs + kMostLanes);
  }

 private:
  int64_t tiles_, most_, row_[kBlockTiles + 1];
};
// Where the scales of a tile's grains stand, kMostLanes for each grain.
inline int64_t a_scales_at(const GrainRun& run, int64_t t) {
  return (t * kGrainsFar + run.grains_before) * kMostLanes;
}

// A's items, whole rows of it: tile after tile, each [mr][pairs] with numbers along the reduced
// index side by side, else [pairs][mr].
void pack_int16_rows(const Int16Items& x, const GrainRun& run, int32_t largest,
                     const TileRows& tiles, Pair* to, float* scales) {
  const int64_t N = float_lanes(), first = tiles.row(0);
  if (x.along == 1) {
    for (int64_t t = 0; t < tiles.tiles(); ++t) {
      Pair* row = to + tiles.at(run, t);
      float* scale = scales + a_scales_at(run, t);
      for (int64_t i = tiles.row(t); i < tiles.row(t + 1); ++i, row += run.pairs, ++scale) {
        const float* from = x.data + i * x.item;
        for (int64_t g = 0, pair = 0; g < run.count; pair += run.pairs_of(g), ++g)
          scale[g * kMostLanes] =
              round_along(from + run.begin(g), run.length(g), largest, row + pair);
      }
    }
    return;
  }
  // All rows of the block side by side, then tile by tile. Vectors write beyond what they should,
  // into what is written later or is not read.
  constexpr int64_t kPairs = std::max(kInt16Features, kInt16Rows) / 2;
  HWY_ALIGN Pair wide[kPairs * (kBlockRows + kMostLanes)];
  HWY_ALIGN float found[kBlockRows + kMostLanes];
  const PairTag di;
  const int64_t width = round_up(tiles.rows(), N);
  for (int64_t g = 0, pair = 0; g < run.count; pair += run.pairs_of(g), ++g) {
    round_across(x.data + first * x.item + run.begin(g) * x.along, x.along, tiles.rows(),
                 run.length(g), largest, found, width, [&](int64_t i) { return wide + i; });
    for (int64_t t = 0; t < tiles.tiles(); ++t) {
      const int64_t i = tiles.row(t) - first, mr = tiles.row(t + 1) - tiles.row(t);
      std::copy_n(found + i, mr, scales + a_scales_at(run, t) + g * kMostLanes);
      Pair* tile = to + tiles.at(run, t) + pair * mr;
      for (int64_t p = 0; p < run.pairs_of(g); ++p)
        for (int64_t m = (mr - 1) / N * N; m >= 0; m -= N)
          hn::StoreU(hn::LoadU(di, wide + p * width + i + m), di, tile + p * mr + m);
    }
  }
}

// C [MR, n] (+)= A B over a run of grains. a: pairs, as tile() of tile-inl.h takes numbers; b: a
// panel of V vectors; scales per grain, those of A [kMostLanes] apart.
template <class Dot, int MR, Rows kRows, int V>
HWY_NOINLINE void int16_tile(const Pair* HWY_RESTRICT a, int64_t a_step,
                             const float* HWY_RESTRICT a_scales, const Pair* HWY_RESTRICT b,
                             const float* HWY_RESTRICT b_scales, int64_t columns,
                             const GrainRun& run, const char* const* ask, float* HWY_RESTRICT c,
                             int64_t c_row, int64_t n, bool add) {
  const FloatTag d;
  const PairTag di;
  const int64_t N = float_lanes();
  const bool whole = n == V * N;
  const Part last{n - (V - 1) * N};
  constexpr int kGroups = (MR + 2) / 3;
  for (int64_t g = 0; g < run.count; ++g) {
    const int64_t pairs = run.pairs_of(g);
    PairVec acc[MR][V];
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) acc[m][v] = hn::Zero(di);
    }
    const Pair* rows[kGroups];
    REFRAIN_UNROLL
    for (int i = 0; i < kGroups; ++i) rows[i] = a + 3 * i * a_step;
    const Pair* adjacent = a;
    for (int64_t p = 0; p < pairs; ++p, b += columns) {
      __builtin_prefetch(*ask++, 0, 2);  // into the second-level cache
      PairVec bv[V];
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) bv[v] = hn::LoadU(di, b + v * N);
      REFRAIN_UNROLL
      for (int m = 0; m < MR; ++m) {
        const PairVec am =
            hn::Set(di, kRows == Rows::kAdjacent ? adjacent[m] : rows[m / 3][(m % 3) * a_step]);
        REFRAIN_UNROLL
        for (int v = 0; v < V; ++v) acc[m][v] = Dot::add(acc[m][v], am, bv[v]);
      }
      if constexpr (kRows == Rows::kAdjacent) {
        adjacent += a_step;
      } else {
        REFRAIN_UNROLL
        for (int i = 0; i < kGroups; ++i) ++rows[i];
      }
    }
    a += kRows == Rows::kAdjacent ? pairs * a_step : pairs;
    FloatVec sb[V];
    REFRAIN_UNROLL
    for (int v = 0; v < V; ++v) sb[v] = hn::LoadU(d, b_scales + v * N);
    PairVec sums[MR][V];  // a copy, since what a lambda refers to would stand in memory
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) sums[m][v] = acc[m][v];
    }
    const auto put = [&](auto chain, auto at) HWY_ATTR {
      REFRAIN_UNROLL
      for (int m = 0; m < MR; ++m) {
        float* to = c + m * c_row;
        const FloatVec sa = hn::Set(d, a_scales[m]);
        REFRAIN_UNROLL
        for (int v = 0; v < V; ++v, to += N) {
          const FloatVec s = hn::Mul(sa, sb[v]);
          const auto one = [&](auto part) HWY_ATTR {
            FloatVec before = hn::Zero(d);
            if constexpr (chain) before = part.load(to);
            part.store(hn::MulAdd(hn::ConvertTo(d, sums[m][v]), s, before), to);
          };
          v + 1 < V ? one(Whole()) : one(at);
        }
      }
    };
    const bool chain = add || g > 0;
    if (chain && whole)
      put(std::true_type(), Whole());
    else if (chain)
      put(std::true_type(), last);
    else if (whole)
      put(std::false_type(), Whole());
    else
      put(std::false_type(), last);
    a_scales += kMostLanes;
    b_scales += columns;
  }
}

// int16_tile<mr> for mr and n known at run time.
template <class Dot, Rows kRows, int V, int MR = tile_rows<V>()>
HWY_INLINE void int16_tile_of(int64_t mr, const Pair* a, int64_t a_step, const float* a_scales,
                              const Pair* b, const float* b_scales, int64_t columns,
                              const GrainRun& run, const char* const* ask, float* c, int64_t c_row,
                              int64_t n, bool add) {
  if constexpr (V > 1)
    if (n <= (V - 1) * float_lanes())
      return int16_tile_of<Dot, kRows, V - 1, MR>(mr, a, a_step, a_scales, b, b_scales, columns,
                                                  run, ask, c, c_row, n, add);
  if (mr == MR)
    return int16_tile<Dot, MR, kRows, V>(a, a_step, a_scales, b, b_scales, columns, run, ask, c,
                                         c_row, n, add);
  if constexpr (MR > 1)
    int16_tile_of<Dot, kRows, V, MR - 1>(mr, a, a_step, a_scales, b, b_scales, columns, run, ask, c,
                                         c_row, n, add);
}

// A part of a product: all rows of A, `width` columns of B from j0 on, packed over some runs.
struct Int16Part {
  std::span<const GrainRun> runs;
  int64_t j0, width, grains, pairs;
  bool add;
};

// Tiles [t0, t1) of `tiles` against the panels [p0, p1) of B.
template <class Dot, int V>
void int16_task(const Int16Product& x, const Int16Part& part, int64_t tiles, int64_t t0, int64_t t1,
                int64_t p0, int64_t p1, int worker) {
  constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
  const int64_t NR = V * float_lanes(), blocks = blocks_of(t1 - t0, kBlockTiles);
  const bool along = x.a.along == 1;
  Pair* rows = x.a_pairs.row(worker);
  float* scales = x.a_scales.row(worker);
  const auto block_of = [&](int64_t b) {
    const int64_t first = t0 + (t1 - t0) * b / blocks, last = t0 + (t1 - t0) * (b + 1) / blocks;
    return TileRows{x.M * first / tiles, x.M * last / tiles - x.M * first / tiles, last - first};
  };
  const GrainRun &front = part.runs.front(), &back = part.runs.back();
  const int64_t k0 = front.begin(0), depth = back.begin(back.count) - k0;
  const auto runs = static_cast<int64_t>(part.runs.size());
  for (int64_t b = 0; b < blocks; ++b) {
    const TileRows block = block_of(b);
    for (const GrainRun& run : part.runs) pack_int16_rows(x.a, run, x.largest, block, rows, scales);
    Ahead next_block;
    if (b + 1 < blocks) {
      const TileRows next = block_of(b + 1);
      const int64_t calls = (p1 - p0) * runs * block.tiles();
      const float* from = x.a.data + next.row(0) * x.a.item + k0 * x.a.along;
      next_block = along
                       ? Ahead(from, next.rows(), depth * kFloat, x.a.item * kFloat, calls)
                       : Ahead(from, depth, next.rows() * kFloat, x.a.along * kFloat, calls);
    }
    for (int64_t p = p0; p < p1; ++p) {
      const int64_t n = std::min(NR, part.width - p * NR);
      for (const GrainRun& run : part.runs) {
        const Pair* panel = x.b_pairs + (p * part.pairs + run.pairs_before) * NR;
        const float* panel_scales = x.b_scales + (p * part.grains + run.grains_before) * NR;
        // What comes next of B lies behind this.
        const bool last = p + 1 == p1 && &run == &back;
        Ahead next_run;
        if (!last)
          next_run = Ahead(panel + run.pairs * NR, 1, run.pairs * NR * kFloat, 0, block.tiles());
        const bool first = &run == &front;
        for (int64_t t = 0; t < block.tiles(); ++t) {
          const int64_t i = block.row(t), mr = block.row(t + 1) - i;
          float* c = x.c + i * x.c_row + part.j0 + p * NR;
          const char* ask[kPairsDeep + kMostLanes];
          const char **next = ask, **const end = ask + run.pairs;
          if (first && t + 1 < block.tiles())
            next = Ahead(c + mr * x.c_row, block.row(t + 2) - block.row(t + 1), n * kFloat,
                         x.c_row * kFloat, 1)
                       .put(next, end);
          next = next_run.put(next, end);
          next = next_block.put(next, end);
          const Pair* a = rows + block.at(run, t);
          Ahead::put_lines(reinterpret_cast<const char*>(a), 0, end - next, next);
          const float* a_scales = scales + a_scales_at(run, t);
          const bool add = part.add || !first;
          if (along)
            int16_tile_of<Dot, Rows::kApart, V>(mr, a, run.pairs, a_scales, panel, panel_scales, NR,
                                                run, ask, c, x.c_row, n, add);
          else
            int16_tile_of<Dot, Rows::kAdjacent, V>(mr, a, mr, a_scales, panel, panel_scales, NR,
                                                   run, ask, c, x.c_row, n, add);
        }
      }
    }
  }
}

template <class Dot, int V>
void multiply_int16_by(const Int16Product& x) {
  const int64_t NR = V * float_lanes(), tiles = blocks_of(x.M, tile_rows<V>());
  const int64_t most = kInt16Width / NR * NR;
  const int64_t block_width = std::min(most, round_up(blocks_of(x.N, blocks_of(x.N, most)), NR));
  const int64_t row_tasks = std::min(tiles, 4 * int64_t{threads()});
  for (int64_t j0 = 0; j0 < x.N; j0 += block_width) {
    const int64_t width = std::min(block_width, x.N - j0), panels = blocks_of(width, NR);
    const int64_t col_tasks = std::clamp<int64_t>(4 * threads() / row_tasks, 1, panels);
    for (size_t first = 0, last = 0; first < x.runs.size(); first = last) {
      do ++last;
      while (last < x.runs.size() && x.runs[last].pairs_before > 0);
      const auto runs = x.runs.subspan(first, last - first);
      const Int16Part part{runs,
                           j0,
                           width,
                           runs.back().grains_before + runs.back().count,
                           runs.back().pairs_before + runs.back().pairs,
                           x.add || first > 0};
      // A few panels each, all in one task when their columns are read row by row.
      const int64_t groups = x.b.along == 1 ? panels : 1;
      const auto count = static_cast<int64_t>(runs.size());
      parallel_for(
          count * groups,
          [&](int64_t task) {
            const GrainRun& run = runs[static_cast<size_t>(task / groups)];
            const int64_t q = task % groups, p0 = panels * q / groups, j = p0 * NR;
            const int64_t end = std::min(width, panels * (q + 1) / groups * NR);
            pack_int16_panels(x.b, run, x.largest, j0 + j, end - j,
                              {x.b_pairs + (p0 * part.pairs + run.pairs_before) * NR,
                               x.b_scales + (p0 * part.grains + run.grains_before) * NR, NR,
                               part.pairs * NR, part.grains * NR});
          },
          kPackingCost * 2 * part.pairs * width);
      parallel_for(
          row_tasks * col_tasks,
          [&](int64_t task, int worker) {
            const int64_t r = task / col_tasks, q = task % col_tasks;
            int16_task<Dot, V>(x, part, tiles, tiles * r / row_tasks, tiles * (r + 1) / row_tasks,
                               panels * q / col_tasks, panels * (q + 1) / col_tasks, worker);
          },
          2 * x.M * width * part.pairs);
    }
  }
}

void multiply_int16(const Int16Product& x) {
#if HWY_TARGET <= HWY_AVX3
  if (int16_is_fast()) return multiply_int16_by<Vnni, 3>(x);
  multiply_int16_by<MultiplyAdd, 3>(x);
#else
  multiply_int16_by<MultiplyAdd, 2>(x);
#endif
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply_int16);

bool int16_is_fast() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512vnni") != 0;
  return has && isa_limit() >= Isa::kAvx512Vnni;
#else
  return false;
#endif
}

void gemm_int16(Strided a, Strided b, float* c, int64_t c_row, int64_t M, int64_t N, int64_t K,
                bool add, std::span<const int32_t> pieces, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t most = pieces.empty() ? kInt16Features : kInt16Rows;
  const int32_t one_piece[2] = {0, static_cast<int32_t>(K)};
  if (pieces.empty()) pieces = one_piece;
  int64_t grains = 0;
  for (size_t p = 0; p + 1 < pieces.size(); ++p)
    grains += blocks_of(pieces[p + 1] - pieces[p], most);
  const auto edges = scratch.take<int32_t>({grains + 1});
  const auto runs = scratch.take<GrainRun>({grains});
  const int64_t columns = round_up(std::min(N, kInt16Width), 3 * kMostLanes);
  const int64_t far = std::min(blocks_of(K + grains, 2), kPairsFar);
  const int64_t far_grains = std::min(grains, kGrainsFar);
  const auto b_pairs = scratch.take<Pair>({far, columns});
  const Tensor b_scales = scratch.take({far_grains, columns});
  const int64_t spare = far_grains * kBlockTiles * kMostLanes;  // a run has a grain at least
  const auto a_pairs = scratch.take<Pair>({threads(), kBlockRows * far + spare});
  const Tensor a_scales = scratch.take({threads(), kBlockTiles * kGrainsFar * kMostLanes});
  if (scratch.counts_only() || M == 0 || N == 0 || K == 0) return;
  REFRAIN_CHECK(pieces.front() == 0 && pieces.back() == K);
  int32_t* edge = edges.data;
  for (size_t p = 0; p + 1 < pieces.size(); ++p)
    for (int32_t k = pieces[p]; k < pieces[p + 1]; k += static_cast<int32_t>(most)) *edge++ = k;
  *edge = pieces.back();
  int64_t found = 0;
  for (int64_t g = 0; g < grains;) {
    GrainRun run{edges.data + g, 0, 0, 0, 0, 0};
    for (; g < grains && run.count < kGrainsDeep; ++g, ++run.count) {
      const int64_t pairs = run.pairs_of(run.count);
      if (run.pairs + pairs > kPairsDeep) break;
      run.pairs += pairs;
    }
    if (found > 0) {
      const GrainRun& before = runs.data[found - 1];
      const int64_t pairs = before.pairs_before + before.pairs;
      const int64_t counted = before.grains_before + before.count;
      if (pairs + run.pairs <= kPairsFar && counted + run.count <= kGrainsFar) {
        run.runs_before = before.runs_before + 1;
        run.grains_before = counted;
        run.pairs_before = pairs;
      }
    }
    runs.data[found++] = run;
  }
  constexpr int32_t kOfFeatures = int16_largest(kInt16Features),
                    kOfRows = int16_largest(kInt16Rows);
  HWY_DYNAMIC_DISPATCH(multiply_int16)
  ({{a.data, a.row, a.col},
    {b.data, b.col, b.row},
    c,
    c_row,
    M,
    N,
    add,
    {runs.data, static_cast<size_t>(found)},
    most == kInt16Features ? kOfFeatures : kOfRows,
    b_pairs.data,
    b_scales.data,
    a_pairs,
    a_scales});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
