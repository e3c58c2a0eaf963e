#include "refrain/kernels/matmul/gemm_int16.h"

#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/kernels/isa.h"
#include "refrain/kernels/matmul/grains.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/gemm_int16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/int16-inl.h"

#ifndef REFRAIN_KERNELS_GEMM_INT16_ONCE
#define REFRAIN_KERNELS_GEMM_INT16_ONCE
namespace refrain::kernels {
// Blocking: a run of kPairsDeep pairs of a panel of B stays in the first-level cache while a block
// of A, kBlockTiles tiles of the same pairs, passes by, and with it a panel of C. In the second are
// all runs of the block, a part of the reduced index: kPairsFar pairs, for which kMostPacked
// columns of B are packed at a time.
constexpr int64_t kPairsDeep = 128, kGrainsDeep = 16, kBlockTiles = 16;
constexpr int64_t kPairsFar = 512, kGrainsFar = 64;
constexpr int64_t kMostTileRows = 9;  // of any target
constexpr int64_t kBlockRows = kBlockTiles * kMostTileRows;

// Grains of a tile's call, and those before them in the same part.
struct GrainRun : Grains {
  int64_t runs_before, grains_before, pairs_before;
};

struct Int16Product {
  MatrixView<const float> a, b;  // b transposed: rows of either lie along the reduced index
  MatrixView<float> c;
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

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

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
void pack_int16_rows(MatrixView<const float> x, const GrainRun& run, int32_t largest,
                     const TileRows& tiles, Pair* to, float* scales) {
  const int64_t N = float_lanes(), first = tiles.row(0);
  if (x.col_stride == 1) {
    for (int64_t t = 0; t < tiles.tiles(); ++t) {
      Pair* row = to + tiles.at(run, t);
      float* scale = scales + a_scales_at(run, t);
      for (int64_t i = tiles.row(t); i < tiles.row(t + 1); ++i, row += run.pairs, ++scale) {
        const float* from = x.row(i);
        if (i + kRowsAhead < tiles.row(tiles.tiles()))
          ask_for(from + kRowsAhead * x.row_stride + run.begin(0),
                  run.begin(run.count) - run.begin(0));
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
    round_across(x.row(first) + run.begin(g) * x.col_stride, x.col_stride, tiles.rows(),
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
  const bool along = x.a.col_stride == 1;
  const int64_t M = x.c.rows, c_row = x.c.row_stride;
  Pair* rows = x.a_pairs.row(worker);
  float* scales = x.a_scales.row(worker);
  const auto block_of = [&](int64_t b) {
    const int64_t first = t0 + (t1 - t0) * b / blocks, last = t0 + (t1 - t0) * (b + 1) / blocks;
    return TileRows{M * first / tiles, M * last / tiles - M * first / tiles, last - first};
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
      const float* from = x.a.row(next.row(0)) + k0 * x.a.col_stride;
      next_block = along ? Ahead(from, next.rows(), depth * kFloat, x.a.row_stride * kFloat, calls)
                         : Ahead(from, depth, next.rows() * kFloat, x.a.col_stride * kFloat, calls);
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
          float* c = x.c.row(i) + part.j0 + p * NR;
          const char* ask[kPairsDeep + kMostLanes];
          const char **next = ask, **const end = ask + run.pairs;
          if (first && t + 1 < block.tiles())
            next = Ahead(c + mr * c_row, block.row(t + 2) - block.row(t + 1), n * kFloat,
                         c_row * kFloat, 1)
                       .put(next, end);
          next = next_run.put(next, end);
          next = next_block.put(next, end);
          const Pair* a = rows + block.at(run, t);
          Ahead::put_lines(reinterpret_cast<const char*>(a), 0, end - next, next);
          const float* a_scales = scales + a_scales_at(run, t);
          const bool add = part.add || !first;
          if (along)
            int16_tile_of<Dot, Rows::kApart, V, true>(mr, a, run.pairs, a_scales, panel,
                                                      panel_scales, NR, run, ask, c, c_row, n, add);
          else
            int16_tile_of<Dot, Rows::kAdjacent, V, true>(mr, a, mr, a_scales, panel, panel_scales,
                                                         NR, run, ask, c, c_row, n, add);
        }
      }
    }
  }
}

template <class Dot, int V>
void multiply_int16_by(const Int16Product& x) {
  const int64_t M = x.c.rows, N = x.c.cols, NR = V * float_lanes();
  const int64_t tiles = blocks_of(M, tile_rows<V>());
  const int64_t most = kMostPacked / NR * NR;
  const int64_t block_width = std::min(most, round_up(blocks_of(N, blocks_of(N, most)), NR));
  const int64_t row_tasks = std::min(tiles, 4 * int64_t{threads()});
  for (int64_t j0 = 0; j0 < N; j0 += block_width) {
    const int64_t width = std::min(block_width, N - j0), panels = blocks_of(width, NR);
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
      // Of a run, a task packs one panel, or many when B's rows are read: the longer, the better.
      const auto count = static_cast<int64_t>(runs.size());
      const int64_t enough = std::min(panels, blocks_of(4 * threads(), count));
      const int64_t groups = x.b.col_stride == 1 ? panels : enough;
      parallel_for(
          count * groups,
          [&](int64_t task) {
            const GrainRun& run = runs[static_cast<size_t>(task / groups)];
            const int64_t q = task % groups, p0 = panels * q / groups, j = p0 * NR;
            const int64_t end = std::min(width, panels * (q + 1) / groups * NR);
            pack_int16_panels(x.b.row_range(j0 + j, end - j), run, x.largest,
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
          2 * M * width * part.pairs);
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

void gemm_int16(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> c,
                const MatmulOptions& options, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t M = a.rows, N = b.cols, K = a.cols;
  const int64_t most = options.pieces.empty() ? kInt16Features : kInt16Rows;
  const auto edges = take_grains(K, options.pieces, most, scratch);
  const int64_t grains = edges.size() - 1;
  const auto runs = scratch.take<GrainRun>({grains});
  const int64_t columns = round_up(std::min(N, kMostPacked), 3 * kMostLanes);
  const int64_t far = std::min(blocks_of(K + grains, 2), kPairsFar);
  const int64_t far_grains = std::min(grains, kGrainsFar);
  const auto b_pairs = scratch.take<Pair>({far, columns});
  const Tensor b_scales = scratch.take({far_grains, columns});
  const int64_t spare = far_grains * kBlockTiles * kMostLanes;  // a run has a grain at least
  const auto a_pairs = scratch.take<Pair>({threads(), kBlockRows * far + spare});
  const Tensor a_scales = scratch.take({threads(), kBlockTiles * kGrainsFar * kMostLanes});
  if (scratch.planning() || M == 0 || N == 0 || K == 0) return;
  int64_t found = 0;
  for (int64_t g = 0; g < grains;) {
    GrainRun run{{edges.data + g, 0, 0}, 0, 0, 0};
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
  ({a,
    b.transposed(),
    c,
    options.add,
    {runs.data, static_cast<size_t>(found)},
    most == kInt16Features ? kOfFeatures : kOfRows,
    b_pairs.data,
    b_scales.data,
    a_pairs,
    a_scales});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
