#include "refrain/kernels/attention/attention_bf16.h"

#include <cmath>
#include <limits>

#include "refrain/kernels/attention/attention_tasks.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention/attention_bf16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention/attention_bf16-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_BF16_ONCE
#define REFRAIN_KERNELS_ATTENTION_BF16_ONCE
namespace refrain::kernels {
namespace {
// Keys in a block: blocks stand at multiples of this in their list. Part of the numbers: it decides
// where the running sum is rescaled, and what probabilities are rounded relative to.
constexpr int64_t kBlockKeys = 128, kBlockTiles = kBlockKeys / kTile;

// What a task keeps of its queries, of a block of keys, and of a tile of queries and that block.
struct Bf16ForwardMemory {
  Bf16ForwardMemory(int64_t head_dim, int64_t most_rows, float* at)
      : k_blocks(groups_of(head_dim)) {
    const int64_t tiles = groups_of(most_rows);
    TaskMemory memory{at};
    queries = memory.take(tiles * k_blocks * kGroupPairs);
    out = memory.take(tiles * k_blocks * kTileFloats);
    maximum = memory.take(tiles * kTile);
    sum = memory.take(tiles * kTile);
    unit = memory.take(tiles * kTile);
    keys = memory.take(kBlockTiles * k_blocks * kGroupPairs);
    values = memory.take(kBlockTiles * k_blocks * kGroupPairs);
    scores = memory.take(kBlockTiles * kTileFloats);
    probabilities = memory.take(kBlockTiles * kGroupPairs);
    factors = memory.take(kTileFloats);
    product = memory.take(kTileFloats);
    in_range = memory.take(kTile * head_dim);
    zeros = memory.take(k_blocks * kReductionGroup);
    floats = memory.floats;
  }
  int64_t k_blocks;      // groups of head_dim
  float* queries;        // right operands of Sᵀ: [tile][k_blocks]
  float* out;            // oᵀ so far: [tile][32 k_blocks, 32 queries]
  float *maximum, *sum;  // of each query
  float* unit;           // of its scores
  float* keys;           // left operands of Sᵀ: [tile][k_blocks]
  float* values;         // left operands of oᵀ: [k_blocks][tile]
  float* scores;         // [tile][32 keys, 32 queries]
  float* probabilities;  // right operand of oᵀ: [tile]
  float *factors, *product;
  float* in_range;  // a tile's queries, [32, head_dim]
  float* zeros;
  int64_t floats;
};

struct Bf16Forward {
  const Microkernel& kernel;
  const ForwardTask& task;
  Bf16ForwardMemory memory;
  DropoutRate rate;

