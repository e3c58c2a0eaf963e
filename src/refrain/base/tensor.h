// A view of a dense, row-major array: a pointer and a shape. It owns nothing; copying a view copies
// no data.
//
// The element type is part of the view's type. A kernel that takes bf16 operands is another
// overload, and nothing is converted by accident. Tensor is float; ConstTensor is read-only float
// (docs/decisions/0002-typed-views.md).
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <type_traits>

namespace refrain {

template <class T>
struct TensorOf {
  T* data = nullptr;
  std::array<int64_t, 4> dim{1, 1, 1, 1};
  int rank = 0;

  TensorOf() = default;
  TensorOf(T* data_, std::initializer_list<int64_t> shape) : data(data_) {
    for (int64_t d : shape) dim[static_cast<std::size_t>(rank++)] = d;
  }
  // A view for writing converts to a view for reading.
  template <class U>
  requires(std::is_same_v<T, const U> && !std::is_same_v<T, U>) TensorOf(const TensorOf<U>& other)
      : data(other.data), dim(other.dim), rank(other.rank) {}

  int64_t size() const {
    int64_t s = 1;
    for (int i = 0; i < rank; ++i) s *= dim[static_cast<std::size_t>(i)];
    return s;
  }
  int64_t cols() const {
    return rank ? dim[static_cast<std::size_t>(rank - 1)] : 1;
  }                                                 // last dimension
  int64_t rows() const { return size() / cols(); }  // all the others, flattened
  T* row(int64_t r) const { return data + r * cols(); }
  // Entries [first, first + count) of the first dimension.
  TensorOf slice(int64_t first, int64_t count) const {
    TensorOf part = *this;
    part.data += dim[0] ? first * (size() / dim[0]) : 0;
    part.dim[0] = count;
    return part;
  }
  T* begin() const { return data; }
  T* end() const { return data + size(); }
  explicit operator bool() const { return data != nullptr; }
};

using Tensor = TensorOf<float>;
using ConstTensor = TensorOf<const float>;

}  // namespace refrain
