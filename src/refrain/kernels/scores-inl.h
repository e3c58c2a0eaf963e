// What keeps scores of any size usable, on one instruction set. A score is s = q · k, its exponent
// (s - m) unit with m the highest of the row: the difference comes first, since it is exact where
// it matters and never positive, while unit s - unit m would be off by the rounding of its terms.
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
#include "refrain/kernels/simd-inl.h"
#include "refrain/kernels/step_product.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// The power of two that a query is to be divided by, so that products with keys do not overflow: 1
// up to 2^33, else what brings it there. A function of the query alone.
HWY_INLINE float excess_of(const float* q, int64_t d) {
  const FloatTag tag;
  FloatVec top = hn::Zero(tag);
  each(d, [&](auto at, int64_t j) HWY_ATTR { top = hn::Max(top, hn::Abs(at.load(q + j))); });
  const float largest = hn::GetLane(hn::MaxOfLanes(tag, top));
  constexpr uint32_t kBias = 127, kHighest = kBias + 32, kMost = 2 * kBias;
  const uint32_t exponent = std::clamp(std::bit_cast<uint32_t>(largest) >> 23, kHighest, kMost);
  return std::bit_cast<float>((exponent - kHighest + kBias) << 23);
}

// to [d] = q / excess. Scores of it keep their bits; their unit times the excess makes up for it.
HWY_INLINE void divide_query(const float* q, int64_t d, float excess, float* to) {
  const FloatVec by = constant(1 / excess);
  each(d, [&](auto at, int64_t j) HWY_ATTR { at.store(hn::Mul(at.load(q + j), by), to + j); });
}

// Queries [n, d] as scores need them, and the units of their scores.
HWY_INLINE SpacedRows<const float> queries_in_range(SpacedRows<const float> q, int64_t n, int64_t d,
                                                    float* unit, float* memory) {
  bool all = true;
  for (int64_t i = 0; i < n; ++i) {
    const float excess = excess_of(q[i], d);
    all = all && excess == 1;
    unit[i] *= excess;
  }
  if (all) return q;
  for (int64_t i = 0; i < n; ++i) divide_query(q[i], d, excess_of(q[i], d), memory + i * d);
  return {memory, d};
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
