// The reference implementation of cross_entropy.h, for any number type. Its complex step is the
// gradient.
#pragma once
#include <algorithm>
#include <cmath>
#include <limits>
#include <span>

#include "refrain/base/tensor.h"
#include "refrain/kernels/loss/cross_entropy.h"
#include "refrain/kernels/ref_math.h"

namespace refrain::kernels {

template <class T>
void log_softmax_ref(TensorOf<T> x, TensorOf<T> log_p) {
  const int64_t n = x.cols();
  for (int64_t row = 0; row < x.rows(); ++row) {
    T top = -std::numeric_limits<double>::infinity();
    for (int64_t i = 0; i < n; ++i) top = higher(top, x.row(row)[i]);
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += std::exp(x.row(row)[i] - top);
    for (int64_t i = 0; i < n; ++i) log_p.row(row)[i] = x.row(row)[i] - top - std::log(sum);
  }
}

// losses of softmax_cross_entropy, from log p; plain nll without smoothing.
template <class T>
void cross_entropy_ref(TensorOf<T> log_p, std::span<const int32_t> targets, double label_smoothing,
                       TensorOf<T> losses) {
  const int64_t n = log_p.cols();
  for (int64_t row = 0; row < log_p.rows(); ++row) {
    losses.data[row] = 0;
    const int32_t target = targets[static_cast<size_t>(row)];
    if (target == kIgnored) continue;
    for (int64_t i = 0; i < n; ++i) {
      const double q =
          (i == target ? 1 - label_smoothing : 0) + label_smoothing / static_cast<double>(n);
      losses.data[row] -= q * log_p.row(row)[i];
    }
  }
}

}  // namespace refrain::kernels
