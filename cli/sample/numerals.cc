#include "cli/sample/numerals.h"

#include <fmt/format.h>

#include <array>
#include <string_view>

#include "refrain/base/error.h"

namespace refrain::cli {
namespace {

constexpr std::array<std::string_view, 20> kOnes = {
    "zero",     "one",     "two",     "three",     "four",     "five",    "six",
    "seven",    "eight",   "nine",    "ten",       "eleven",   "twelve",  "thirteen",
    "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"};
constexpr std::array<std::string_view, 10> kTens = {
    "", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"};
constexpr std::array<std::string_view, 20> kOrdinals = {
    "",           "first",     "second",    "third",       "fourth",     "fifth",     "sixth",
    "seventh",    "eighth",    "ninth",     "tenth",       "eleventh",   "twelfth",   "thirteenth",
    "fourteenth", "fifteenth", "sixteenth", "seventeenth", "eighteenth", "nineteenth"};
constexpr std::array<std::string_view, 10> kDigits = {"〇", "一", "二", "三", "四",
                                                      "五", "六", "七", "八", "九"};

std::string_view ones(int64_t n) { return kOnes[static_cast<size_t>(n)]; }
std::string_view tens(int64_t n) { return kTens[static_cast<size_t>(n / 10)]; }

std::string below_hundred(int64_t n) {
  if (n < 20) return std::string(ones(n));
  return n % 10 ? fmt::format("{} {}", tens(n), ones(n % 10)) : std::string(tens(n));
}

// Whole words, a space between.
void append(std::string& text, std::string_view word) {
  if (!text.empty()) text += ' ';
  text += word;
}

std::string below_thousand(int64_t n, bool with_and) {
  std::string text;
  if (n >= 100) text = fmt::format("{} hundred", ones(n / 100));
  if (n % 100 == 0) return text;
  if (!text.empty() && with_and) append(text, "and");
  append(text, below_hundred(n % 100));
  return text;
}

// n < 10,000. `after_more`: 万 stands before.
void append_japanese(std::string& text, int64_t n, bool after_more) {
  const auto place = [&](int64_t digit, std::string_view unit, bool keep_one) {
    if (digit > 1 || (digit == 1 && keep_one)) append(text, kDigits[static_cast<size_t>(digit)]);
    if (digit > 0) append(text, unit);
  };
  place(n / 1000, "千", after_more);
  place(n / 100 % 10, "百", false);
  place(n / 10 % 10, "十", false);
  if (n % 10) append(text, kDigits[static_cast<size_t>(n % 10)]);
}

}  // namespace

std::string english_number(int64_t n, bool with_and) {
  REFRAIN_CHECK(n >= 0 && n < 1'000'000);
  if (n == 0) return std::string(ones(0));
  std::string text;
  if (n >= 1000) text = below_thousand(n / 1000, with_and) + " thousand";
  if (n % 1000 == 0) return text;
  if (n > 1000 && n % 1000 < 100 && with_and) append(text, "and");
  append(text, below_thousand(n % 1000, with_and));
  return text;
}

std::string english_ordinal(int64_t n) {
  REFRAIN_CHECK(n >= 1 && n < 100);
  if (n < 20) return std::string(kOrdinals[static_cast<size_t>(n)]);
  if (n % 10) return fmt::format("{} {}", tens(n), kOrdinals[static_cast<size_t>(n % 10)]);
  const std::string_view word = tens(n);
  return fmt::format("{}ieth", word.substr(0, word.size() - 1));
}

std::string short_ordinal(int64_t n) {
  const bool teen = n % 100 / 10 == 1;
  const char* suffix = teen          ? "th"
                       : n % 10 == 1 ? "st"
                       : n % 10 == 2 ? "nd"
                       : n % 10 == 3 ? "rd"
                                     : "th";
  return fmt::format("{}{}", n, suffix);
}

std::string english_year(int64_t year, bool in_full) {
  REFRAIN_CHECK(year > 1000 && year < 2100);
  if (year >= 2000 && (in_full || year < 2010)) return english_number(year);
  const int64_t rest = year % 100;
  const std::string century = below_hundred(year / 100);
  if (rest == 0) return century + " hundred";
  if (rest < 10) return fmt::format("{} oh {}", century, ones(rest));
  return fmt::format("{} {}", century, below_hundred(rest));
}

std::string english_digits(const std::string& digits, bool oh) {
  std::string text;
  for (const char digit : digits) append(text, digit == '0' && oh ? "oh" : ones(digit - '0'));
  return text;
}

std::string japanese_number(int64_t n) {
  REFRAIN_CHECK(n >= 1 && n < 1'000'000);
  std::string text;
  if (n >= 10'000) {
    append_japanese(text, n / 10'000, false);
    append(text, "万");
  }
  append_japanese(text, n % 10'000, n >= 10'000);
  return text;
}

std::string japanese_digits(const std::string& digits) {
  std::string text;
  for (const char digit : digits) append(text, kDigits[static_cast<size_t>(digit - '0')]);
  return text;
}

}  // namespace refrain::cli
