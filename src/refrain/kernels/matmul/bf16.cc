#include "refrain/kernels/matmul/bf16.h"

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/bf16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void round_range(float* x, BFloat16* narrow, int64_t begin, int64_t end) {
  each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
    const FloatVec v = rounded_to_bf16(at.load(x + begin + i));
    at.store(v, x + begin + i);
    if (narrow) at.store(v, narrow + begin + i);
  });
}

void widen_range(const BFloat16* x, float* y, int64_t begin, int64_t end) {
  each(end - begin,
       [&](auto at, int64_t i) HWY_ATTR { at.store(at.load(x + begin + i), y + begin + i); });
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
    (x.data, narrow, begin, end);
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
    (x.data, y.data, begin, end);
  });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
