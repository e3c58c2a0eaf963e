// The reference implementation of dropout.h, for any number type.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/random.h"
#include "refrain/base/tensor.h"

namespace refrain::kernels {

template <class T>
void dropout_ref(TensorOf<T> x, float p, uint64_t key, std::span<const uint64_t> row_ids) {
  for (int64_t row = 0; row < x.rows(); ++row) {
    const uint64_t id = row_ids[static_cast<size_t>(row)];
    for (int64_t j = 0; j < x.cols(); ++j) {
      const auto words = philox({static_cast<uint32_t>(id), static_cast<uint32_t>(id >> 32),
                                 static_cast<uint32_t>(j / 4), 0},
                                key);
      T& v = x.row(row)[j];
      v = to_unit(words[static_cast<size_t>(j % 4)]) >= p ? v * (1 / (1 - double{p})) : 0.0;
    }
  }
}

}  // namespace refrain::kernels
