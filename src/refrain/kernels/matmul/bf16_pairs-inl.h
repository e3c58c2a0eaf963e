// Rounding and pairing of what Microkernel (format_bf16.h) multiplies, on one instruction set.
//
// Which two of a group's 32 numbers make a pair is free as long as both operands agree: they stand
// 16 apart, so that a pair is made of the same lane of two vectors. Included once per SIMD target
// by the kernel files.
#if defined(REFRAIN_KERNELS_BF16_PAIRS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_BF16_PAIRS_INL_H_
#undef REFRAIN_KERNELS_BF16_PAIRS_INL_H_
#else
#define REFRAIN_KERNELS_BF16_PAIRS_INL_H_
#endif

#include "hwy/highway.h"
#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_BF16_PAIRS_INL_ONCE
#define REFRAIN_KERNELS_BF16_PAIRS_INL_ONCE
namespace refrain::kernels {
inline constexpr int64_t kHalf = kReductionGroup / 2;
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

using BitsTag = hn::RebindToUnsigned<FloatTag>;
using BitsVec = hn::Vec<BitsTag>;

// The upper halves are the nearest bfloat16, ties to even; the lower ones are of no use. NaN stays
// NaN unless all its bits are ones; what arithmetic makes has other bits.
HWY_INLINE BitsVec rounded_bits(FloatVec v) {
  const BitsTag d;
  const auto bits = hn::BitCast(d, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(d, 1u));
  return hn::Add(bits, hn::Add(odd, hn::Set(d, 0x7fffu)));
}
HWY_INLINE FloatVec pair_of(BitsVec low, BitsVec high) {
  const BitsTag d;
  return hn::BitCast(FloatTag(),
                     hn::Or(hn::ShiftRight<16>(low), hn::And(high, hn::Set(d, 0xffff0000u))));
}

// As rounded_bits(), of what was loaded from either type.
HWY_INLINE BitsVec bf16_bits(FloatVec v, const float*) { return rounded_bits(v); }
HWY_INLINE BitsVec bf16_bits(FloatVec v, const BFloat16*) { return hn::BitCast(BitsTag(), v); }

// Packs operands, float or BFloat16: to[p] = the pair (low[p], high[p]) for p < 16; zeros beyond
// n_low, n_high.
template <class T>
HWY_INLINE void pack_pairs(const T* low, int64_t n_low, const T* high, int64_t n_high, float* to) {
  const FloatTag d;
  const int64_t N = float_lanes();
  const auto pack = [&](int64_t j, auto of_low, auto of_high) HWY_ATTR {
    const auto pairs =
        pair_of(bf16_bits(of_low.load(low + j), low), bf16_bits(of_high.load(high + j), high));
    hn::StoreU(pairs, d, to + j);
  };
  if (std::min(n_low, n_high) >= kHalf) {
    for (int64_t j = 0; j < kHalf; j += N) pack(j, Whole(), Whole());
  } else {
    const auto part = [&](int64_t n) { return Part{std::clamp<int64_t>(n, 0, N)}; };
    for (int64_t j = 0; j < kHalf; j += N) pack(j, part(n_low - j), part(n_high - j));
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
