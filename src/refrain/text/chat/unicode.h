// What Python's str methods know of characters: properties and changes of case, with the tables of
// its unicodedata. Texts are valid UTF-8.
#pragma once
#include <string>
#include <string_view>

namespace refrain::text::unicode {

bool is_space(char32_t code);  // also what \s matches
bool is_printable(char32_t code);
bool is_alpha(char32_t code);
bool is_decimal(char32_t code);
bool is_digit(char32_t code);
bool is_numeric(char32_t code);
bool is_upper(char32_t code);
bool is_lower(char32_t code);
bool is_cased(char32_t code);
int decimal_value(char32_t code);  // of a decimal: 0 to 9
inline bool is_alnum(char32_t code) { return is_alpha(code) || is_numeric(code); }

// One character may become up to three; Σ at the end of a word becomes ς.
std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);
std::string capitalize(std::string_view text);
std::string swapcase(std::string_view text);

}  // namespace refrain::text::unicode
