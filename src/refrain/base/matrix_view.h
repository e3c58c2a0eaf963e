// A matrix that lies anywhere: element (i, j) is data[i * row_stride + j * col_stride]. So some
// columns of wider rows, rows at a distance and the transpose of a matrix are views as well. A view
// owns nothing; a tensor becomes one by itself, its last dimension being a row.
#pragma once
#include <cstdint>
#include <type_traits>

#include "refrain/base/tensor.h"

namespace refrain {

template <class T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0, cols = 0, row_stride = 0, col_stride = 1;

  MatrixView() = default;
  MatrixView(T* data_, int64_t rows_, int64_t cols_, int64_t row_stride_, int64_t col_stride_ = 1)
      : data(data_), rows(rows_), cols(cols_), row_stride(row_stride_), col_stride(col_stride_) {}
  // Rows one behind another.
  MatrixView(T* data_, int64_t rows_, int64_t cols_) : MatrixView(data_, rows_, cols_, cols_) {}
  // A view that writes is also a view that reads.
  template <class U>
  requires(std::is_same_v<T, const U>) MatrixView(const MatrixView<U>& other)
      : MatrixView(other.data, other.rows, other.cols, other.row_stride, other.col_stride) {}
  template <class U>
  requires(std::is_convertible_v<U*, T*>) MatrixView(const TensorOf<U>& tensor)
      : MatrixView(tensor.data, tensor.rows(), tensor.cols()) {}

  T* row(int64_t i) const { return data + i * row_stride; }
  T& at(int64_t i, int64_t j) const { return data[i * row_stride + j * col_stride]; }
  MatrixView row_range(int64_t first, int64_t count) const {
    return {row(first), count, cols, row_stride, col_stride};
  }
  MatrixView col_range(int64_t first, int64_t count) const {
    return {data + first * col_stride, rows, count, row_stride, col_stride};
  }
  MatrixView transposed() const { return {data, cols, rows, col_stride, row_stride}; }
  explicit operator bool() const { return data != nullptr; }
};

}  // namespace refrain
