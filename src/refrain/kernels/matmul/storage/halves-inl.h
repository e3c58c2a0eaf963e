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

// f(k, vectors) for the columns [first, end) of w, ascending; vectors(column) gives that of the
// rows from `column` of the panel on. `first` begins a group.
template <Storage type, class F>
HWY_INLINE void each_half(const std::byte* panel, int64_t first, int64_t end, F&& f) {
  constexpr int64_t kPairs = kWeightGroup / 2, kPairBytes = 16 * sizeof(uint32_t);
  for (int64_t k0 = first; k0 < end; k0 += kWeightGroup) {
    const std::byte* group =
        panel + static_cast<size_t>(k0 / kWeightGroup) * group_bytes(Storage::kBf16);
    const int64_t n = std::min(kWeightGroup, end - k0);
    const auto at = [group](int64_t pair, int64_t column) {
      return group + (column / 16 * kPairs + pair) * kPairBytes +
             column % 16 * static_cast<int64_t>(sizeof(uint32_t));
    };
    for (int64_t i = 0; i < std::min(n, kPairs); ++i)
      f(k0 + i, [&](int64_t column) HWY_ATTR { return half_of<type, false>(at(i, column)); });
    for (int64_t i = 0; i < n - kPairs; ++i)
      f(k0 + kPairs + i,
        [&](int64_t column) HWY_ATTR { return half_of<type, true>(at(i, column)); });
  }
}

template <Storage type>
void unpack_columns(const std::byte* panel, int64_t first, int64_t depth,
                    const PanelColumns& columns) {
  each_half<type>(panel, first, first + depth, [&](int64_t k, auto&& vectors) HWY_ATTR {
    float* to = columns.to + (k - first) * columns.width;
    for (int64_t j = 0; j < columns.width; j += float_lanes())
      hn::StoreU(vectors(columns.first + j), FloatTag(), to + j);
  });
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
