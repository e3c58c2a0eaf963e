// The reference implementation of rms_norm.h, for any number type. Its complex step is the
// gradient.
#pragma once
#include <cmath>

#include "refrain/base/tensor.h"
#include "refrain/kernels/ref_math.h"

namespace refrain::kernels {

template <class T>
void rms_norm_ref(TensorOf<T> x, TensorOf<T> w, double eps, TensorOf<T> y, TensorOf<T> r) {
  const int64_t n = x.cols();
  for (int64_t row = 0; row < x.rows(); ++row) {
    T sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += x.row(row)[i] * x.row(row)[i];
    r.data[row] = 1.0 / std::sqrt(sum / static_cast<double>(n) + eps);
    for (int64_t i = 0; i < n; ++i) y.row(row)[i] = w.data[i] * x.row(row)[i] * r.data[row];
  }
}

}  // namespace refrain::kernels
