// Unicode's normalization forms and changes of case, by utf8proc.
//
// Most text is in these forms already. A character is inert if it is alone in its form whatever
// stands beside it; what is between two inert characters, and the first of them, is normalized on
// its own, and texts of inert characters are left alone. Bytes that are not UTF-8 stay as they are.
#pragma once
#include <string>
#include <string_view>

namespace refrain::text {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// Writes the text's form to `out`; false, and `out` untouched, if that is the text itself.
bool to_unicode_form(UnicodeForm form, std::string_view text, std::string& out);

// The same of lower case, a character at a time.
bool to_lower_case(std::string_view text, std::string& out);

// Of one character to one (simple case mappings).
char32_t to_upper(char32_t code);
char32_t to_lower(char32_t code);
char32_t to_title(char32_t code);

}  // namespace refrain::text
