// Strict UTF-8: no overlong forms, no surrogates, nothing above U+10FFFF.
#pragma once
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace refrain {

// One decoded character. If it is not valid, `code` is U+FFFD and `bytes` is the number of bytes
// that this replacement stands for: the longest start of a character that could still have become
// valid (as Unicode advises, and as Python and Rust replace), at least 1.
struct CodePoint {
  char32_t code;
  uint32_t bytes;
  bool valid;
};

// The code point at the start of `text`, which is not empty.
inline CodePoint decode_utf8(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = byte(0);
  if (first < 0x80) return {first, 1, true};
  if (first < 0xC2 || first > 0xF4) return {0xFFFD, 1, false};
  const uint32_t length = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  // The range of the second byte is smaller after these four first bytes.
  const uint8_t low = first == 0xE0 ? 0xA0 : first == 0xF0 ? 0x90 : 0x80;
  const uint8_t high = first == 0xED ? 0x9F : first == 0xF4 ? 0x8F : 0xBF;
  if (text.size() < 2 || byte(1) < low || byte(1) > high) return {0xFFFD, 1, false};
  char32_t code = (first & (0x7Fu >> length)) << 6 | (byte(1) & 0x3Fu);
  for (uint32_t i = 2; i < length; ++i) {
    if (i >= text.size() || (byte(i) & 0xC0) != 0x80) return {0xFFFD, i, false};
    code = code << 6 | (byte(i) & 0x3Fu);
  }
  return {code, length, true};
}

// Appends a code point, which is neither a surrogate nor above U+10FFFF.
void append_utf8(std::string& text, char32_t code);

// The offset of the first invalid character; nothing if the text is valid.
std::optional<size_t> find_invalid_utf8(std::string_view text);

}  // namespace refrain
