// What reading and writing a GGUF file share.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "refrain/io/gguf/gguf.h"

namespace refrain::io {

inline constexpr std::string_view kGgufMagic = "GGUF";
inline constexpr uint32_t kGgufVersion = 3;
inline constexpr size_t kGgufAlignment = 32;

// Of values.
namespace gguf_value {
enum Type : uint32_t {
  kU8,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};
}  // namespace gguf_value

constexpr size_t gguf_align(size_t at, size_t alignment) {
  return (at + alignment - 1) / alignment * alignment;
}

const GgufTypeInfo* find_gguf_type(uint32_t id);  // null if the format has no such type

}  // namespace refrain::io
