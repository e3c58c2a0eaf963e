// The reference implementation of adamw.h, one parameter at a time.
#pragma once
#include <algorithm>
#include <cmath>

#include "refrain/kernels/elementwise/adamw.h"

namespace refrain::kernels {

template <class T>
void adamw_ref(T& param, T grad, T& m, T& v, const AdamwStep& s) {
  const double t = static_cast<double>(s.step);
  const T g = std::clamp<T>(grad * s.grad_scale, -s.clip_value, s.clip_value);
  m = s.beta1 * m + (1 - s.beta1) * g;
  v = s.beta2 * v + (1 - s.beta2) * g * g;
  const T rate = s.learning_rate * std::sqrt(1 - std::pow(s.beta2, t)) / (1 - std::pow(s.beta1, t));
  param -= rate * m / (std::sqrt(v) + s.eps) + s.learning_rate * s.weight_decay * param;
}

// m stays 0 without momentum.
template <class T>
void sgd_ref(T& param, T grad, T& m, const SgdStep& s) {
  const T g = std::clamp<T>(grad * s.grad_scale, -s.clip_value, s.clip_value);
  const T v = s.momentum * m + g + s.weight_decay * param;
  if (s.momentum > 0) m = v;
  param -= s.learning_rate * v;
}

}  // namespace refrain::kernels
