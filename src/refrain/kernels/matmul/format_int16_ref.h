// multiply_int16() in plain loops, element by element. `fused`: whether the instruction set at hand
// rounds a product and a sum together.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>

#include "refrain/base/matrix_view.h"
#include "refrain/kernels/matmul/format_int16.h"

namespace refrain::kernels {

// n numbers, `step` apart: the integer i-th and the scale they share.
struct Int16Group {
  const float* data;
  int64_t step, n;
  int32_t largest;
  bool fused;

  float magnitude() const {
    float most = 0;
    for (int64_t i = 0; i < n; ++i) most = std::max(most, std::abs(data[i * step]));
    return most;
  }
  float scale() const {
    return magnitude() > 0x1p-100f ? magnitude() / static_cast<float>(largest) : 0;
  }
  int64_t integer(int64_t i) const {
    if (scale() == 0) return 0;
    const float inverse = static_cast<float>(largest) / magnitude(), x = data[i * step];
    const double product = fused ? static_cast<double>(x) * static_cast<double>(inverse)
                                 : static_cast<double>(x * inverse);
    return static_cast<int64_t>(std::nearbyint(product));
  }
};

// c + A B of one row and one column.
inline float multiply_int16_ref(MatrixView<const float> a, MatrixView<const float> b, float c,
                                std::span<const int32_t> cu_seqlens, bool fused) {
  const int64_t K = a.cols;
  const int64_t most = cu_seqlens.empty() ? kInt16Features : kInt16Rows;
  const int32_t largest = int16_largest(most), whole[] = {0, static_cast<int32_t>(K)};
  if (cu_seqlens.empty()) cu_seqlens = whole;
  for (size_t p = 0; p + 1 < cu_seqlens.size(); ++p)
    for (int64_t k = cu_seqlens[p]; k < cu_seqlens[p + 1]; k += most) {
      const int64_t n = std::min<int64_t>(most, cu_seqlens[p + 1] - k);
      const Int16Group x{&a.at(0, k), a.col_stride, n, largest, fused};
      const Int16Group y{&b.at(k, 0), b.row_stride, n, largest, fused};
      int64_t sum = 0;
      for (int64_t m = 0; m < n; ++m) sum += x.integer(m) * y.integer(m);
      const float scale = x.scale() * y.scale();
      c = fused ? std::fma(static_cast<float>(sum), scale, c) : c + static_cast<float>(sum) * scale;
    }
  return c;
}

}  // namespace refrain::kernels
