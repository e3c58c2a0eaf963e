#include "refrain/kernels/peak.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/peak.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

int64_t multiply_add_chains(int64_t steps, float factor, float addend, double& sum) {
  constexpr int kChains = 12;  // latency 4 or 5, two units; and they fit sixteen registers
  const FloatTag d;
  const FloatVec by = hn::Set(d, factor), plus = hn::Set(d, addend);
  FloatVec chain[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i)  // 1 on average; of equal chains a compiler makes one
    chain[i] = hn::Set(d, static_cast<float>(i % 2 == 0 ? i + 2 : 1 - i));
  for (int64_t step = 0; step < steps; ++step) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) chain[i] = hn::MulAdd(chain[i], by, plus);
  }
  sum = 0;
  for (int i = 0; i < kChains; ++i)
    sum += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, chain[i])));
  return 2 * steps * kChains * float_lanes();
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply_add_chains);

int64_t multiply_add_chains(int64_t steps, float factor, float addend, double& sum) {
  return HWY_DYNAMIC_DISPATCH(multiply_add_chains)(steps, factor, addend, sum);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
