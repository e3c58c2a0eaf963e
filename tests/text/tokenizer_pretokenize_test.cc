#define PCRE2_CODE_UNIT_WIDTH 8
#include <gtest/gtest.h>
#include <pcre2.h>

#include <string>
#include <string_view>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/base/utf8.h"
#include "refrain/text/tokenizer/byte_alphabet.h"
#include "refrain/text/tokenizer/pretokenize.h"

namespace refrain {
namespace {

using Words = std::vector<std::string>;

Words gpt2_words(std::string_view text) {
  Words words;
  const size_t used = text::for_each_gpt2_word(
      text, true, [&](std::string_view word) { words.emplace_back(word); });
  EXPECT_EQ(used, text.size());
  return words;
}

Words spaced_words(std::string_view text) {
  Words words;
  text::for_each_spaced_word(text, true, [&](std::string_view word) { words.emplace_back(word); });
  return words;
}

// The pattern itself, as a regular expression.
class Pattern {
 public:
  Pattern() {
    int error = 0;
    PCRE2_SIZE at = 0;
    code_ = pcre2_compile(
        reinterpret_cast<PCRE2_SPTR>(
            "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"),
        PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP, &error, &at, nullptr);
    match_ = pcre2_match_data_create_from_pattern(code_, nullptr);
  }
  ~Pattern() {
    pcre2_match_data_free(match_);
    pcre2_code_free(code_);
  }
  Words words(const std::string& text) const {
    Words words;
    const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
    const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match_);
    for (size_t at = 0;
         at < text.size() && pcre2_match(code_, subject, text.size(), at, 0, match_, nullptr) > 0;
         at = range[1])
      words.push_back(text.substr(range[0], range[1] - range[0]));
    return words;
  }

 private:
  pcre2_code* code_;
  pcre2_match_data* match_;
};

std::string random_text(Random& random, size_t characters) {
  static const std::vector<std::string> parts = {
      "'",          "'s",     "'t",     "'re",    "'ve",    "'m",       "'ll",    "'d",
      "'S",         "r",      "e",      "l",      " ",      " ",        " ",      "\t",
      "\n",         "\r\n",   "a",      "Z",      "0",      "9",        "!",      "<",
      "\u00e9",     "\u00bd", "\u00a0", "\u2003", "\u3000", "\xc2\x85", "\u732b", "\u0301",
      "\U0001F600", "\u0663", "\u2028", "_"};
  std::string text;
  for (size_t i = 0; i < characters; ++i) text += parts[random.below(parts.size())];
  return text;
}

TEST(Pretokenize, Gpt2WordsAreThoseOfThePattern) {
  EXPECT_EQ(gpt2_words("I'll say  \n hi3!!"),
            (Words{"I", "'ll", " say", "  \n", " hi", "3", "!!"}));
  EXPECT_EQ(gpt2_words(""), Words{});
  const Pattern pattern;
  Random random(mix_key(1, "pattern"));
  for (int round = 0; round < 3000; ++round) {
    const std::string text = random_text(random, 1 + random.below(20));
    ASSERT_EQ(gpt2_words(text), pattern.words(text)) << text;
  }
}

TEST(Pretokenize, SplitsOnWhiteSpaceOnly) {
  EXPECT_EQ(spaced_words(" a\tb\u3000c\u00a0\u2028d\n"), (Words{"a", "b", "c", "d"}));
  EXPECT_EQ(spaced_words("\u200bzero\u180ewidth\u2060"), (Words{"\u200bzero\u180ewidth\u2060"}));
  EXPECT_EQ(spaced_words(" \r\n "), Words{});
}

TEST(Pretokenize, BytesThatAreNotTextAreKept) {
  EXPECT_EQ(gpt2_words("a\xff\xc3 b\xe3\x81"), (Words{"a", "\xff\xc3", " b", "\xe3\x81"}));
  EXPECT_EQ(spaced_words("a\xff\xc3 b\xe3\x80"), (Words{"a\xff\xc3", "b\xe3\x80"}));
}

TEST(Pretokenize, PiecesGiveTheWordsOfTheWhole) {
  Random random(mix_key(1, "pieces"));
  for (int round = 0; round < 2000; ++round) {
    const std::string text = random_text(random, 1 + random.below(30));
    for (const bool spaced : {false, true}) {
      Words words;
      const auto collect = [&](std::string_view word) { words.emplace_back(word); };
      std::string waiting;
      for (size_t at = 0; at < text.size();) {
        const size_t bytes = std::min<size_t>(1 + random.below(9), text.size() - at);
        waiting += text.substr(at, bytes);
        at += bytes;
        const bool last = at == text.size();
        waiting.erase(0, spaced ? text::for_each_spaced_word(waiting, last, collect)
                                : text::for_each_gpt2_word(waiting, last, collect));
      }
      ASSERT_EQ(words, spaced ? spaced_words(text) : gpt2_words(text)) << text;
    }
  }
}

TEST(Pretokenize, WholeCharactersEndBeforeAnIncompleteOne) {
  const std::string text = "a\u00e9\u732b\U0001F600";
  size_t whole = 0;
  for (size_t end = 0; end <= text.size(); ++end) {
    const std::string_view start = std::string_view(text).substr(0, end);
    if (!find_invalid_utf8(start)) whole = end;
    EXPECT_EQ(text::whole_characters(start), whole);
  }
  // What can no longer become a character is not waited for.
  for (const std::string_view broken :
       {"a\xff", "a\x80", "a\xe0\x80", "\xed\xa0", "\xf4\x90", "\xc1"})
    EXPECT_EQ(text::whole_characters(broken), broken.size());
}

TEST(ByteAlphabet, EveryByteHasItsCharacter) {
  EXPECT_EQ(text::byte_character(' '), "\u0120");
  EXPECT_EQ(text::byte_character('\n'), "\u010a");
  EXPECT_EQ(text::byte_character('a'), "a");
  EXPECT_EQ(text::byte_character(0xAD), "\u0143");
  EXPECT_EQ(text::byte_character(0xFF), "\u00ff");
  std::string all, characters, last;
  for (const uint8_t byte : text::bytes_by_character()) {
    all.push_back(static_cast<char>(byte));
    characters += text::byte_character(byte);
    EXPECT_LT(last, text::byte_character(byte));
    last = text::byte_character(byte);
  }
  EXPECT_EQ(text::bytes_of(characters), all);
  EXPECT_EQ(text::bytes_of("a b"), std::nullopt);
  EXPECT_EQ(text::bytes_of("\u732b"), std::nullopt);
}

}  // namespace
}  // namespace refrain
