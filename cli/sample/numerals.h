// Numbers in written English (lower case, words apart: "twenty one") and in Japanese (kanji, a
// space after each). Their units do not line up: thousands and millions here, 万 (10,000) there.
#pragma once
#include <cstdint>
#include <string>

namespace refrain::cli {

// 0 <= n < 1,000,000. With `with_and`: "one hundred and five", "two thousand and five".
std::string english_number(int64_t n, bool with_and = false);
std::string english_ordinal(int64_t n);  // 1 <= n < 100: "twenty first"
std::string short_ordinal(int64_t n);    // "21st"
// 1000 < year < 2100: "nineteen oh five", "nineteen hundred", "twenty fifteen"; or, from 2000 on,
// in full: "two thousand fifteen".
std::string english_year(int64_t year, bool in_full = false);
std::string english_digits(const std::string& digits, bool oh = false);  // 0 is "oh" or "zero"

// 1 <= n < 1,000,000: 21,300 is "二 万 一 千 三 百". 千 and 百 take no 一, but 千 does after 万.
std::string japanese_number(int64_t n);
std::string japanese_digits(const std::string& digits);  // "一 九 九 四"

}  // namespace refrain::cli
