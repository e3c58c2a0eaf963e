#include "refrain/base/utf8.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace refrain {
namespace {

using namespace std::string_literals;

bool is_scalar(char32_t code) { return code < 0xD800 || (code > 0xDFFF && code <= 0x10FFFF); }

TEST(Utf8, EveryCodePointComesBack) {
  std::string all;
  for (char32_t code = 0; code <= 0x10FFFF; ++code) {
    if (!is_scalar(code)) continue;
    std::string text;
    append_utf8(text, code);
    const CodePoint found = decode_utf8(text);
    ASSERT_TRUE(found.valid && found.code == code && found.bytes == text.size()) << uint32_t{code};
    all += text;
  }
  EXPECT_EQ(all.size(), 128u + 2 * 1920 + 3 * (63488 - 2048) + 4 * 1048576);
  EXPECT_FALSE(find_invalid_utf8(all));
}

TEST(Utf8, OneSpellingForEveryCodePoint) {
  // Over all strings of two bytes and all of three: what is accepted is what append_utf8 writes.
  for (uint32_t bits = 0; bits < 1u << 24; ++bits) {
    const char bytes[] = {static_cast<char>(bits >> 16), static_cast<char>(bits >> 8),
                          static_cast<char>(bits)};
    const CodePoint found = decode_utf8({bytes, 3});
    if (!found.valid) continue;
    std::string again;
    append_utf8(again, found.code);
    ASSERT_EQ(again, std::string(bytes, found.bytes)) << bits;
  }
}

TEST(Utf8, InvalidSequences) {
  struct Case {
    std::string text;
    uint32_t replaced;  // by one U+FFFD, as Python's errors="replace" does
  };
  const std::vector<Case> cases = {
      {"\x80", 1},              // a continuation by itself
      {"\xBF\x80", 1},          //
      {"\xC0\x80", 1},          // overlong zero
      {"\xC1\xBF", 1},          // overlong two bytes
      {"\xE0\x9F\xBF", 1},      // overlong three bytes
      {"\xF0\x8F\xBF\xBF", 1},  // overlong four bytes
      {"\xED\xA0\x80", 1},      // the first surrogate
      {"\xED\xBF\xBF", 1},      // the last surrogate
      {"\xF4\x90\x80\x80", 1},  // U+110000
      {"\xF5\x80\x80\x80", 1},  // no such first byte
      {"\xFE", 1},              //
      {"\xFF", 1},              //
      {"\xC3", 1},              // cut short
      {"\xE3\x81", 2},          //
      {"\xF0\x9F\x98", 3},      //
      {"\xC3(", 1},             // the rest is something else
      {"\xE3\x81(", 2},         //
      {"\xF0\x9F(\x98", 2},     //
      {"\xF0\x9F\x98(", 3},     //
  };
  for (const Case& c : cases) {
    const CodePoint found = decode_utf8(c.text);
    EXPECT_FALSE(found.valid) << testing::PrintToString(c.text);
    EXPECT_EQ(found.code, char32_t{0xFFFD}) << testing::PrintToString(c.text);
    EXPECT_EQ(found.bytes, c.replaced) << testing::PrintToString(c.text);
    for (const std::string& before : {""s, "a"s, "12345678"s, "123456789012345"s, "Größe "s})
      for (const std::string& after : {""s, " and so on and on"s})
        EXPECT_EQ(find_invalid_utf8(before + c.text + after), before.size())
            << testing::PrintToString(before + c.text + after);
  }
}

TEST(Utf8, ValidTexts) {
  for (const std::string& text : {""s, "plain"s, "exactly8"s, "\0zero"s, "私は林檎が好き"s, "😀"s,
                                  "mixed 文字 und Größe, 12345678 😀"s, "\uFEFF\uFFFF"s})
    EXPECT_FALSE(find_invalid_utf8(text)) << text;
}

TEST(Utf8, EncodesScalarValuesOnly) {
  std::string text;
  EXPECT_THROW(append_utf8(text, 0xD800), std::logic_error);
  EXPECT_THROW(append_utf8(text, 0xDFFF), std::logic_error);
  EXPECT_THROW(append_utf8(text, 0x110000), std::logic_error);
  EXPECT_TRUE(text.empty());
}

}  // namespace
}  // namespace refrain
