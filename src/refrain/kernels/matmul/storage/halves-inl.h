// Weights stored as numbers of 16 bits (storage.h) as vectors of float32, on one instruction set.
// Included once per SIMD target by the kernel files.
#if defined(REFRAIN_KERNELS_HALVES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_HALVES_INL_H_
#undef REFRAIN_KERNELS_HALVES_INL_H_
#else
#define REFRAIN_KERNELS_HALVES_INL_H_
#endif

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "hwy/highway.h"
#include "refrain/kernels/matmul/storage/storage.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_HALVES_ONCE
#define REFRAIN_KERNELS_HALVES_ONCE
namespace refrain::kernels {

// Where unpacked columns of a panel go: [depth][width], from column `first` on.
struct PanelColumns {
  float* to;
  int64_t width, first;
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

using PairBitsTag = hn::RebindToUnsigned<FloatTag>;

HWY_INLINE FloatVec of_float16(hn::Vec<PairBitsTag> lower_halves) {
  const hn::Rebind<uint16_t, FloatTag> d16;
  const hn::Rebind<hwy::float16_t, FloatTag> half;
  return hn::PromoteTo(FloatTag(), hn::BitCast(half, hn::TruncateTo(d16, lower_halves)));
}

// The first or the second number of each pair, for the lanes' rows of w.
template <Storage type, bool second>
HWY_INLINE FloatVec half_of(const std::byte* pairs) {
  const PairBitsTag d;
  const auto v = hn::LoadU(d, reinterpret_cast<const uint32_t*>(pairs));
  if constexpr (type == Storage::kBf16)
    return hn::BitCast(FloatTag(),
                       second ? hn::And(v, hn::Set(d, 0xffff0000u)) : hn::ShiftLeft<16>(v));
  else
    return of_float16(second ? hn::ShiftRight<16>(v) : v);
}

// f(half, k, pairs, second) for the columns [0, K) of w, in the order in which a panel lies in
// memory: of each group, the pairs of its first 16 rows, and then those of the others; of these,
// the first numbers, and then the second ones. half, second: std::integral_constant.
template <Storage type, class F>
HWY_INLINE void each_half(const std::byte* group, int64_t K, F&& f) {
  constexpr int64_t kPairs = kWeightGroup / 2, kPairBytes = 16 * sizeof(uint32_t);
  for (int64_t k0 = 0; k0 < K; k0 += kWeightGroup, group += group_bytes(type)) {
    const int64_t n = std::min(kWeightGroup, K - k0);
    const auto of = [&](auto half) HWY_ATTR {
      const std::byte* pairs = group + half * kPairs * kPairBytes;
      for (int64_t i = 0; i < std::min(n, kPairs); ++i)
        f(half, k0 + i, pairs + i * kPairBytes, std::false_type());
      for (int64_t i = 0; i < n - kPairs; ++i)
        f(half, k0 + kPairs + i, pairs + i * kPairBytes, std::true_type());
    };
    of(std::integral_constant<int, 0>());
    of(std::integral_constant<int, 1>());
  }
}

// The columns [first, first + depth) of w, `first` beginning a group.
template <Storage type>
void unpack_columns(const std::byte* panel, int64_t first, int64_t depth,
                    const PanelColumns& columns) {
  constexpr int64_t kPairs = kWeightGroup / 2, kPairBytes = 16 * sizeof(uint32_t);
  panel += static_cast<size_t>(first / kWeightGroup) * group_bytes(type);
  for (int64_t k = 0; k < depth; ++k) {
    const std::byte* group = panel + static_cast<size_t>(k / kWeightGroup) * group_bytes(type);
    const int64_t i = k % kWeightGroup;
    float* to = columns.to + k * columns.width;
    for (int64_t j = 0; j < columns.width; j += float_lanes()) {
      const int64_t row = columns.first + j;
      const std::byte* pairs = group + (row / 16 * kPairs + i % kPairs) * kPairBytes +
                               row % 16 * static_cast<int64_t>(sizeof(uint32_t));
      const FloatVec v = i < kPairs ? half_of<type, false>(pairs) : half_of<type, true>(pairs);
      hn::StoreU(v, FloatTag(), to + j);
    }
  }
}
HWY_INLINE void unpack_columns(PackedWeights panel, int64_t first, int64_t depth,
                               const PanelColumns& columns) {
  if (panel.type == Storage::kBf16)
    unpack_columns<Storage::kBf16>(panel.data, first, depth, columns);
  else
    unpack_columns<Storage::kFloat16>(panel.data, first, depth, columns);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
