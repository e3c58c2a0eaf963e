// How scores of any size stay usable, on one instruction set. A score is s = q · k. Its exponent is
// (s - m) unit, with m the highest score of the row. The difference is computed first, since it is
// exact where it matters and never positive. unit s - unit m would be wrong by the rounding of its
// terms.
#if defined(REFRAIN_KERNELS_SCORES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_SCORES_INL_H_
#undef REFRAIN_KERNELS_SCORES_INL_H_
#else
#define REFRAIN_KERNELS_SCORES_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cstdint>

#include "hwy/highway.h"
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// The exponent, with its bias, from which queries are divided: those up to 2^33 are not.
inline constexpr uint32_t kHighestExponent = 127 + 32;

// The bits of the largest magnitude of queries [n, d], which say NaN where there is one.
HWY_INLINE uint32_t largest_bits(MatrixView<const float> q) {
  const hn::RebindToUnsigned<FloatTag> tag;
  auto top = hn::Zero(tag);
  for (int64_t i = 0; i < q.rows; ++i)
    each(q.cols, [&](auto at, int64_t j) HWY_ATTR {
      top = hn::Max(top, hn::BitCast(tag, hn::Abs(at.load(q.row(i) + j))));
    });
  return hn::GetLane(hn::MaxOfLanes(tag, top));
}

// The power of two that a query is to be divided by, so that products with keys do not overflow: 1
// up to 2^33, else what brings it there. A function of the query alone.
HWY_INLINE float excess_of(const float* q, int64_t d) {
  constexpr uint32_t kBias = 127, kMost = 2 * kBias;
  const uint32_t exponent = std::clamp(largest_bits({q, 1, d}) >> 23, kHighestExponent, kMost);
  return std::bit_cast<float>((exponent - kHighestExponent + kBias) << 23);
}

// to [d] = q / excess. Scores of it keep their bits; their unit times the excess makes up for it.
HWY_INLINE void divide_query(const float* q, int64_t d, float excess, float* to) {
  const FloatVec by = constant(1 / excess);
  each(d, [&](auto at, int64_t j) HWY_ATTR { at.store(hn::Mul(at.load(q + j), by), to + j); });
}

// Queries [n, d] as scores need them, where they are if none is to be divided; `unit`, of their
// scores, is multiplied by what makes up for it. memory [n, d] may be q.
HWY_INLINE MatrixView<const float> queries_in_range(MatrixView<const float> q, float* unit,
                                                    MatrixView<float> memory) {
  if (largest_bits(q) >> 23 <= kHighestExponent) return q;
  for (int64_t i = 0; i < q.rows; ++i) {
    const float excess = excess_of(q.row(i), q.cols);
    unit[i] *= excess;
    divide_query(q.row(i), q.cols, excess, memory.row(i));
  }
  return memory;
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
