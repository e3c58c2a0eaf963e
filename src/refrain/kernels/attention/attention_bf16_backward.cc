#include "refrain/kernels/attention/attention_bf16.h"
#include "refrain/kernels/attention/attention_tasks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention/attention_bf16_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention/attention_bf16-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_BF16_BACKWARD_ONCE
#define REFRAIN_KERNELS_ATTENTION_BF16_BACKWARD_ONCE
namespace refrain::kernels {
namespace {
constexpr int64_t kQueryTiles = kQueryBlock / kTile;
// Tiles of keys whose dSᵀ is collected before it goes into dQᵀ. No sum depends on it.
constexpr int64_t kBlockTiles = 4;
static_assert(kQueryBlock % kTile == 0 && kSegmentStep % kTile == 0);

// What a task keeps of its keys, of a block of queries, and of a tile of keys with that block.
struct Bf16BackwardMemory {
  Bf16BackwardMemory(int64_t head_dim, int64_t segment_keys, float* at)
      : k_blocks(groups_of(head_dim)),
        tiles(segment_keys / kTile),
        wide(k_blocks * kReductionGroup) {
    TaskMemory memory{at};
    keys = memory.take(tiles * k_blocks * kGroupPairs);
    values = memory.take(tiles * k_blocks * kGroupPairs);
    keys_transposed = memory.take(tiles * k_blocks * kGroupPairs);
    dk = memory.take(tiles * kTile * wide);
    dv = memory.take(tiles * kTile * wide);
    for (float** of_queries : {&q, &d_o, &q_transposed, &d_o_transposed})
      *of_queries = memory.take(kQueryTiles * k_blocks * kGroupPairs);
    dq = memory.take(wide * kQueryBlock);
    for (float** of_query : {&unit, &maximum, &log_sum, &delta})
      *of_query = memory.take(kQueryBlock);
    for (float** tile : {&scores, &slopes, &factors}) *tile = memory.take(kTileFloats);
    p = memory.take(kQueryTiles * kGroupPairs);
    ds = memory.take(kQueryTiles * kGroupPairs);
    ds_right = memory.take(kQueryTiles * kBlockTiles * kGroupPairs);
    in_range = memory.take(kTile * head_dim);
    zeros = memory.take(wide);
    floats = memory.floats;
  }
  int64_t k_blocks, tiles, wide;         // groups of head_dim; tiles of keys; a row of a gradient
  float *keys, *values;                  // left operands of Sᵀ and dPᵀ: [tile][k_blocks]
  float* keys_transposed;                // left operands of dQᵀ: [k_blocks][tile]
  float *dk, *dv;                        // [keys, wide]
  float *q_transposed, *d_o_transposed;  // right operands of Sᵀ and dPᵀ: [query tile][k_blocks]
  float *q, *d_o;                        // right operands of dK and dV: [k_blocks][query tile]
  float* dq;                             // dQᵀ: [wide, kQueryBlock]
  float *unit, *maximum;                 // of each query, or rather its scores
  float *log_sum, *delta;                // likewise; delta = scale rowsum(dO o)
  float *scores, *slopes;                // Sᵀ and dPᵀ of a tile
  float* factors;                        // of dropout
  float *p, *ds;                         // left operands of dV and dK: [query tile]
  float* ds_right;  // right operands of dQᵀ: [query tile][tile of the key block]
  float* in_range;  // a tile's queries as scores need them, [32, head_dim]
  float* zeros;
  int64_t floats;
};

struct Bf16Backward {
  const Microkernel& kernel;
  const BackwardTask& task;
  Bf16BackwardMemory memory;
  DropoutRate rate;
  int64_t origin;  // the key that the first tile of keys starts at

