// Parts of the norm of a row (rms_norm.h), for kernels that do it together with other work on the
// row. Included once per SIMD target.
#if defined(REFRAIN_KERNELS_RMS_NORM_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_RMS_NORM_INL_H_
#undef REFRAIN_KERNELS_RMS_NORM_INL_H_
#else
#define REFRAIN_KERNELS_RMS_NORM_INL_H_
#endif

#include <algorithm>
#include <cmath>
#include <limits>

#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// r of a row from the sum of its squares in float32, made again in double where a square left its
// range. Finite for zeros, too, whatever eps is.
HWY_INLINE float inverse_rms(const float* x, double sum_of_squares, int64_t n, float eps) {
  constexpr double kHigh = 0x1p126, kLow = 0x1p-80;
  if (!(sum_of_squares < kHigh) || (sum_of_squares < kLow && double{eps} < kLow)) {
    sum_of_squares = 0;
    for (int64_t i = 0; i < n; ++i) sum_of_squares += double{x[i]} * double{x[i]};
  }
  const double r = 1 / std::sqrt(sum_of_squares / static_cast<double>(n) + eps);
  return static_cast<float>(std::min(r, double{std::numeric_limits<float>::max()}));
}

HWY_INLINE float inverse_rms(const float* x, int64_t n, float eps) {
  const double sum = sum_each(n, [&](auto at, int64_t i, FloatVec acc) HWY_ATTR {
    const auto v = at.load(x + i);
    return hn::MulAdd(v, v, acc);
  });
  return inverse_rms(x, sum, n, eps);
}

HWY_INLINE void scale_row(const float* x, const float* w, float r, int64_t n, float* y) {
  const auto scale = hn::Set(FloatTag(), r);
  each(n, [&](auto at, int64_t i) HWY_ATTR {
    at.store(hn::Mul(at.load(w + i), hn::Mul(at.load(x + i), scale)), y + i);
  });
}

// In double, for rows whose squares float32 does not have.
template <bool kAdd>
void far_input_gradient(const float* x, const float* w, float r, const float* dy, int64_t n,
                        float* dx) {
  double dot = 0;
  for (int64_t i = 0; i < n; ++i) dot += double{w[i]} * double{dy[i]} * (double{x[i]} * r);
  const double back = dot / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) {
    const double g = r * (double{w[i]} * double{dy[i]} - double{x[i]} * r * back);
    dx[i] = static_cast<float>(kAdd ? dx[i] + g : g);
  }
}

template <bool kAdd>
HWY_INLINE void input_gradient(const float* x, const float* w, float r, const float* dy, int64_t n,
                               float* dx) {
  constexpr float kHigh = 0x1p40f, kLow = 0x1p-40f;
  if (r > kHigh || r < kLow) return far_input_gradient<kAdd>(x, w, r, dy, n, dx);
  const double dot = sum_each(n, [&](auto at, int64_t i, FloatVec acc) HWY_ATTR {
    return hn::MulAdd(hn::Mul(at.load(w + i), at.load(dy + i)), at.load(x + i), acc);
  });
  const double s = r;
  const auto back =
      hn::Set(FloatTag(), static_cast<float>(dot * s * s * s / static_cast<double>(n)));
  const auto scale = hn::Set(FloatTag(), r);
  each(n, [&](auto at, int64_t i) HWY_ATTR {
    const auto through = hn::Mul(hn::Mul(at.load(w + i), at.load(dy + i)), scale);
    const auto g = hn::NegMulAdd(at.load(x + i), back, through);
    at.store(kAdd ? hn::Add(at.load(dx + i), g) : g, dx + i);
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
