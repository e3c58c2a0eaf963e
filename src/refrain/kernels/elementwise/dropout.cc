#include "refrain/kernels/elementwise/dropout.h"

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/dropout.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/dropout-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void dropout_apply(Tensor x, float p, uint64_t key, std::span<const uint64_t> row_ids) {
  const DropoutRate rate(p);
  const int64_t n = x.cols(), N = float_lanes();
  parallel_rows(x.rows(), n, [&](int64_t r) HWY_ATTR {
    float* row = x.row(r);
    const auto scale = hn::Set(FloatTag(), rate.scale);
    each_drawn({key, row_ids[static_cast<size_t>(r)]}, 0, n, rate.threshold,
               [&](KeptMask keep, int64_t j) HWY_ATTR {
                 const auto drop = [&](auto at) HWY_ATTR {
                   at.store(hn::IfThenElseZero(keep, hn::Mul(at.load(row + j), scale)), row + j);
                 };
                 if (j + N <= n)
                   drop(Whole());
                 else if (j < n)
                   drop(Part{n - j});
               });
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(dropout_apply);

void dropout_apply(Tensor x, float p, uint64_t key, std::span<const uint64_t> row_ids) {
  REFRAIN_CHECK(p >= 0 && p < 1);
  REFRAIN_CHECK(static_cast<int64_t>(row_ids.size()) == x.rows());
  if (p > 0) HWY_DYNAMIC_DISPATCH(dropout_apply)(x, p, key, row_ids);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
