#include "refrain/kernels/elementwise/adamw.h"

#include <cmath>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/adamw.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void adamw_step(std::span<float> params, std::span<const float> grads, std::span<float> m,
                std::span<float> v, const AdamwStep& s) {
  const auto constant = [](double c)
                            HWY_ATTR { return hn::Set(FloatTag(), static_cast<float>(c)); };
  const auto t = static_cast<double>(s.step);
  const auto rate =
      constant(s.learning_rate * std::sqrt(1 - std::pow(s.beta2, t)) / (1 - std::pow(s.beta1, t)));
  const auto decay = constant(s.learning_rate * s.weight_decay);
  const auto beta1 = constant(s.beta1), rest1 = constant(1 - s.beta1);
  const auto beta2 = constant(s.beta2), rest2 = constant(1 - s.beta2);
  const auto eps = constant(s.eps), scale = constant(s.grad_scale);
  const auto low = constant(-s.clip_value), high = constant(s.clip_value);
  parallel_ranges(
      static_cast<int64_t>(params.size()), kTaskElements, [&](int64_t begin, int64_t end) HWY_ATTR {
        float *p = params.data() + begin, *pm = m.data() + begin, *pv = v.data() + begin;
        const float* pg = grads.data() + begin;
        each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
          const auto g = clamp(hn::Mul(at.load(pg + i), scale), low, high);
          const auto mean = hn::MulAdd(beta1, at.load(pm + i), hn::Mul(rest1, g));
          const auto square = hn::MulAdd(beta2, at.load(pv + i), hn::Mul(hn::Mul(rest2, g), g));
          at.store(mean, pm + i);
          at.store(square, pv + i);
          const auto w = at.load(p + i);
          const auto step = hn::Div(hn::Mul(rate, mean), hn::Add(hn::Sqrt(square), eps));
          at.store(hn::Sub(hn::NegMulAdd(decay, w, w), step), p + i);
        });
      });
}

void sgd_step(std::span<float> params, std::span<const float> grads, std::span<float> m,
              const SgdStep& s) {
  const auto constant = [](double c)
                            HWY_ATTR { return hn::Set(FloatTag(), static_cast<float>(c)); };
  const auto rate = constant(s.learning_rate), decay = constant(s.weight_decay);
  const auto momentum = constant(s.momentum), scale = constant(s.grad_scale);
  const auto low = constant(-s.clip_value), high = constant(s.clip_value);
  parallel_ranges(static_cast<int64_t>(params.size()), kTaskElements,
                  [&](int64_t begin, int64_t end) HWY_ATTR {
                    float *p = params.data() + begin, *pm = m.empty() ? nullptr : m.data() + begin;
                    const float* pg = grads.data() + begin;
                    each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
                      const auto w = at.load(p + i);
                      auto g = clamp(hn::Mul(at.load(pg + i), scale), low, high);
                      g = hn::MulAdd(decay, w, g);
                      if (pm) {
                        g = hn::MulAdd(momentum, at.load(pm + i), g);
                        at.store(g, pm + i);
                      }
                      at.store(hn::NegMulAdd(rate, g, w), p + i);
                    });
                  });
}

// One grain: four chains of vectors of doubles.
double grain_sum_of_squares(const float* x, int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> df;
  const int64_t N = static_cast<int64_t>(hn::Lanes(d));
  hn::Vec<decltype(d)> acc[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
  int64_t i = 0;
  for (; i + 4 * N <= n; i += 4 * N) {
#pragma GCC unroll 4
    for (int64_t k = 0; k < 4; ++k) {
      const auto v = hn::PromoteTo(d, hn::LoadU(df, x + i + k * N));
      acc[k] = hn::MulAdd(v, v, acc[k]);
    }
  }
  double sum =
      hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(acc[0], acc[1]), hn::Add(acc[2], acc[3]))));
  for (; i < n; ++i) sum += double{x[i]} * x[i];
  return sum;
}

double sum_of_squares(std::span<const float> x) {
  // The partial sums of so many grains at a time.
  constexpr int64_t kGrains = 256;
  const int64_t n = static_cast<int64_t>(x.size()),
                grains = (n + kTaskElements - 1) / kTaskElements;
  double total = 0, part[kGrains];
  for (int64_t first = 0; first < grains; first += kGrains) {
    const int64_t count = std::min(kGrains, grains - first);
    parallel_for(count, [&](int64_t i) {
      const int64_t begin = (first + i) * kTaskElements;
      part[i] = grain_sum_of_squares(x.data() + begin, std::min(kTaskElements, n - begin));
    });
    for (int64_t i = 0; i < count; ++i) total += part[i];
  }
  return total;
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(adamw_step);
HWY_EXPORT(sgd_step);
HWY_EXPORT(sum_of_squares);

void adamw_step(std::span<float> params, std::span<const float> grads, std::span<float> m,
                std::span<float> v, const AdamwStep& s) {
  REFRAIN_CHECK(grads.size() == params.size() && m.size() == params.size() &&
                v.size() == params.size());
  REFRAIN_CHECK(s.step >= 1);
  HWY_DYNAMIC_DISPATCH(adamw_step)(params, grads, m, v, s);
}
void sgd_step(std::span<float> params, std::span<const float> grads, std::span<float> m,
              const SgdStep& s) {
  REFRAIN_CHECK(grads.size() == params.size());
  REFRAIN_CHECK(m.size() == (s.momentum > 0 ? params.size() : 0));
  HWY_DYNAMIC_DISPATCH(sgd_step)(params, grads, m, s);
}
double sum_of_squares(std::span<const float> x) { return HWY_DYNAMIC_DISPATCH(sum_of_squares)(x); }

}  // namespace refrain::kernels
#endif  // HWY_ONCE
