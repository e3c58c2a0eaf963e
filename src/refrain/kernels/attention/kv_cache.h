// How a state keeps the keys and values of attention: as they are, or rounded, in fewer bytes.
//
//   f32    float32: 4 bytes a value
//   bf16   bfloat16 (kernels/matmul/bf16.h): 2 bytes
//   q8_0   blocks of 32 values with one scale: 34 bytes a block. s = float16(max |x| / 127),
//          q = round(x / s), an int8; the value is s q
//
// Blocks lie within a head's key or value. Where 32 does not divide the head's width, its last
// block has fewer values. In memory a head's key is the scales of its blocks, and then its values.
//
// Every value that a type has is a float32, s q too (18 bits). So to round and to read give the
// same bits, and what is attended to does not depend on whether it has been in a state. Values of
// q8_0 end at 127 * 65504; blocks that hold an infinity or NaN become NaN.
#pragma once
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string_view>

#include "refrain/base/matrix_view.h"

namespace refrain::kernels {

enum class CacheType { kFloat32, kBf16, kQ8_0 };

// "f32", "bf16" or "q8_0".
std::optional<CacheType> cache_type_named(std::string_view);
const char* name_of(CacheType);

inline constexpr int64_t kCacheBlock = 32;  // values of q8_0 that share a scale
inline int64_t cache_blocks(int64_t width) { return (width + kCacheBlock - 1) / kCacheBlock; }

// Bytes of a head's key, or value, of `width` numbers.
inline int64_t cache_bytes(CacheType type, int64_t width) {
  switch (type) {
    case CacheType::kFloat32:
      return 4 * width;
    case CacheType::kBf16:
      return 2 * width;
    case CacheType::kQ8_0:
      return 2 * cache_blocks(width) + width;
  }
  return 0;
}

// The largest step between neighbouring values of a type that rounds, as a share of the largest
// value of their block: what two roundings of nearly the same number can differ by. 0 for float32.
inline double cache_step(CacheType type) {
  if (type == CacheType::kFloat32) return 0;
  return type == CacheType::kBf16 ? 0x1p-7 : 1.0 / 127 + 0x1p-10;
}

// Rows of heads of `width` numbers, one after another: `stored` [rows, heads * cache_bytes].
void write_cache(CacheType, int64_t width, MatrixView<const float> rows, std::byte* stored);
void read_cache(CacheType, int64_t width, const std::byte* stored, MatrixView<float> rows);

// Scales of q8_0, in the bits of a float16: never negative, never infinite. What is too large is
// 65504; what is no finite number is NaN.
inline constexpr uint16_t kNanScale = 0x7e00;
inline uint16_t scale_bits(float x) {
  constexpr float kLargest = 65504, kSmallestNormal = 0x1p-14f;
  constexpr uint32_t kExponents = 127 - 15;  // the biases of both formats
  if (!(x <= std::numeric_limits<float>::max())) return kNanScale;
  if (x >= kLargest) return 0x7bff;
  if (x < kSmallestNormal) return static_cast<uint16_t>(std::nearbyint(x * 0x1p24f));
  const auto u = std::bit_cast<uint32_t>(x);
  return static_cast<uint16_t>(((u + 0xfff + (u >> 13 & 1)) >> 13) - (kExponents << 10));
}
inline float scale_of(uint16_t bits) {
  if (bits >= 0x7c00) return std::numeric_limits<float>::quiet_NaN();
  if (bits < 0x400) return static_cast<float>(bits) * 0x1p-24f;
  return std::bit_cast<float>((uint32_t{bits} << 13) + ((127u - 15u) << 23));
}

}  // namespace refrain::kernels
