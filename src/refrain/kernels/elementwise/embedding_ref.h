// The reference implementation of embedding.h, for any number type. Its complex step is the
// gradient.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/tensor.h"

namespace refrain::kernels {

template <class T>
void embedding_ref(std::span<const int32_t> tokens, TensorOf<T> table, TensorOf<T> out) {
  for (int64_t row = 0; row < out.rows(); ++row)
    for (int64_t i = 0; i < out.cols(); ++i)
      out.row(row)[i] = table.row(tokens[static_cast<size_t>(row)])[i];
}

}  // namespace refrain::kernels
