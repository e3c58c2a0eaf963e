// The reference implementation of activation.h, for double and std::complex<double>. Its complex
// step is the gradient.
#pragma once
#include <cmath>
#include <numbers>

#include "refrain/base/tensor.h"
#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/ref_math.h"

namespace refrain::kernels {

// Φ of the standard normal. Near 0 its power series, 1/2 + φ(x) (x + x^3/3 + x^5/(3 5) + ...),
// whose terms have one sign; far out the continued fraction of the tail, φ(a) / (a + 1/(a + 2/(a +
// ...))).
template <class T>
T normal_distribution_ref(T x) {
  const T density = std::exp(-x * x / 2.0) / std::sqrt(2 * std::numbers::pi);
  if (std::abs(real_part(x)) < 3) {
    T term = x, sum = x;
    for (int k = 3; k < 160; k += 2) sum += term *= x * x / static_cast<double>(k);
    return 0.5 + density * sum;
  }
  const double sign = real_part(x) < 0 ? -1 : 1;
  const T a = sign * x;
  T fraction = a;
  for (int k = 200; k > 0; --k) fraction = a + static_cast<double>(k) / fraction;
  const T tail = density / fraction;
  return sign < 0 ? tail : 1.0 - tail;
}

// σ without overflow: the exponential is of a number <= 0.
template <class T>
T sigmoid_ref(T x) {
  if (real_part(x) < 0) return std::exp(x) / (1.0 + std::exp(x));
  return 1.0 / (1.0 + std::exp(-x));
}

// Functions of both precisions. Where the fast ones are clamped, the slope is 0.
template <class T>
T sigmoid_ref(T x, ActivationPrecision precision) {
  const bool clamped = precision == ActivationPrecision::kFast && std::abs(real_part(x)) > 88;
  return sigmoid_ref(clamped ? T(real_part(x) < 0 ? -88 : 88) : x);
}
template <class T>
T tanh_ref(T x, ActivationPrecision precision) {
  if (precision == ActivationPrecision::kAccurate) return std::tanh(x);
  if (std::abs(real_part(x)) > 3) return real_part(x) < 0 ? -1 : 1;
  return x * (27.0 + x * x) / (27.0 + 9.0 * x * x);
}
// tanh'(x) from y = tanh(x).
inline double tanh_slope_ref(double y, ActivationPrecision precision) {
  if (precision == ActivationPrecision::kAccurate) return 1 - y * y;
  const double p = std::cbrt(1 + y), q = std::cbrt(1 - y), x = 3 * (p - q) / (p + q);
  const double root = (9 - x * x) / (9 + 3 * x * x);
  return root * root;
}

template <class T>
T activation_ref(Activation f, T x, ActivationPrecision precision = {}) {
  switch (f) {
    case Activation::kSilu:
      return x * sigmoid_ref(x, precision);
    case Activation::kGelu:
      return x * normal_distribution_ref(x);
    case Activation::kGeluTanh:
      return x * sigmoid_ref(2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x),
                             precision);
    case Activation::kSigmoid:
      return sigmoid_ref(x, precision);
    case Activation::kTanh:
      return tanh_ref(x, precision);
    case Activation::kRelu:
      return real_part(x) > 0 ? x : T(0);
  }
  return x;
}

template <class T>
void swiglu_ref(TensorOf<T> gate_up, TensorOf<T> out, ActivationPrecision precision = {}) {
  const int64_t n = out.cols();
  for (int64_t row = 0; row < out.rows(); ++row)
    for (int64_t i = 0; i < n; ++i)
      out.row(row)[i] = activation_ref(Activation::kSilu, gate_up.row(row)[i], precision) *
                        gate_up.row(row)[n + i];
}

}  // namespace refrain::kernels
