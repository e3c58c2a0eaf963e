// bfloat16: the upper half of a float32, rounded to nearest, ties to even. NaN stays NaN; what
// rounds beyond the largest becomes infinite.
#pragma once
#include <bit>
#include <cstdint>

#include "refrain/base/tensor.h"

namespace refrain {

struct BFloat16 {
  uint16_t bits;

  static BFloat16 of(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    if ((u & 0x7fffffff) > 0x7f800000) return {static_cast<uint16_t>(u >> 16 | 0x40)};
    return {static_cast<uint16_t>((u + 0x7fff + (u >> 16 & 1)) >> 16)};
  }
  explicit operator float() const { return std::bit_cast<float>(uint32_t{bits} << 16); }
};

namespace kernels {

// x becomes the nearest values that bfloat16 has; `bf16` takes them as such.
void round_to_bf16(Tensor x);
void round_to_bf16(Tensor x, TensorOf<BFloat16> bf16);
void to_float(TensorOf<const BFloat16> x, Tensor y);

}  // namespace kernels
}  // namespace refrain
