#include "refrain/text/tokenizer/byte_alphabet.h"

#include <algorithm>
#include <numeric>

#include "refrain/base/utf8.h"

namespace refrain::text {
namespace {

struct Alphabet {
  std::array<char32_t, 256> character;
  std::array<int, 256 + 68> byte;  // -1 where the character is not of the alphabet
};

Alphabet make_alphabet() {
  Alphabet alphabet;
  alphabet.byte.fill(-1);
  char32_t next = 256;
  for (int b = 0; b < 256; ++b) {
    const bool printable = (b > 0x20 && b < 0x7F) || (b > 0xA0 && b != 0xAD);
    const char32_t character = printable ? static_cast<char32_t>(b) : next++;
    alphabet.character[static_cast<size_t>(b)] = character;
    alphabet.byte[character] = b;
  }
  return alphabet;
}

const Alphabet& alphabet() {
  static const Alphabet made = make_alphabet();
  return made;
}

}  // namespace

std::string byte_character(uint8_t byte) {
  std::string text;
  append_utf8(text, alphabet().character[byte]);
  return text;
}

std::array<uint8_t, 256> bytes_by_character() {
  std::array<uint8_t, 256> bytes;
  std::iota(bytes.begin(), bytes.end(), uint8_t{0});
  std::sort(bytes.begin(), bytes.end(),
            [](uint8_t a, uint8_t b) { return alphabet().character[a] < alphabet().character[b]; });
  return bytes;
}

std::optional<std::string> bytes_of(std::string_view text) {
  std::string bytes;
  while (!text.empty()) {
    const CodePoint next = decode_utf8(text);
    const int byte =
        next.valid && next.code < alphabet().byte.size() ? alphabet().byte[next.code] : -1;
    if (byte < 0) return {};
    bytes.push_back(static_cast<char>(byte));
    text.remove_prefix(next.bytes);
  }
  return bytes;
}

}  // namespace refrain::text
