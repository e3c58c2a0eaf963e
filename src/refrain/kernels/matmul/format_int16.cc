#include "refrain/kernels/matmul/format_int16.h"

#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/kernels/isa.h"
#include "refrain/kernels/matmul/reduction_groups.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/format_int16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/int16-inl.h"

#ifndef REFRAIN_KERNELS_FORMAT_INT16_ONCE
#define REFRAIN_KERNELS_FORMAT_INT16_ONCE
namespace refrain::kernels {
// Blocking: a run of kRunPairs pairs of a panel of B stays in the first-level cache while a block
// of A, kBlockTiles tiles of the same pairs, passes by, and with it a panel of C. In the second are
// all runs of the block, a part of the reduced index: kPartPairs pairs, for which kMostPacked
// columns of B are packed at a time.
constexpr int64_t kRunPairs = 128, kRunGroups = 16, kBlockTiles = 16;
constexpr int64_t kPartPairs = 512, kPartGroups = 64;
constexpr int64_t kMostTileRows = 9;  // of any target
constexpr int64_t kBlockRows = kBlockTiles * kMostTileRows;

// Groups of a tile's call, and those before them in the same part.
struct GroupRun : ReductionGroups {
  int64_t runs_before, groups_before, pairs_before;
};

struct Int16Product : Product {
  std::span<const GroupRun> runs;
  std::span<const int32_t> parts;  // part p of the reduced index is runs [parts[p], parts[p + 1])
  int32_t largest;
  // Of the part of B that is packed: panels of [pairs][columns], and of [groups][columns].
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
class Prefetcher {
 public:
  Prefetcher() = default;
  Prefetcher(const void* from, int64_t rows, int64_t row_bytes, int64_t apart, int64_t parts)
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
  int64_t at(const GroupRun& run, int64_t t) const {
    return tiles_ * (most_ * run.pairs_before + run.runs_before * kMostLanes) +
           t * (most_ * run.pairs + kMostLanes);
  }

