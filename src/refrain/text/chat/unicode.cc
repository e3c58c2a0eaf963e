#include "refrain/text/chat/unicode.h"

#include <algorithm>
#include <iterator>
#include <span>

#include "refrain/base/utf8.h"
#include "refrain/text/tokenizer/unicode_forms.h"

namespace refrain::text::unicode {
namespace {

struct Range {
  char32_t first, last;
};
struct Expansion {
  char32_t code;
  char32_t to[3];  // zero: no character
};

#include "refrain/text/chat/unicode_tables.inc"

template <size_t n>
bool in(const Range (&ranges)[n], char32_t code) {
  const auto* at = std::upper_bound(std::begin(ranges), std::end(ranges), code,
                                    [](char32_t c, const Range& range) { return c < range.first; });
  return at != std::begin(ranges) && code <= std::prev(at)->last;
}

// A character becomes several, or what utf8proc says.
struct CaseTable {
  std::span<const Expansion> more;
  char32_t (*one)(char32_t);

  void append(std::string& to, char32_t code) const {
    const auto at = std::ranges::lower_bound(more, code, {}, &Expansion::code);
    if (at == more.end() || at->code != code) return append_utf8(to, one(code));
    for (const char32_t c : at->to)
      if (c) append_utf8(to, c);
  }
};

const CaseTable kUpperCase = {kToUpperMore, to_upper};
const CaseTable kLowerCase = {kToLowerMore, to_lower};
const CaseTable kTitleCase = {kToTitleMore, to_title};

constexpr char32_t kSigma = 0x3A3, kSmallSigma = 0x3C3, kFinalSigma = 0x3C2;

// Whether the Σ at `at` ends a word: a cased character before it, none behind it, past those that
// the rule ignores.
bool is_final_sigma(std::string_view text, size_t at) {
  bool before = false;
  for (size_t i = at; i > 0;) {
    do --i;
    while (i > 0 && (static_cast<unsigned char>(text[i]) & 0xC0) == 0x80);
    const char32_t code = decode_utf8(text.substr(i)).code;
    if (in(kCaseIgnorable, code)) continue;
    before = is_cased(code);
    break;
  }
  if (!before) return false;
  for (size_t i = at + 2; i < text.size();) {
    const CodePoint next = decode_utf8(text.substr(i));
    i += next.bytes;
    if (in(kCaseIgnorable, next.code)) continue;
    return !is_cased(next.code);
  }
  return true;
}

void append_lower(std::string& to, std::string_view text, size_t at, char32_t code) {
  if (code < 0x80) {
    to.push_back(static_cast<char>(code >= 'A' && code <= 'Z' ? code + 32 : code));
  } else if (code == kSigma) {
    append_utf8(to, is_final_sigma(text, at) ? kFinalSigma : kSmallSigma);
  } else {
    kLowerCase.append(to, code);
  }
}

// f(to, at, code) of every character.
template <class F>
std::string each(std::string_view text, F f) {
  std::string to;
  to.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint next = decode_utf8(text.substr(at));
    f(to, at, next.code);
    at += next.bytes;
  }
  return to;
}

}  // namespace

bool is_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 ||
         code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}
bool is_printable(char32_t code) { return in(kPrintable, code); }
bool is_alpha(char32_t code) { return in(kAlpha, code); }
bool is_decimal(char32_t code) { return in(kDecimal, code); }
bool is_digit(char32_t code) { return in(kDigit, code); }
bool is_numeric(char32_t code) { return in(kNumeric, code); }
bool is_upper(char32_t code) { return in(kUpper, code); }
bool is_lower(char32_t code) { return in(kLower, code); }
bool is_cased(char32_t code) { return in(kCased, code); }

int decimal_value(char32_t code) {
  for (const Range& range : kDecimal)  // runs of ten, some of them side by side
    if (code >= range.first && code <= range.last) return static_cast<int>(code - range.first) % 10;
  return -1;
}

std::string upper(std::string_view text) {
  return each(text, [](std::string& to, size_t, char32_t code) { kUpperCase.append(to, code); });
}

std::string lower(std::string_view text) {
  return each(text,
              [&](std::string& to, size_t at, char32_t code) { append_lower(to, text, at, code); });
}

std::string title(std::string_view text) {
  bool in_word = false;
  return each(text, [&](std::string& to, size_t at, char32_t code) {
    if (in_word) {
      append_lower(to, text, at, code);
    } else {
      kTitleCase.append(to, code);
    }
    in_word = is_cased(code);
  });
}

std::string capitalize(std::string_view text) {
  return each(text, [&](std::string& to, size_t at, char32_t code) {
    if (at) {
      append_lower(to, text, at, code);
    } else {
      kTitleCase.append(to, code);
    }
  });
}

std::string swapcase(std::string_view text) {
  return each(text, [&](std::string& to, size_t at, char32_t code) {
    if (is_upper(code)) {
      append_lower(to, text, at, code);
    } else if (is_lower(code)) {
      kUpperCase.append(to, code);
    } else {
      append_utf8(to, code);
    }
  });
}

}  // namespace refrain::text::unicode
