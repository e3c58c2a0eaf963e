// IEEE 754's binary16: 1 sign, 5 exponent and 10 fraction bits.
#pragma once
#include <bit>
#include <cstdint>

namespace refrain {

struct Float16 {
  uint16_t bits;

  // The nearest, ties to even; what rounds beyond 65,504 becomes infinite, NaN stays NaN.
  static Float16 of(float x) {
    const auto u = std::bit_cast<uint32_t>(x);
    const auto sign = static_cast<uint16_t>(u >> 16 & 0x8000);
    const uint32_t magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) return {static_cast<uint16_t>(sign | 0x7e00)};
    if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
    if (magnitude < 0x38800000) {  // subnormal there: this sum rounds as it should
      const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
      return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000))};
    }
    const uint32_t odd = magnitude >> 13 & 1;
    return {static_cast<uint16_t>(sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13)};
  }
  explicit operator float() const {
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16;
    const uint32_t exponent = bits >> 10 & 0x1fu, fraction = bits & 0x3ffu;
    if (exponent == 0) {  // zero, or fraction * 2^-24
      const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
      return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
    }
    const uint32_t wide = exponent == 31 ? 255 : exponent + (127 - 15);  // 31: infinity or NaN
    return std::bit_cast<float>(sign | wide << 23 | fraction << 13);
  }
};

}  // namespace refrain
