#include "refrain/formats/gguf/blocks.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "refrain/base/error.h"
#include "refrain/base/float16.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/storage/storage_ref.h"

namespace refrain {
namespace {

using io::GgufType;
using kernels::Q4Block;
using kernels::Q8Block;

// A block's bytes.
class Bytes {
 public:
  explicit Bytes(const std::byte* at) : at_(at) {}
  uint8_t operator[](size_t i) const { return static_cast<uint8_t>(at_[i]); }
  Float16 half(size_t at) const {
    return {static_cast<uint16_t>((*this)[at] | (*this)[at + 1] << 8)};
  }
  float real(size_t at) const { return static_cast<float>(half(at)); }
  Bytes from(size_t at) const { return Bytes(at_ + at); }

 private:
  const std::byte* at_;
};

// 32 integers of 4 bits, of 16 bytes.
int nibble(Bytes q, size_t i) { return i < 16 ? q[i] & 15 : q[i - 16] >> 4; }
// The fifth bit of each of 32, of 4 bytes.
int fifth_bit(Bytes bits, size_t i) { return (bits[i / 8] >> (i % 8) & 1) << 4; }

void read_q4_0(Bytes block, float* to) {
  for (size_t i = 0; i < 32; ++i)
    to[i] = block.real(0) * static_cast<float>(nibble(block.from(2), i) - 8);
}
void read_q4_1(Bytes block, float* to) {
  for (size_t i = 0; i < 32; ++i)
    to[i] = block.real(0) * static_cast<float>(nibble(block.from(4), i)) + block.real(2);
}
void read_q5_0(Bytes block, float* to) {
  for (size_t i = 0; i < 32; ++i) {
    const int q = nibble(block.from(6), i) | fifth_bit(block.from(2), i);
    to[i] = block.real(0) * static_cast<float>(q - 16);
  }
}
void read_q5_1(Bytes block, float* to) {
  for (size_t i = 0; i < 32; ++i) {
    const int q = nibble(block.from(8), i) | fifth_bit(block.from(4), i);
    to[i] = block.real(0) * static_cast<float>(q) + block.real(2);
  }
}
void read_q8_0(Bytes block, float* to) {
  for (size_t i = 0; i < 32; ++i)
    to[i] = block.real(0) * static_cast<float>(static_cast<int8_t>(block[2 + i]));
}

struct ScaleAndMinimum {
  int scale, minimum;
};
// Of part `i` of 8; the parts from 4 on have the upper two of their 6 bits beside the others.
ScaleAndMinimum sixes(Bytes packed, size_t i) {
  if (i < 4) return {packed[i] & 63, packed[i + 4] & 63};
  return {(packed[i + 4] & 15) | (packed[i - 4] >> 6) << 4, packed[i + 4] >> 4 | (packed[i] >> 6)
                                                                                     << 4};
}

void read_q4_k_or_q5_k(Bytes block, bool has_fifth_bits, float* to) {
  const Bytes fifth = block.from(16), q = block.from(has_fifth_bits ? 48 : 16);
  for (size_t part = 0; part < 8; ++part) {
    const auto [scale, minimum] = sixes(block.from(4), part);
    const float d = block.real(0) * static_cast<float>(scale);
    const float m = block.real(2) * static_cast<float>(minimum);
    for (size_t i = 0; i < 32; ++i) {
      const uint8_t both = q[part / 2 * 32 + i];
      int number = part % 2 == 0 ? both & 15 : both >> 4;
      if (has_fifth_bits) number |= (fifth[i] >> part & 1) << 4;
      to[part * 32 + i] = d * static_cast<float>(number) - m;
    }
  }
}
void read_q4_k(Bytes block, float* to) { read_q4_k_or_q5_k(block, false, to); }
void read_q5_k(Bytes block, float* to) { read_q4_k_or_q5_k(block, true, to); }

void read_q6_k(Bytes block, float* to) {
  const Bytes upper = block.from(128), scales = block.from(192);
  const float d = block.real(208);
  for (size_t i = 0; i < 256; ++i) {
    // 128 numbers are four runs of 32: run 0 and 2 share 32 bytes of low bits, 1 and 3 as well, and
    // all four share 32 bytes of high bits.
    const size_t half = i / 128, run = i / 32 % 4, at = i % 32;
    const uint8_t both = block[half * 64 + run % 2 * 32 + at];
    const int low = run < 2 ? both & 15 : both >> 4;
    const int high = upper[half * 32 + at] >> (2 * run) & 3;
    const auto scale = static_cast<int8_t>(scales[i / 16]);
    to[i] = d * static_cast<float>(scale) * static_cast<float>((low | high << 4) - 32);
  }
}

void read_f32(Bytes block, float* to) {
  uint32_t bits = 0;
  for (size_t i = 0; i < 4; ++i) bits |= uint32_t{block[i]} << (8 * i);
  *to = std::bit_cast<float>(bits);
}
void read_f16(Bytes block, float* to) { *to = block.real(0); }
void read_bf16(Bytes block, float* to) { *to = static_cast<float>(BFloat16{block.half(0).bits}); }

using ReadBlock = void(Bytes, float*);
ReadBlock* reader_of(GgufType type) {
  switch (type) {
    case GgufType::kF32:
      return read_f32;
    case GgufType::kF16:
      return read_f16;
    case GgufType::kBf16:
      return read_bf16;
    case GgufType::kQ4_0:
      return read_q4_0;
    case GgufType::kQ4_1:
      return read_q4_1;
    case GgufType::kQ5_0:
      return read_q5_0;
    case GgufType::kQ5_1:
      return read_q5_1;
    case GgufType::kQ8_0:
      return read_q8_0;
    case GgufType::kQ4_K:
      return read_q4_k;
    case GgufType::kQ5_K:
      return read_q5_k;
    case GgufType::kQ6_K:
      return read_q6_k;
  }
  return nullptr;
}

// f(bytes of block b), of every block.
template <class F>
void each_block(GgufType type, std::span<const std::byte> from, size_t blocks, F&& f) {
  const size_t bytes = io::gguf_type_info(type).bytes;
  REFRAIN_CHECK(from.size() == blocks * bytes);
  for (size_t b = 0; b < blocks; ++b) f(b, Bytes(from.data() + b * bytes));
}

void put(uint16_t bits, std::byte* to) { std::memcpy(to, &bits, sizeof(bits)); }

void write_q8_0(kernels::BlockOfFloats x, std::byte* to) {
  const Q8Block block = kernels::quantise_q8_0(x);
  put(block.d.bits, to);
  std::memcpy(to + 2, block.q.data(), block.q.size());
}

// The number that is largest without its sign becomes -8.
void write_q4_0(kernels::BlockOfFloats x, std::byte* to) {
  float largest = x[0];
  for (const float v : x)
    if (std::abs(v) > std::abs(largest)) largest = v;
  const float d = largest / -8, inverse = d != 0 ? 1 / d : 0;
  const auto q = [&](size_t i) {
    const float shifted = x[i] * inverse + 8.5f;
    return static_cast<uint8_t>(shifted >= 0 ? std::min(15.0f, shifted) : 0.0f);  // NaN: 0
  };
  put(Float16::of(d).bits, to);
  for (size_t i = 0; i < 16; ++i) to[2 + i] = static_cast<std::byte>(q(i) | q(i + 16) << 4);
}

}  // namespace

bool is_readable(GgufType type) { return reader_of(type) != nullptr; }

void dequantise(GgufType type, std::span<const std::byte> blocks, std::span<float> to) {
  ReadBlock* const read = reader_of(type);
  REFRAIN_CHECK(read != nullptr);
  const auto numbers = static_cast<size_t>(io::gguf_type_info(type).numbers);
  if (type == GgufType::kF32 && blocks.size() == to.size_bytes()) {
    if (!to.empty()) std::memcpy(to.data(), blocks.data(), blocks.size());
    return;
  }
  each_block(type, blocks, to.size() / numbers,
             [&](size_t b, Bytes block) { read(block, to.data() + b * numbers); });
}

void read_blocks(GgufType type, std::span<const std::byte> from, std::span<Q8Block> to) {
  REFRAIN_CHECK(type == GgufType::kQ8_0);
  each_block(type, from, to.size(), [&](size_t b, Bytes block) {
    to[b].d = block.half(0);
    for (size_t i = 0; i < 32; ++i) to[b].q[i] = static_cast<int8_t>(block[2 + i]);
  });
}

void read_blocks(GgufType type, std::span<const std::byte> from, std::span<Q4Block> to) {
  REFRAIN_CHECK(type == GgufType::kQ4_0 || type == GgufType::kQ4_1);
  const bool has_minimum = type == GgufType::kQ4_1;
  each_block(type, from, to.size(), [&](size_t b, Bytes block) {
    to[b].d = block.half(0);
    to[b].m = has_minimum ? block.half(2) : Float16::of(-8 * block.real(0));
    for (size_t i = 0; i < 32; ++i)
      to[b].q[i] = static_cast<uint8_t>(nibble(block.from(has_minimum ? 4 : 2), i));
  });
}

void quantise(GgufType type, std::span<const float> from, std::span<std::byte> to) {
  const io::GgufTypeInfo& info = io::gguf_type_info(type);
  const auto numbers = static_cast<size_t>(info.numbers);
  REFRAIN_CHECK(from.size() % numbers == 0 && to.size() == from.size() / numbers * info.bytes);
  for (size_t i = 0; i < from.size(); i += numbers) {
    std::byte* const block = to.data() + i / numbers * info.bytes;
    switch (type) {
      case GgufType::kF32:
        std::memcpy(block, &from[i], sizeof(float));
        break;
      case GgufType::kF16:
        put(Float16::of(from[i]).bits, block);
        break;
      case GgufType::kBf16:
        put(BFloat16::of(from[i]).bits, block);
        break;
      case GgufType::kQ8_0:
        write_q8_0(kernels::BlockOfFloats(&from[i], numbers), block);
        break;
      case GgufType::kQ4_0:
        write_q4_0(kernels::BlockOfFloats(&from[i], numbers), block);
        break;
      default:
        REFRAIN_CHECK(false && "a type that is written");
    }
  }
}

}  // namespace refrain
