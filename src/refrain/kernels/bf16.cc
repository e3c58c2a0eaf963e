#include "refrain/kernels/bf16.h"

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/bf16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void round_range(float* x, uint16_t* narrow, int64_t begin, int64_t end) {
  const hn::Repartition<uint32_t, FloatTag> d32;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const int64_t N = float_lanes();
  int64_t i = begin;
  for (; i + N <= end; i += N) {
    const FloatVec v = rounded_to_bf16(hn::LoadU(FloatTag(), x + i));
    hn::StoreU(v, FloatTag(), x + i);
    if (narrow)
      hn::StoreU(hn::TruncateTo(d16, hn::ShiftRight<16>(hn::BitCast(d32, v))), d16, narrow + i);
  }
  for (; i < end; ++i) {
    const BFloat16 b = BFloat16::of(x[i]);
    x[i] = static_cast<float>(b);
    if (narrow) narrow[i] = b.bits;
  }
}

void widen_range(const uint16_t* x, float* y, int64_t begin, int64_t end) {
  const hn::Repartition<uint32_t, FloatTag> d32;
  const hn::Rebind<uint16_t, FloatTag> d16;
  const int64_t N = float_lanes();
  int64_t i = begin;
  for (; i + N <= end; i += N) {
    const auto wide = hn::PromoteTo(d32, hn::LoadU(d16, x + i));
    hn::StoreU(hn::BitCast(FloatTag(), hn::ShiftLeft<16>(wide)), FloatTag(), y + i);
  }
  for (; i < end; ++i) y[i] = static_cast<float>(BFloat16{x[i]});
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(round_range);
HWY_EXPORT(widen_range);

namespace {
constexpr int64_t kElements = int64_t{1} << 15;  // of a task

void round_all(Tensor x, BFloat16* narrow) {
  parallel_ranges(x.size(), kElements, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(round_range)
    (x.data, reinterpret_cast<uint16_t*>(narrow), begin, end);
  });
}
}  // namespace

void round_to_bf16(Tensor x) { round_all(x, nullptr); }
void round_to_bf16(Tensor x, TensorOf<BFloat16> narrow) {
  REFRAIN_CHECK(x.size() == narrow.size());
  round_all(x, narrow.data);
}
void widen(TensorOf<const BFloat16> x, Tensor y) {
  REFRAIN_CHECK(x.size() == y.size());
  parallel_ranges(x.size(), kElements, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(widen_range)
    (reinterpret_cast<const uint16_t*>(x.data), y.data, begin, end);
  });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
