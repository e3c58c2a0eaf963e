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

template <class T>
T activation_ref(Activation f, T x) {
  switch (f) {
    case Activation::kSilu:
      return x * sigmoid_ref(x);
    case Activation::kGelu:
      return x * normal_distribution_ref(x);
    case Activation::kGeluTanh:
      return x * sigmoid_ref(2 * std::sqrt(2 / std::numbers::pi) * (x + 0.044715 * x * x * x));
    case Activation::kSigmoid:
      return sigmoid_ref(x);
    case Activation::kTanh:
      return std::tanh(x);
  }
  return x;
}

template <class T>
void swiglu_ref(TensorOf<T> gate_up, TensorOf<T> out) {
  const int64_t n = out.cols();
  for (int64_t row = 0; row < out.rows(); ++row)
    for (int64_t i = 0; i < n; ++i)
      out.row(row)[i] =
          activation_ref(Activation::kSilu, gate_up.row(row)[i]) * gate_up.row(row)[n + i];
}

}  // namespace refrain::kernels
