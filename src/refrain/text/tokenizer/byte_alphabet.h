// GPT-2's alphabet of bytes: every byte has a visible character, so a vocabulary of byte strings
// can be written as text. Printable bytes of Latin-1 stand for themselves. The others get, in
// order, the characters from U+0100 on (a space is U+0120).
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace refrain::text {

std::string byte_character(uint8_t byte);  // UTF-8

// All bytes in the order of their characters: the order in which vocabularies list them.
std::array<uint8_t, 256> bytes_by_character();

// The bytes that `text` stands for; nothing if it has a character outside the alphabet.
std::optional<std::string> bytes_of(std::string_view text);

}  // namespace refrain::text