  // A tile's queries, by position.
  Range queries(Range positions, int64_t c) const {
    const int64_t t0 = positions.low / kQueryBlock * kQueryBlock + c * kTile;
    return intersection(positions, {t0, t0 + kTile});
  }
  // Tiles of keys that some of these queries see.
  Range seen_tiles(Range at) const {
    if (at.low >= at.high) return {0, 0};
    const KeyRange& list = task.list();
    const Range seen{list.seen(at.low).low, list.seen(at.high - 1).high};
    return groups_of(intersection(task.keys(), seen), origin);
  }
};
}  // namespace
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {
namespace {

// A tile's Sᵀ and dPᵀ become Pᵀ and dSᵀ, packed: as half of a left operand for 32 keys, and dSᵀ as
// a right operand as well. The queries are those from `first` on of the block.
template <bool kDropout>
HWY_INLINE void pack_slopes(const Bf16BackwardMemory& m, float scale, int64_t first, float* p,
                            float* ds, float* ds_right) {
  const FloatTag d;
  const FloatVec by = hn::Set(d, scale);
  for (int64_t c = 0; c < kHalf; c += float_lanes()) {
    FloatVec factor[2], highest[2], log_sum[2], less[2];
    REFRAIN_UNROLL
    for (int q = 0; q < 2; ++q) {
      const int64_t at = first + q * kHalf + c;
      factor[q] = hn::LoadU(d, m.unit + at);
      highest[q] = hn::LoadU(d, m.maximum + at);
      log_sum[q] = hn::LoadU(d, m.log_sum + at);
      less[q] = hn::LoadU(d, m.delta + at);
    }
    for (int64_t j = 0; j < kHalf; ++j) {
      BitsVec probability[2][2], slope[2][2];  // of keys j, j + 16 and queries c, c + 16
      REFRAIN_UNROLL
      for (int k = 0; k < 2; ++k) {
        REFRAIN_UNROLL
        for (int q = 0; q < 2; ++q) {
          const int64_t at = (j + k * kHalf) * kTile + q * kHalf + c;
          const FloatVec below = hn::Sub(hn::LoadU(d, m.scores + at), highest[q]);
          FloatVec x = vector_exp2(hn::MulSub(below, factor[q], log_sum[q]));
          FloatVec dx = hn::LoadU(d, m.slopes + at);
          if constexpr (kDropout) dx = hn::Mul(dx, hn::LoadU(d, m.factors + at));
          slope[k][q] = rounded_bits(hn::Mul(x, hn::MulSub(dx, by, less[q])));
          if constexpr (kDropout) x = hn::Mul(x, hn::LoadU(d, m.factors + at));
          probability[k][q] = rounded_bits(x);
        }
      }
      REFRAIN_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t to = half * kHalfPairs + j * kHalf + c;
        hn::StoreU(pair_of(probability[half][0], probability[half][1]), d, p + to);
        hn::StoreU(pair_of(slope[half][0], slope[half][1]), d, ds + to);
        hn::StoreU(pair_of(slope[0][half], slope[1][half]), d, ds_right + to);
      }
    }
  }
}

// Tile g of the keys and tile c of a block of queries: P and dS.
void backward_tile(const Bf16Backward& run, Range positions, int64_t h, int64_t c, int64_t g,
                   float* ds_right) {
  const AttentionShape& shape = run.task.shape;
  const AttentionSequence& s = run.task.sequence;
  const KeyRange& list = run.task.list();
  const Bf16BackwardMemory& m = run.memory;
  const int64_t k_blocks = m.k_blocks, first = run.origin + g * kTile;
  const int64_t t0 = positions.low / kQueryBlock * kQueryBlock + c * kTile;
  const Range at = run.queries(positions, c);
  run.kernel.block(m.keys + g * k_blocks * kGroupPairs, m.q_transposed + c * k_blocks * kGroupPairs,
                   k_blocks, m.scores, kTile, false);
  run.kernel.block(m.values + g * k_blocks * kGroupPairs,
                   m.d_o_transposed + c * k_blocks * kGroupPairs, k_blocks, m.slopes, kTile, false);
  if (at.high - at.low < kTile || list.seen(at.low).high < first + kTile ||
      list.seen(at.high - 1).low > first)
    hide_unseen(m.scores,
                [&](int64_t j) { return shifted(intersection(list.seen_by(first + j), at), -t0); });
  float *p = m.p + c * kGroupPairs, *ds = m.ds + c * kGroupPairs;
  if (shape.dropout.rate == 0)
    return pack_slopes<false>(m, shape.scale, c * kTile, p, ds, ds_right);
  // Columns of queries that do not exist are drawn too; they are hidden.
  dropout_tile(
      run.rate, first, kTile,
      [&](int64_t i) {
        const int64_t t = std::clamp(t0 + i, at.low, at.high - 1);
        return dropout_row(shape, s, t - s.start, h, list.kind());
      },
      m.factors);
  pack_slopes<true>(m, shape.scale, c * kTile, p, ds, ds_right);
}

// The products of a block of queries, those at `positions` of head h, and the task's keys.
void backward_block(const Bf16Backward& run, Range positions, int64_t h) {
  const Microkernel& kernel = run.kernel;
  const Bf16BackwardMemory& m = run.memory;
  const Range keys = run.task.keys();
  Range seen[kQueryTiles], all{m.tiles, 0};
  for (int64_t c = 0; c < kQueryTiles; ++c) {
    Range& tiles = seen[c] = run.seen_tiles(run.queries(positions, c));
    if (tiles.low < tiles.high)
      all = {std::min(all.low, tiles.low), std::max(all.high, tiles.high)};
  }
  for (int64_t g0 = all.low; g0 < all.high; g0 += kBlockTiles) {
    const Range block{g0, std::min(g0 + kBlockTiles, all.high)};
    for (int64_t g = block.low; g < block.high; ++g) {
      Range tiles{kQueryTiles, 0};  // of queries that see the tile of keys
      for (int64_t c = 0; c < kQueryTiles; ++c) {
        if (g < seen[c].low || g >= seen[c].high) continue;
        backward_tile(run, positions, h, c, g,
                      m.ds_right + (c * kBlockTiles + g - g0) * kGroupPairs);
        tiles = {std::min(tiles.low, c), c + 1};
      }
      const int64_t last = std::min(run.origin + (g + 1) * kTile, keys.high) - 1;
      if (tiles.low >= tiles.high || !run.task.wants(last)) continue;
      for (int64_t n = 0; n < m.k_blocks; ++n) {
        const int64_t out = g * kTile * m.wide + n * kTile, left = tiles.low * kGroupPairs;
        const int64_t right = (n * kQueryTiles + tiles.low) * kGroupPairs;
        const int64_t groups = tiles.high - tiles.low;
        kernel.block(m.p + left, m.d_o + right, groups, m.dv + out, m.wide, true);
        kernel.block(m.ds + left, m.q + right, groups, m.dk + out, m.wide, true);
      }
    }
    for (int64_t c = 0; c < kQueryTiles; ++c) {
      const Range tiles = intersection(seen[c], block);
      for (int64_t n = 0; n < m.k_blocks && tiles.low < tiles.high; ++n)
        kernel.block(m.keys_transposed + (n * m.tiles + tiles.low) * kGroupPairs,
                     m.ds_right + (c * kBlockTiles + tiles.low - g0) * kGroupPairs,
                     tiles.high - tiles.low, m.dq + n * kTile * kQueryBlock + c * kTile,
                     kQueryBlock, true);
    }
  }
}

// rowsum(dO o), of dO as it enters dP: so what rounds it makes no difference common to all keys.
HWY_INLINE float rounded_dot(const float* d_o, const float* o, int64_t n) {
  const FloatTag d;
  FloatVec acc = hn::Zero(d);
  each(n, [&](auto at, int64_t j) HWY_ATTR {
    acc = hn::MulAdd(rounded_to_bf16(at.load(d_o + j)), at.load(o + j), acc);
  });
  return hn::GetLane(hn::SumOfLanes(d, acc));
}

// A block of queries of head h in the layouts that products need, with the gradient they have so
// far.
void load_queries(const Bf16Backward& run, Range positions, int64_t h, bool first) {
  const BackwardTask& task = run.task;
  const AttentionShape& shape = task.shape;
  const AttentionSequence& s = task.sequence;
  const Bf16BackwardMemory& m = run.memory;
  const int64_t d = shape.head_dim, t0 = positions.low / kQueryBlock * kQueryBlock;
  std::fill_n(m.unit, kQueryBlock, 1.0f);
  for (float* of_query : {m.maximum, m.log_sum, m.delta}) std::fill_n(of_query, kQueryBlock, 0.0f);
  for (int64_t c = 0; c < kQueryTiles; ++c) {
    TileRows q, in_range, d_o;
    q.fill(m.zeros);
    in_range.fill(m.zeros);
    d_o.fill(m.zeros);
    const Range at = run.queries(positions, c);
    for (int64_t t = at.low; t < at.high; ++t) {
      const int64_t query = t - s.start, o_row = query * shape.o_row + h * d;
      const auto i = static_cast<size_t>(t % kTile);
      q[i] = s.q + query * shape.q_row + h * d;
      const float excess = excess_of(q[i], d);
      m.unit[t - t0] = shape.scale * kLog2E * excess;
      in_range[i] = q[i];
      if (excess > 1) {
        float* to = m.in_range + t % kTile * d;
        divide_query(q[i], d, excess, to);
        in_range[i] = to;
      }
      d_o[i] = task.gradients.d_o + o_row;
      m.delta[t - t0] = shape.scale * rounded_dot(d_o[i], s.o + o_row, d);
      m.maximum[t - t0] = s.softmax[h * s.queries + query];
      m.log_sum[t - t0] = s.softmax[(shape.heads + h) * s.queries + query];
    }
    pack_rows<Side::kRight>(in_range, d, m.q_transposed + c * m.k_blocks * kGroupPairs);
    pack_rows<Side::kRight>(d_o, d, m.d_o_transposed + c * m.k_blocks * kGroupPairs);
    pack_columns<Side::kRight>(q, d, kQueryTiles * kGroupPairs, m.q + c * kGroupPairs);
    pack_columns<Side::kRight>(d_o, d, kQueryTiles * kGroupPairs, m.d_o + c * kGroupPairs);
  }
  std::fill_n(m.dq, m.wide * kQueryBlock, 0.0f);
  if (!first)
    transpose(task.gradients.dq + (positions.low - s.start) * task.gradients.dq_row + h * d,
              task.gradients.dq_row, positions.high - positions.low, d, m.dq + positions.low - t0,
              kQueryBlock);
}

}  // namespace

void attention_backward_bf16_task(const Microkernel& kernel, const BackwardTask& task, float* at) {
  const AttentionShape& shape = task.shape;
  const int64_t d = shape.head_dim, start = task.sequence.start;
  const Range keys = task.keys();
  const Bf16Backward run{kernel,
                         task,
                         {d, task.segments.most_keys(), at},
                         DropoutRate(shape.dropout.rate),
                         keys.low / kTile * kTile};
  const Bf16BackwardMemory& m = run.memory;
  std::fill_n(m.zeros, m.wide, 0.0f);
  std::fill_n(m.dk, m.tiles * kTile * m.wide, 0.0f);
  std::fill_n(m.dv, m.tiles * kTile * m.wide, 0.0f);
  for (int64_t g = 0; g < groups_of(keys.high - run.origin); ++g) {
    const KeyTile tile(task.list(), task.sequence, keys, run.origin + g * kTile, task.kv_head * d,
                       m.zeros);
    pack_rows<Side::kLeft>(tile.k, d, m.keys + g * m.k_blocks * kGroupPairs);
    pack_rows<Side::kLeft>(tile.v, d, m.values + g * m.k_blocks * kGroupPairs);
    pack_columns<Side::kLeft>(tile.k, d, m.tiles * kGroupPairs,
                              m.keys_transposed + g * kGroupPairs);
  }

  if (kernel.begin) kernel.begin();
  each_query_block(task, [&](Range positions, int64_t h, bool first) HWY_ATTR {
    load_queries(run, positions, h, first);
    backward_block(run, positions, h);
    const int64_t before = positions.low % kQueryBlock;
    transpose(m.dq + before, kQueryBlock, d, positions.high - positions.low,
              task.gradients.dq + (positions.low - start) * task.gradients.dq_row + h * d,
              task.gradients.dq_row);
  });
  if (kernel.end) kernel.end();
  const int64_t skip = (keys.low - run.origin) * m.wide;
  put_key_gradients(task, m.dk + skip, m.dv + skip, m.wide);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(attention_backward_bf16_task);

void attention_backward_bf16(const Microkernel& kernel, const AttentionShape& shape,
                             std::span<const AttentionSequence> sequences,
                             std::span<const AttentionGradients> gradients, Arena& scratch) {
  share_backward(
      shape, sequences, gradients, scratch,
      [&](int64_t keys) { return Bf16BackwardMemory(shape.head_dim, keys, nullptr).floats; },
      [&](const BackwardTask& task, float* memory) {
        HWY_DYNAMIC_DISPATCH(attention_backward_bf16_task)(kernel, task, memory);
      });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