 private:
  int64_t tiles_, most_, row_[kBlockTiles + 1];
};

// Where the scales of a tile's groups stand, kMostLanes for each group.
inline int64_t a_scales_at(const GroupRun& run, int64_t t) {
  return (t * kPartGroups + run.groups_before) * kMostLanes;
}

// A's items, whole rows of it: tile after tile, each [mr][pairs] with numbers along the reduced
// index side by side, else [pairs][mr].
void pack_int16_rows(MatrixView<const float> x, const GroupRun& run, int32_t largest,
                     const TileRows& tiles, Pair* to, float* scales) {
  const int64_t N = float_lanes(), first = tiles.row(0);
  if (x.col_stride == 1) {
    for (int64_t t = 0; t < tiles.tiles(); ++t) {
      Pair* row = to + tiles.at(run, t);
      float* scale = scales + a_scales_at(run, t);
      for (int64_t i = tiles.row(t); i < tiles.row(t + 1); ++i, row += run.pairs, ++scale) {
        const float* from = x.row(i);
        if (i + kPrefetchedRows < tiles.row(tiles.tiles()))
          prefetch(from + kPrefetchedRows * x.row_stride + run.begin(0),
                   run.begin(run.count) - run.begin(0));
        for (int64_t g = 0, pair = 0; g < run.count; pair += run.pairs_of(g), ++g)
          scale[g * kMostLanes] =
              round_k_contiguous(from + run.begin(g), run.length(g), largest, row + pair);
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
    round_k_strided(x.row_range(first, tiles.rows()).col_range(run.begin(g), run.length(g)),
                    largest, found, width, [&](int64_t i) { return wide + i; });
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

template <class Dot, int V>
class Int16Blocks final : public BlockedProduct {
 public:
  explicit Int16Blocks(const Int16Product& x)
      : x_(x), columns_(x.b.transposed()), tiles_(blocks_of(x.c.rows, tile_rows<V>())) {}

  Blocking blocking() const {
    const int64_t N = x_.c.cols, most = kMostPacked / NR_ * NR_;
    const int64_t width = std::min(most, round_up(blocks_of(N, blocks_of(N, most)), NR_));
    return {tiles_, blocks_of(N, NR_), tiles_, width / NR_,
            static_cast<int64_t>(x_.parts.size()) - 1};
  }

  TaskCount packing_b(const Block& block) const override {
    const Part part(*this, block);
    return {part.count() * slices(block, part), kPackingCost * 2 * part.pairs * part.width};
  }
  void pack_b(const Block& block, int64_t task) const override {
    const Part part(*this, block);
    const int64_t slices = this->slices(block, part), q = task % slices;
    const GroupRun& run = part.runs[static_cast<size_t>(task / slices)];
    const int64_t p0 = block.panels * q / slices, j = p0 * NR_;
    const int64_t end = std::min(part.width, block.panels * (q + 1) / slices * NR_);
    pack_int16_panels(columns_.row_range(part.j0 + j, end - j), run, x_.largest,
                      {x_.b_pairs + (p0 * part.pairs + run.pairs_before) * NR_,
                       x_.b_scales + (p0 * part.groups + run.groups_before) * NR_, NR_,
                       part.pairs * NR_, part.groups * NR_});
  }

  int64_t operations(const Block& block) const override {
    const Part part(*this, block);
    return 2 * x_.c.rows * part.width * part.pairs;
  }
  void multiply(const Block& of, const TaskRange& task, int worker) const override {
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    const Part part(*this, of);
    const Int16Product& x = x_;
    const int64_t NR = NR_, M = x.c.rows, c_row = x.c.row_stride;
    const int64_t t0 = task.first_tile, t1 = task.last_tile;
    const int64_t p0 = task.first_panel, p1 = task.last_panel;
    const int64_t blocks = blocks_of(t1 - t0, kBlockTiles);
    const bool k_contiguous = x.a.col_stride == 1;
    Pair* rows = x.a_pairs.row(worker);
    float* scales = x.a_scales.row(worker);
    const auto block_of = [&](int64_t b) {
      const int64_t first = t0 + (t1 - t0) * b / blocks, last = t0 + (t1 - t0) * (b + 1) / blocks;
      return TileRows{M * first / tiles_, M * last / tiles_ - M * first / tiles_, last - first};
    };
    const GroupRun &front = part.runs.front(), &back = part.runs.back();
    const int64_t k0 = front.begin(0), depth = back.begin(back.count) - k0;
    for (int64_t b = 0; b < blocks; ++b) {
      const TileRows block = block_of(b);
      for (const GroupRun& run : part.runs)
        pack_int16_rows(x.a, run, x.largest, block, rows, scales);
      Prefetcher next_block;
      if (b + 1 < blocks) {
        const TileRows next = block_of(b + 1);
        const int64_t calls = (p1 - p0) * part.count() * block.tiles();
        const float* from = x.a.row(next.row(0)) + k0 * x.a.col_stride;
        next_block =
            k_contiguous
                ? Prefetcher(from, next.rows(), depth * kFloat, x.a.row_stride * kFloat, calls)
                : Prefetcher(from, depth, next.rows() * kFloat, x.a.col_stride * kFloat, calls);
      }
      for (int64_t p = p0; p < p1; ++p) {
        const int64_t n = std::min(NR, part.width - p * NR);
        for (const GroupRun& run : part.runs) {
          const Int16Operand panel{x.b_pairs + (p * part.pairs + run.pairs_before) * NR, NR,
                                   x.b_scales + (p * part.groups + run.groups_before) * NR};
          // What comes next of B lies behind this.
          const bool last = p + 1 == p1 && &run == &back;
          Prefetcher next_run;
          if (!last)
            next_run = Prefetcher(panel.pairs + run.pairs * NR, 1, run.pairs * NR * kFloat, 0,
                                  block.tiles());
          const bool first = &run == &front;
          for (int64_t t = 0; t < block.tiles(); ++t) {
            const int64_t i = block.row(t), mr = block.row(t + 1) - i;
            const MatrixView<float> c(x.c.row(i) + part.j0 + p * NR, mr, n, c_row);
            const char* lines[kRunPairs + kMostLanes];
            const char **next = lines, **const end = lines + run.pairs;
            if (first && t + 1 < block.tiles())
              next = Prefetcher(c.row(mr), block.row(t + 2) - block.row(t + 1), n * kFloat,
                                c_row * kFloat, 1)
                         .put(next, end);
            next = next_run.put(next, end);
            next = next_block.put(next, end);
            const Pair* a = rows + block.at(run, t);
            Prefetcher::put_lines(reinterpret_cast<const char*>(a), 0, end - next, next);
            const Int16Operand tile{a, k_contiguous ? run.pairs : mr, scales + a_scales_at(run, t)};
            const bool add = part.add || !first;
            if (k_contiguous)
              int16_tile_of<Dot, Rows::kApart, V, true>(tile, panel, run, lines, c, add);
            else
              int16_tile_of<Dot, Rows::kAdjacent, V, true>(tile, panel, run, lines, c, add);
          }
        }
      }
    }
  }

 private:
  // What a block packs: `width` columns of B from j0 on, over some runs.
  struct Part {
    Part(const Int16Blocks& product, const Block& block)
        : j0(block.panel * product.NR_),
          width(std::min(block.panels * product.NR_, product.x_.c.cols - j0)),
          add(product.x_.add || block.part > 0) {
      const Int16Product& x = product.x_;
      const auto p = static_cast<size_t>(block.part);
      runs = x.runs.subspan(static_cast<size_t>(x.parts[p]),
                            static_cast<size_t>(x.parts[p + 1] - x.parts[p]));
      groups = runs.back().groups_before + runs.back().count;
      pairs = runs.back().pairs_before + runs.back().pairs;
    }
    int64_t count() const { return static_cast<int64_t>(runs.size()); }

    int64_t j0, width;
    bool add;
    std::span<const GroupRun> runs;
    int64_t groups, pairs;
  };
  // Of a run, a task packs one panel, or many when B's rows are read: the longer, the better.
  int64_t slices(const Block& block, const Part& part) const {
    if (columns_.col_stride == 1) return block.panels;
    return std::min(block.panels, blocks_of(4 * threads(), part.count()));
  }

  const Int16Product& x_;
  const MatrixView<const float> columns_;  // of B
  const int64_t NR_ = V * float_lanes();   // columns of a panel
  const int64_t tiles_;
};

template <class Dot, int V>
void multiply_int16_by(const Int16Product& x) {
  const Int16Blocks<Dot, V> blocks(x);
  run_blocks(blocks.blocking(), blocks);
}

void multiply(const Int16Product& x) {
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
HWY_EXPORT(multiply);

bool int16_is_fast() {
#if defined(__x86_64__)
  static const bool has = __builtin_cpu_supports("avx512vnni") != 0;
  return has && isa_limit() >= Isa::kAvx512Vnni;
#else
  return false;
#endif
}

void multiply_int16(const Product& product, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t N = product.c.cols, K = product.a.cols;
  const int64_t most = product.cu_seqlens.empty() ? kInt16Features : kInt16Rows;
  const auto edges = make_reduction_groups(K, product.cu_seqlens, most, scratch);
  const int64_t groups = edges.size() - 1;
  const auto runs = scratch.take<GroupRun>({groups});
  const auto parts = scratch.take<int32_t>({groups + 1});
  const int64_t columns = round_up(std::min(N, kMostPacked), 3 * kMostLanes);
  const int64_t far = std::min(blocks_of(K + groups, 2), kPartPairs);
  const int64_t part_groups = std::min(groups, kPartGroups);
  const auto b_pairs = scratch.take<Pair>({far, columns});
  const Tensor b_scales = scratch.take({part_groups, columns});
  const int64_t spare = part_groups * kBlockTiles * kMostLanes;  // a run has a group at least
  const auto a_pairs = scratch.take<Pair>({threads(), kBlockRows * far + spare});
  const Tensor a_scales = scratch.take({threads(), kBlockTiles * kPartGroups * kMostLanes});
  if (scratch.planning() || product.is_empty()) return;
  int64_t found = 0, part_count = 0;
  for (int64_t g = 0; g < groups;) {
    GroupRun run{{edges.data + g, 0, 0}, 0, 0, 0};
    for (; g < groups && run.count < kRunGroups; ++g, ++run.count) {
      const int64_t pairs = run.pairs_of(run.count);
      if (run.pairs + pairs > kRunPairs) break;
      run.pairs += pairs;
    }
    if (found > 0) {
      const GroupRun& before = runs.data[found - 1];
      const int64_t pairs = before.pairs_before + before.pairs;
      const int64_t counted = before.groups_before + before.count;
      if (pairs + run.pairs <= kPartPairs && counted + run.count <= kPartGroups) {
        run.runs_before = before.runs_before + 1;
        run.groups_before = counted;
        run.pairs_before = pairs;
      }
    }
    if (run.pairs_before == 0) parts.data[part_count++] = static_cast<int32_t>(found);
    runs.data[found++] = run;
  }
  parts.data[part_count] = static_cast<int32_t>(found);
  constexpr int32_t kOfFeatures = int16_largest(kInt16Features),
                    kOfRows = int16_largest(kInt16Rows);
  HWY_DYNAMIC_DISPATCH(multiply)
  ({product,
    {runs.data, static_cast<size_t>(found)},
    {parts.data, static_cast<size_t>(part_count) + 1},
    most == kInt16Features ? kOfFeatures : kOfRows,
    b_pairs.data,
    b_scales.data,
    a_pairs,
    a_scales});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
