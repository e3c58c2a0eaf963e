// What both directions of attention on bfloat16 units are made of, on one instruction set: packing
// for Microkernel::block, and what happens to a tile of scores.
//
// Scores are made transposed, Sᵀ = k qᵀ: a tile has keys as its rows and queries as its columns. So
// a query's maximum, sum, unit and delta are lanes of a vector, nothing is reduced across lanes,
// and Pᵀ and dSᵀ leave their tiles as operands of the products that need them, never transposed:
//
//   forward    oᵀ = vᵀ Pᵀ            backward    dV = Pᵀ dO,  dK = dSᵀ q,  dQᵀ = kᵀ dSᵀ
#if defined(REFRAIN_KERNELS_ATTENTION_BF16_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_ATTENTION_BF16_INL_H_
#undef REFRAIN_KERNELS_ATTENTION_BF16_INL_H_
#else
#define REFRAIN_KERNELS_ATTENTION_BF16_INL_H_
#endif

#include <array>
#include <limits>

#include "hwy/highway.h"
#include "refrain/kernels/attention/attention-inl.h"
#include "refrain/kernels/attention/attention_bf16.h"
#include "refrain/kernels/matmul/bf16_pairs-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_BF16_INL_ONCE
#define REFRAIN_KERNELS_ATTENTION_BF16_INL_ONCE
namespace refrain::kernels {
// A tile: so many keys by so many queries, a group of either.
inline constexpr int64_t kTile = kBf16Block, kTileFloats = kTile * kTile;
static_assert(kTile == kReductionGroup);
// Half of a tile's rows or columns of a group, in pairs.
inline constexpr int64_t kHalfPairs = kGroupPairs / 2;

inline int64_t groups_of(int64_t n) { return (n + kReductionGroup - 1) / kReductionGroup; }
// Groups that the numbers of a range, counted from `origin`, lie in.
inline Range groups_of(Range range, int64_t origin) {
  if (range.low >= range.high) return {0, 0};
  return {(range.low - origin) / kReductionGroup, groups_of(range.high - origin)};
}

// Where a tile's rows lie; those that do not exist are zeros somewhere.
using TileRows = std::array<const float*, static_cast<size_t>(kTile)>;

// Keys and values of a head that starts at `offset` of a row: keys [first, first + 32) of a list,
// of which those in `exist` do.
struct KeyTile {
  KeyTile(const KeyRange& list, const AttentionSequence& s, Range exist, int64_t first,
          int64_t offset, const float* zeros) {
    k.fill(zeros);
    v.fill(zeros);
    const Range some = intersection(exist, {first, first + kTile});
    for (int64_t i = some.low; i < some.high;) {
      const auto run = list.run(s.keys, s.start, i, some.high - i);
      for (int64_t r = 0; r < run.length; ++r, ++i) {
        k[static_cast<size_t>(i - first)] = run.k + r * run.row + offset;
        v[static_cast<size_t>(i - first)] = run.v + r * run.row + offset;
      }
    }
  }
  TileRows k, v;
};

// Hands out a task's memory; without any it only counts.
struct TaskMemory {
  float* base;
  int64_t floats = 0;
  float* take(int64_t n) {
    float* p = base ? base + floats : nullptr;
    floats += n;
    return p;
  }
};
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// How a kernel wants its operands: a half of the left one is [item][pair], of the right one
// [pair][item].
enum class Side { kLeft, kRight };

// 32 rows as the items of a product that reduces their columns: [group of columns][half of items].
template <Side kSide>
void pack_rows(const TileRows& rows, int64_t cols, float* to) {
  HWY_ALIGN float transposed[kHalfPairs];
  for (int64_t c = 0; c < cols; c += kReductionGroup)
    for (int64_t first = 0; first < kTile; first += kHalf, to += kHalfPairs) {
      float* half = kSide == Side::kLeft ? to : transposed;
      for (int64_t i = 0; i < kHalf; ++i) {
        const float* row = rows[static_cast<size_t>(first + i)] + c;
        pack_pairs(row, cols - c, row + kHalf, cols - c - kHalf, half + i * kHalf);
      }
      if (kSide == Side::kRight) transpose(transposed, kHalf, kHalf, kHalf, to, kHalf);
    }
}

// 32 rows as the group that a product reduces, their columns as its items: 32 of them, in two
// halves, at every `step` of `to`.
template <Side kSide>
void pack_columns(const TileRows& rows, int64_t cols, int64_t step, float* to) {
  HWY_ALIGN float transposed[kHalfPairs];
  for (int64_t c = 0; c < cols; c += kTile, to += step)
    for (int64_t h = 0; h < 2; ++h) {
      const int64_t from = c + h * kHalf, n = cols - from;
      float* half = kSide == Side::kRight ? to + h * kHalfPairs : transposed;
      for (int64_t p = 0; p < kHalf; ++p)
        pack_pairs(rows[static_cast<size_t>(p)] + from, n,
                   rows[static_cast<size_t>(p + kHalf)] + from, n, half + p * kHalf);
      if (kSide == Side::kLeft)
        transpose(transposed, kHalf, kHalf, kHalf, to + h * kHalfPairs, kHalf);
    }
}

// A tile's scores that do not count become -infinity. columns_of(j): the queries that see key j.
template <class F>
HWY_INLINE void hide_unseen(float* scores, const F& columns_of) {
  const FloatTag d;
  const FloatVec lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  for (int64_t j = 0; j < kTile; ++j, scores += kTile) {
    const Range seen = columns_of(j);
    for (int64_t c = 0; c < kTile; c += float_lanes())
      hn::StoreU(hn::IfThenElse(lanes_in(seen, c), hn::LoadU(d, scores + c), lowest), d,
                 scores + c);
  }
}

// What dropout multiplies a tile of probabilities by. row_of(c): the mask's row of column c, for
// c < columns.
template <class F>
HWY_INLINE void dropout_tile(const DropoutRate& rate, int64_t first_key, int64_t columns,
                             const F& row_of, float* to) {
  const FloatTag d;
  const auto scale = hn::Set(d, rate.scale);
  HWY_ALIGN float drawn[kTileFloats] = {};
  for (int64_t c = 0; c < columns; ++c) {
    float* row = drawn + c * kTile;
    each_drawn(row_of(c), first_key, first_key + kTile, rate.threshold,
               [&](KeptMask keep, int64_t key) HWY_ATTR {
                 hn::StoreU(hn::IfThenElseZero(keep, scale), d, row + key - first_key);
               });
  }
  transpose(drawn, kTile, kTile, kTile, to, kTile);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