  int64_t group() const { return task.shape.heads / task.shape.kv_heads; }
  // A task's rows: token by token, the heads of a token one after another. What a row sees moves
  // forward with it.
  int64_t rows() const { return (task.last - task.first) * group(); }
  int64_t query(int64_t row) const { return task.first + row / group(); }
  int64_t head(int64_t row) const { return task.kv_head * group() + row % group(); }
  int64_t position(int64_t row) const { return task.sequence.start + query(row); }
};
}  // namespace
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {
namespace {

// Of so many rows of scores, in the columns of one vector.
HWY_INLINE FloatVec highest_of_column(const float* scores, int64_t keys) {
  const FloatTag d;
  constexpr int64_t kChains = 4;
  FloatVec top[kChains];
  for (auto& chain : top) chain = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t j = 0; j < keys; j += kChains)
#pragma GCC unroll 4
    for (int64_t k = 0; k < kChains; ++k)
      top[k] = hn::Max(top[k], hn::LoadU(d, scores + (j + k) * kTile));
  return hn::Max(hn::Max(top[0], top[1]), hn::Max(top[2], top[3]));
}

// A tile of scores becomes probabilities relative to `high`, packed as a right operand; their sums
// are added to two rows of sums, of the lower and the upper halves of the keys.
template <bool kDropout>
HWY_INLINE void pack_probabilities(const float* scores, const float* factors, const float* unit,
                                   const float* high, float* sums, float* to) {
  const FloatTag d;
  for (int64_t c = 0; c < kTile; c += float_lanes()) {
    const FloatVec less = hn::LoadU(d, high + c), factor = hn::LoadU(d, unit + c);
    FloatVec low_sum = hn::LoadU(d, sums + c), high_sum = hn::LoadU(d, sums + kTile + c);
    float* pairs = to + c / kHalf * kHalfPairs + c % kHalf;
    for (int64_t p = 0; p < kHalf; ++p) {
      const int64_t at = p * kTile + c, upper = at + kHalf * kTile;
      FloatVec x = vector_exp2(hn::Mul(hn::Sub(hn::LoadU(d, scores + at), less), factor));
      FloatVec y = vector_exp2(hn::Mul(hn::Sub(hn::LoadU(d, scores + upper), less), factor));
      low_sum = hn::Add(low_sum, x);
      high_sum = hn::Add(high_sum, y);
      if constexpr (kDropout) {
        x = hn::Mul(x, hn::LoadU(d, factors + at));
        y = hn::Mul(y, hn::LoadU(d, factors + upper));
      }
      hn::StoreU(pair_of(rounded_bits(x), rounded_bits(y)), d, pairs + p * kHalf);
    }
    hn::StoreU(low_sum, d, sums + c);
    hn::StoreU(high_sum, d, sums + kTile + c);
  }
}

// Tile t of the queries, and the keys from k0 on of a list: scores, probabilities, and what they
// add to oᵀ. What was accumulated before is scaled to the new maxima. The block's own part of oᵀ is
// made from zero and then added: what a query got elsewhere is not touched by keys that it does not
// see.
void forward_tile(const Bf16Forward& run, const KeyRange& list, int64_t t, int64_t k0) {
  const FloatTag d;
  const AttentionShape& shape = run.task.shape;
  const Bf16ForwardMemory& m = run.memory;
  const int64_t r0 = t * kTile, columns = std::min(kTile, run.rows() - r0), k_blocks = m.k_blocks;
  const Range earliest = list.seen(run.position(r0));
  const Range latest = list.seen(run.position(r0 + columns - 1));
  const Range tiles =
      groups_of(intersection({earliest.low, latest.high}, {k0, k0 + kBlockKeys}), k0);
  if (tiles.low >= tiles.high) return;

  const Range positions{run.position(0), run.position(run.rows() - 1) + 1};
  for (int64_t g = tiles.low; g < tiles.high; ++g) {
    float* scores = m.scores + g * kTileFloats;
    const int64_t first = k0 + g * kTile;
    run.kernel.block(m.keys + g * k_blocks * kGroupPairs, m.queries + t * k_blocks * kGroupPairs,
                     k_blocks, scores, kTile, false);
    if (latest.low > first || earliest.high < first + kTile)
      hide_unseen(scores, [&](int64_t j) {
        const Range by = shifted(intersection(list.seen_by(first + j), positions), -positions.low);
        return Range{by.low * run.group() - r0, by.high * run.group() - r0};
      });
  }

  const float* unit = m.unit + r0;
  const int64_t keys = (tiles.high - tiles.low) * kTile;
  HWY_ALIGN float high[kTile], keep[kTile], sums[2 * kTile] = {};
  for (int64_t c = 0; c < kTile; c += float_lanes()) {
    const FloatVec lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
    const FloatVec before = hn::LoadU(d, m.maximum + r0 + c);
    const FloatVec top = highest_of_column(m.scores + tiles.low * kTileFloats + c, keys);
    const FloatVec now = hn::Max(before, top);
    // A query that has seen no key yet has nothing to scale either.
    const FloatVec less = hn::IfThenZeroElse(hn::Eq(now, lowest), now);
    hn::StoreU(now, d, m.maximum + r0 + c);
    hn::StoreU(less, d, high + c);
    hn::StoreU(vector_exp2(hn::Mul(hn::Sub(before, less), hn::LoadU(d, unit + c))), d, keep + c);
  }
  for (int64_t g = tiles.low; g < tiles.high; ++g) {
    const float* scores = m.scores + g * kTileFloats;
    float* to = m.probabilities + g * kGroupPairs;
    if (shape.dropout.rate > 0) {
      dropout_tile(
          run.rate, k0 + g * kTile, columns,
          [&](int64_t c) {
            return dropout_row(shape, run.task.sequence, run.query(r0 + c), run.head(r0 + c),
                               list.kind());
          },
          m.factors);
      pack_probabilities<true>(scores, m.factors, unit, high, sums, to);
    } else {
      pack_probabilities<false>(scores, nullptr, unit, high, sums, to);
    }
  }
  for (int64_t c = 0; c < kTile; c += float_lanes()) {
    float* sum = m.sum + r0 + c;
    const FloatVec more = hn::Add(hn::Load(d, sums + c), hn::Load(d, sums + kTile + c));
    hn::StoreU(hn::MulAdd(hn::LoadU(d, sum), hn::Load(d, keep + c), more), d, sum);
  }

  for (int64_t n = 0; n < k_blocks; ++n) {
    run.kernel.block(m.values + (n * kBlockTiles + tiles.low) * kGroupPairs,
                     m.probabilities + tiles.low * kGroupPairs, tiles.high - tiles.low, m.product,
                     kTile, false);
    float* out = m.out + (t * k_blocks + n) * kTileFloats;
    for (int64_t c = 0; c < kTile; c += float_lanes()) {
      const FloatVec scale = hn::Load(d, keep + c);
      for (int64_t at = c; at < kTileFloats; at += kTile)
        hn::StoreU(hn::MulAdd(hn::LoadU(d, out + at), scale, hn::LoadU(d, m.product + at)), d,
                   out + at);
    }
  }
}

// Keys [k0, k0 + kBlockKeys) of a list, of which those in `exist` do.
void load_block(const Bf16Forward& run, const KeyRange& list, Range exist, int64_t k0) {
  const Bf16ForwardMemory& m = run.memory;
  const int64_t d = run.task.shape.head_dim;
  const Range tiles = groups_of(intersection(exist, {k0, k0 + kBlockKeys}), k0);
  for (int64_t g = tiles.low; g < tiles.high; ++g) {
    const KeyTile tile(list, run.task.sequence, exist, k0 + g * kTile, run.task.kv_head * d,
                       m.zeros);
    pack_rows<Side::kLeft>(tile.k, d, m.keys + g * m.k_blocks * kGroupPairs);
    pack_columns<Side::kLeft>(tile.v, d, kBlockTiles * kGroupPairs, m.values + g * kGroupPairs);
  }
}

// oᵀ over the sums, and what backward needs of them.
void finish_tile(const Bf16Forward& run, int64_t t) {
  const FloatTag tag;
  const AttentionShape& shape = run.task.shape;
  const AttentionSequence& s = run.task.sequence;
  const Bf16ForwardMemory& m = run.memory;
  const int64_t d = shape.head_dim, r0 = t * kTile, columns = std::min(kTile, run.rows() - r0);
  for (int64_t n = 0; n < m.k_blocks; ++n) {
    float* out = m.out + (t * m.k_blocks + n) * kTileFloats;
    for (int64_t c = 0; c < kTile; c += float_lanes()) {
      const FloatVec inverse = hn::Div(hn::Set(tag, 1.0f), hn::LoadU(tag, m.sum + r0 + c));
      // Adding zero: the sign of a zero would tell which keys it does not see came beside it.
      for (int64_t at = c; at < kTileFloats; at += kTile)
        hn::StoreU(hn::MulAdd(hn::LoadU(tag, out + at), inverse, hn::Zero(tag)), tag, out + at);
    }
    transpose(out, kTile, kTile, kTile, m.product, kTile);
    for (int64_t c = 0; c < columns; ++c)
      std::copy_n(m.product + c * kTile, std::min(kTile, d - n * kTile),
                  s.o + run.query(r0 + c) * shape.o_row + run.head(r0 + c) * d + n * kTile);
  }
  for (int64_t r = r0; r < r0 + columns; ++r) {
    s.softmax[run.head(r) * s.queries + run.query(r)] = m.maximum[r];
    s.softmax[(shape.heads + run.head(r)) * s.queries + run.query(r)] = std::log2(m.sum[r]);
  }
}

}  // namespace

void attention_forward_bf16_task(const Microkernel& kernel, const ForwardTask& task, float* at) {
  const AttentionShape& shape = task.shape;
  const AttentionSequence& s = task.sequence;
  const int64_t d = shape.head_dim;
  const Bf16Forward run{kernel, task, {d, task.most_rows, at}, DropoutRate(shape.dropout.rate)};
  const Bf16ForwardMemory& m = run.memory;
  const int64_t rows = run.rows(), tiles = groups_of(rows);
  std::fill_n(m.maximum, tiles * kTile, -std::numeric_limits<float>::infinity());
  std::fill_n(m.sum, tiles * kTile, 0.0f);
  std::fill_n(m.unit, tiles * kTile, 1.0f);
  std::fill_n(m.out, tiles * m.k_blocks * kTileFloats, 0.0f);
  std::fill_n(m.zeros, m.k_blocks * kReductionGroup, 0.0f);
  for (int64_t t = 0; t < tiles; ++t) {
    TileRows q;
    q.fill(m.zeros);
    for (int64_t r = t * kTile; r < std::min(rows, (t + 1) * kTile); ++r) {
      const float* own = s.q + run.query(r) * shape.q_row + run.head(r) * d;
      const float excess = excess_of(own, d);
      m.unit[r] = shape.scale * kLog2E * excess;
      if (excess > 1) {
        float* to = m.in_range + r % kTile * d;
        divide_query(own, d, excess, to);
        own = to;
      }
      q[static_cast<size_t>(r % kTile)] = own;
    }
    pack_rows<Side::kRight>(q, d, m.queries + t * m.k_blocks * kGroupPairs);
  }

  if (kernel.begin) kernel.begin();
  const int64_t group = run.group(), begin = s.start + task.first, end = s.start + task.last;
  for (const auto kind : {KeyRange::kStrided, KeyRange::kLocal}) {
    const KeyRange list(shape, kind);
    const Range exist{list.seen(begin).low, list.seen(end - 1).high};
    for (int64_t k0 = exist.low / kBlockKeys * kBlockKeys; k0 < exist.high; k0 += kBlockKeys) {
      const Range keys = intersection(exist, {k0, k0 + kBlockKeys});
      const Range see = intersection(
          {begin, end}, {list.seen_by(keys.low).low, list.seen_by(keys.high - 1).high});
      load_block(run, list, exist, k0);
      const Range seeing = groups_of({(see.low - begin) * group, (see.high - begin) * group}, 0);
      for (int64_t t = seeing.low; t < seeing.high; ++t) forward_tile(run, list, t, k0);
    }
  }
  if (kernel.end) kernel.end();
  for (int64_t t = 0; t < tiles; ++t) finish_tile(run, t);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(attention_forward_bf16_task);

void attention_forward_bf16(const Microkernel& kernel, const AttentionShape& shape,
                            std::span<const AttentionSequence> sequences, Arena& scratch) {
  share_forward(
      shape, sequences, scratch,
      [&](int64_t rows) { return Bf16ForwardMemory(shape.head_dim, rows, nullptr).floats; },
      [&](const ForwardTask& task, float* memory) {
        HWY_DYNAMIC_DISPATCH(attention_forward_bf16_task)(kernel, task, memory);
      });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
