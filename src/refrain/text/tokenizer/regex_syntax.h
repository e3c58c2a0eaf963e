// The regular expressions of tokenizer.json are Oniguruma's. Here they are written so that PCRE2
// matches the same: white space and words by Unicode, scripts without their extensions, numbers of
// repetitions. What the two read differently otherwise is refused by name.
//
//   \s \S      Unicode's White_Space (PCRE2's has U+180E besides)
//   \w \W \b   letters, marks, decimal digits, connectors and the numbers of Latin-1 (PCRE2's has
//   no
//              marks and all numbers)
//   \p{Han}    the script (PCRE2's has characters of several scripts besides)
//   ( )        groups without numbers; (?: ) (?i: ) (?> ), looking ahead and behind
//
// Refused: \W and \B in a class, classes in classes, {n}+ (which is not possessive there), named
// groups, references, conditions, \K, POSIX classes, comments; letters in (?i: ) that equal several
// others ("ss" and U+00DF), and there categories by case (\p{Lu}).
#pragma once
#include <string>
#include <string_view>

namespace refrain::text {

// `where` is the pattern's place in errors.
std::string to_pcre2(std::string_view pattern, const std::string& where);

}  // namespace refrain::text
