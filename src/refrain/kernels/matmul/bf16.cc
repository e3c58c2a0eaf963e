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

void round_range(float* x, BFloat16* bf16, int64_t begin, int64_t end) {
  each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
    const FloatVec v = rounded_to_bf16(at.load(x + begin + i));
    at.store(v, x + begin + i);
    if (bf16) at.store(v, bf16 + begin + i);
  });
}

void to_float_range(const BFloat16* x, float* y, int64_t begin, int64_t end) {
  each(end - begin,
       [&](auto at, int64_t i) HWY_ATTR { at.store(at.load(x + begin + i), y + begin + i); });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(round_range);
HWY_EXPORT(to_float_range);

namespace {
constexpr int64_t kElements = int64_t{1} << 15;  // of a task

void round_all(Tensor x, BFloat16* bf16) {
  parallel_ranges(x.size(), kElements, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(round_range)
    (x.data, bf16, begin, end);
  });
}
}  // namespace

void round_to_bf16(Tensor x) { round_all(x, nullptr); }
void round_to_bf16(Tensor x, TensorOf<BFloat16> bf16) {
  REFRAIN_CHECK(x.size() == bf16.size());
  round_all(x, bf16.data);
}
void to_float(TensorOf<const BFloat16> x, Tensor y) {
  REFRAIN_CHECK(x.size() == y.size());
  parallel_ranges(x.size(), kElements, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(to_float_range)
    (x.data, y.data, begin, end);
  });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
