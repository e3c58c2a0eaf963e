#include "refrain/base/utf8.h"

#include <cstring>

#include "refrain/base/error.h"

namespace refrain {

void append_utf8(std::string& text, char32_t code) {
  REFRAIN_CHECK(code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF));
  const auto put = [&](char32_t byte) { text.push_back(static_cast<char>(byte)); };
  if (code < 0x80) {
    put(code);
  } else if (code < 0x800) {
    put(0xC0 | code >> 6);
    put(0x80 | (code & 0x3F));
  } else if (code < 0x10000) {
    put(0xE0 | code >> 12);
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  } else {
    put(0xF0 | code >> 18);
    put(0x80 | (code >> 12 & 0x3F));
    put(0x80 | (code >> 6 & 0x3F));
    put(0x80 | (code & 0x3F));
  }
}

std::optional<size_t> find_invalid_utf8(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t eight = 0x80;
    if (text.size() - at >= 8) std::memcpy(&eight, text.data() + at, 8);
    if (!(eight & 0x8080808080808080u)) {  // eight ASCII characters at once
      at += 8;
      continue;
    }
    const CodePoint next = decode_utf8(text.substr(at));
    if (!next.valid) return at;
    at += next.bytes;
  }
  return {};
}

}  // namespace refrain
