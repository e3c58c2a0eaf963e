// The reference implementation of those functions of reduce.h that are more than a line, for any
// number type.
#pragma once
#include "refrain/base/tensor.h"

namespace refrain::kernels {

template <class T>
void column_sum_ref(TensorOf<T> dy, TensorOf<T> db) {
  for (int64_t row = 0; row < dy.rows(); ++row)
    for (int64_t j = 0; j < dy.cols(); ++j) db.data[j] += dy.row(row)[j];
}

template <class T>
void center_rows_ref(TensorOf<T> x, TensorOf<T> y) {
  for (int64_t row = 0; row < x.rows(); ++row) {
    T mean = 0;
    for (int64_t j = 0; j < x.cols(); ++j) mean += x.row(row)[j] / static_cast<double>(x.cols());
    for (int64_t j = 0; j < x.cols(); ++j) y.row(row)[j] = x.row(row)[j] - mean;
  }
}

}  // namespace refrain::kernels
