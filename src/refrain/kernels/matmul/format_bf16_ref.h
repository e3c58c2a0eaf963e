// Microkernel::block in plain loops: per group two sums, of the first and of the second of each
// pair, as the instruction TDPBF16PS defines it.
#pragma once
#include <bit>
#include <cstdint>

#include "refrain/kernels/matmul/format_bf16.h"

namespace refrain::kernels {

inline void bf16_block_ref(const float* a, const float* b, int64_t groups, float* c, int64_t c_row,
                           bool add) {
  const auto first = [](float pair) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(pair) << 16);
  };
  const auto second = [](float pair) {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(pair) & 0xffff0000u);
  };
  for (int64_t i = 0; i < kBf16Block; ++i)
    for (int64_t j = 0; j < kBf16Block; ++j) {
      float& to = c[i * c_row + j];
      if (!add) to = 0;
      for (int64_t g = 0; g < groups; ++g) {
        float even = 0, odd = 0;
        for (int64_t p = 0; p < 16; ++p) {
          const float x = a[g * kGroupPairs + i * 16 + p];
          const float y = b[g * kGroupPairs + (j / 16 * 16 + p) * 16 + j % 16];
          even += first(x) * first(y);
          odd += second(x) * second(y);
        }
        to += even + odd;
      }
    }
}

}  // namespace refrain::kernels
