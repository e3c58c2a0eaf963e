// Steps of a pre_tokenizer, and the words of known patterns against the patterns themselves.
#include "refrain/text/tokenizer/pre_tokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/base/utf8.h"
#include "support/error_of.h"

namespace refrain::text {
namespace {

using Words = std::vector<std::string>;

PreTokenizer made(const std::vector<std::string>& steps) {
  PreTokenizer splitter;
  for (const std::string& step : steps) {
    const io::Json json = io::parse_json(step, "step");
    splitter.add({&json, "t.json: pre_tokenizer"});
  }
  return splitter;
}

Words words(const PreTokenizer& splitter, std::string_view text) {
  Words all;
  splitter.for_each(text, [&](std::string_view word) { all.emplace_back(word); });
  return all;
}

std::string split_step(const io::Json& pattern, const char* behavior, bool invert = false) {
  return io::Json{
      {"type", "Split"}, {"pattern", pattern}, {"behavior", behavior}, {"invert", invert}}
      .dump();
}

Words at_words(const char* behavior, std::string_view text = "How are you doing?") {
  return words(made({split_step({{"Regex", "\\w+|[^\\w\\s]+"}}, behavior, true)}), text);
}

TEST(PreTokenizer, BehaviorsAreThoseOfThePackage) {
  EXPECT_EQ(at_words("Removed"), (Words{"How", "are", "you", "doing", "?"}));
  EXPECT_EQ(at_words("Isolated"), (Words{"How", " ", "are", " ", "you", " ", "doing", "?"}));
  EXPECT_EQ(at_words("MergedWithPrevious"), (Words{"How ", "are ", "you ", "doing", "?"}));
  EXPECT_EQ(at_words("MergedWithNext"), (Words{"How", " are", " you", " doing", "?"}));
  EXPECT_EQ(at_words("Contiguous"), (Words{"How", " ", "are", " ", "you", " ", "doing?"}));
  const auto at_dashes = [](const char* behavior) {
    return words(made({split_step({{"String", "-"}}, behavior)}), "-the-final--countdown-");
  };
  EXPECT_EQ(at_dashes("Removed"), (Words{"the", "final", "countdown"}));
  EXPECT_EQ(at_dashes("Isolated"), (Words{"-", "the", "-", "final", "-", "-", "countdown", "-"}));
  EXPECT_EQ(at_dashes("MergedWithPrevious"), (Words{"-", "the-", "final-", "-", "countdown-"}));
  EXPECT_EQ(at_dashes("MergedWithNext"), (Words{"-the", "-final", "-", "-countdown", "-"}));
  EXPECT_EQ(at_dashes("Contiguous"), (Words{"-", "the", "-", "final", "--", "countdown", "-"}));
}

TEST(PreTokenizer, DigitsAndPunctuation) {
  const std::string text = "a12\u00bd\u0663b,$9!?";
  EXPECT_EQ(words(made({R"({"type": "Digits", "individual_digits": true})"}), text),
            (Words{"a", "1", "2", "\u00bd", "\u0663", "b,$", "9", "!?"}));
  EXPECT_EQ(words(made({R"({"type": "Digits"})"}), text),
            (Words{"a", "12\u00bd\u0663", "b,$", "9", "!?"}));
  EXPECT_EQ(words(made({R"({"type": "Punctuation"})"}), text),
            (Words{"a12\u00bd\u0663b", ",", "$", "9", "!", "?"}));
  EXPECT_EQ(
      words(made({R"({"type": "Punctuation", "behavior": "Contiguous"})", R"({"type": "Digits"})"}),
            text),
      (Words{"a", "12\u00bd\u0663", "b", ",$", "9", "!?"}));
  EXPECT_EQ(words(made({}), text), Words{text});
  EXPECT_EQ(words(made({R"({"type": "Digits"})"}), ""), Words{});
}

TEST(PreTokenizer, WhatIsNotSupportedIsRefusedByName) {
  const auto refused = [](const std::string& step) { return error_of([&] { made({step}); }); };
  EXPECT_EQ(refused(R"({"type": "UnicodeScripts"})"),
            "t.json: pre_tokenizer: type: expected Digits, Punctuation or Split before ByteLevel, "
            "found \"UnicodeScripts\"");
  EXPECT_EQ(refused(R"({"type": "Digits", "x": 1})"),
            "t.json: pre_tokenizer: \"x\" is not supported, found \"1\"");
  EXPECT_EQ(refused(R"({"type": "Split", "pattern": {"String": "a"}, "behavior": "Kept"})"),
            "t.json: pre_tokenizer: behavior: expected Removed, Isolated, MergedWithPrevious, "
            "MergedWithNext or Contiguous, found \"Kept\"");
  EXPECT_EQ(refused(R"({"type": "Split", "pattern": {"String": ""}, "behavior": "Isolated"})"),
            "t.json: pre_tokenizer: pattern: expected a pattern that is not empty");
  EXPECT_EQ(refused(R"({"type": "Split", "pattern": {"Regex": "\\K"}, "behavior": "Isolated"})"),
            "t.json: pre_tokenizer: pattern: the regular expression \"\\\\K\" has \"\\\\K\", which "
            "is not supported");
  EXPECT_EQ(refused(R"({"type": "Split", "pattern": "a", "behavior": "Isolated"})"),
            "t.json: pre_tokenizer: pattern: expected an object, found \"\\\"a\\\"\"");
  const std::vector<std::string> many(65, R"({"type": "Digits"})");
  EXPECT_EQ(error_of([&] { made(many); }),
            "t.json: pre_tokenizer: expected at most 64 steps, found more");
}

// Words by the pattern as a regular expression.
Words by_regex(const std::string& pattern, const std::string& text) {
  const Regex regex(pattern, "t.json");
  RegexSearch search(regex, text.size());
  Words all;
  for (search.start(text); search.next();)
    all.push_back(text.substr(search.begin(), search.end() - search.begin()));
  return all;
}

std::string random_text(Random& random) {
  static const std::vector<std::string> parts = {
      "'",      "'s",     "'S",      "'t",         "'re",        "'VE",    "'m",
      "'lL",    "'d",     "'\u017f", "r",          "e",          " ",      " ",
      " ",      "\t",     "\n",      "\r\n",       "\r",         "a",      "Z",
      "0",      "9",      "!",       "<",          "_",          "\u00e9", "\u00bd",
      "\u00a0", "\u2003", "\u3000",  "\xc2\x85",   "\u732b",     "\u0301", "\U0001F600",
      "\u0663", "\u2028", "\u180e",  "\U000e0101", "\U00020000", "\u0300"};
  std::string text;
  for (uint64_t n = 1 + random.below(20); n > 0; --n) text += parts[random.below(parts.size())];
  return text;
}

TEST(PreTokenizer, KnownPatternsAreScannedAsTheyMatch) {
  Random random(mix_key(1, "known"));
  for (const bool marks : {false, true})
    for (const int digits : {0, 1, 3}) {
      const std::string regex = WordPattern{marks, digits}.regex();
      const PreTokenizer known = made({split_step({{"Regex", regex}}, "Isolated")});
      EXPECT_TRUE(known.is_word_pattern());
      EXPECT_TRUE(made({split_step({{"Regex", regex}}, "Removed", true)}).is_word_pattern());
      EXPECT_FALSE(made({split_step({{"Regex", regex}}, "Contiguous")}).is_word_pattern());
      for (int round = 0; round < 3000; ++round) {
        const std::string text = random_text(random);
        ASSERT_EQ(words(known, text), by_regex(regex, text)) << regex << "\n" << text;
      }
    }
  const PreTokenizer gpt2 = made({split_step({{"Regex", WordPattern::kGpt2}}, "Isolated")});
  EXPECT_TRUE(gpt2.is_gpt2());
  for (int round = 0; round < 3000; ++round) {
    const std::string text = random_text(random);
    ASSERT_EQ(words(gpt2, text), by_regex(WordPattern::kGpt2, text)) << text;
  }
}

TEST(PreTokenizer, KnownPatternsOfAllCharacters) {
  // Each character in a text of its own.
  for (const bool marks : {false, true}) {
    const std::string pattern = WordPattern{marks, 1}.regex();
    const Regex regex(pattern, "t.json");
    RegexSearch search(regex, size_t{1} << 26);
    for (char32_t c = 1; c < 0x110000; ++c) {
      if (c >= 0xD800 && c <= 0xDFFF) continue;
      std::string text = "a";
      append_utf8(text, c);
      text += "a \n";
      size_t at = 0;
      for (search.start(text); search.next(); at = search.end())
        ASSERT_EQ(pattern_word({marks, 1}, std::string_view(text).substr(at)), search.end() - at)
            << std::hex << uint32_t{c};
    }
  }
}

}  // namespace
}  // namespace refrain::text
