// Oniguruma's regular expressions in PCRE2.
#include "refrain/text/tokenizer/regex.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "refrain/text/tokenizer/regex_syntax.h"
#include "support/error_of.h"

namespace refrain::text {
namespace {

using Matches = std::vector<std::string>;

Matches matches(std::string_view pattern, std::string_view text) {
  const Regex regex(pattern, "t.json");
  RegexSearch search(regex, text.size());
  Matches found;
  for (search.start(text); search.next();)
    found.emplace_back(text.substr(search.begin(), search.end() - search.begin()));
  return found;
}

TEST(Regex, MatchesAsOnigurumaDoes) {
  // White space is Unicode's: U+180E is none, U+0085 is.
  EXPECT_EQ(matches("\\s+", "a \u180e\u0085\u3000b"), (Matches{" ", "\u0085\u3000"}));
  EXPECT_EQ(matches("[^\\sa]+", "a \u180eb"), (Matches{"\u180eb"}));
  EXPECT_EQ(matches("[\\S]", " \u180e"), (Matches{"\u180e"}));
  // Words have marks, connectors and the numbers of Latin-1, but no other numbers.
  EXPECT_EQ(matches("\\w+", "e\u0301\u203f\u00bd\u2153"), (Matches{"e\u0301\u203f\u00bd"}));
  EXPECT_EQ(matches("\\W", "e\u0301\u2153"), (Matches{"\u2153"}));
  EXPECT_EQ(matches("\\b", "e\u0301 x").size(), 4u);
  // A script without its extensions.
  EXPECT_EQ(matches("\\p{Hiragana}+", "\u3042\u30fc\u3044"), (Matches{"\u3042", "\u3044"}));
  EXPECT_EQ(matches("\\p{^L}\\P{^L}", "1a"), (Matches{"1a"}));
  // Lines.
  EXPECT_EQ(matches("^.", "a\nb\r\nc"), (Matches{"a", "b", "c"}));
  EXPECT_EQ(matches(".$", "a\nb\rc"), (Matches{"a", "c"}));
  // Numbers of repetitions, and braces that are none.
  EXPECT_EQ(matches("a{,2}b", "aaab"), (Matches{"aab"}));
  EXPECT_EQ(matches("a{x}", "a{x}"), (Matches{"a{x}"}));
  EXPECT_EQ(matches("(a|b){2,}?c", "ababc"), (Matches{"ababc"}));
  // Case.
  EXPECT_EQ(matches("(?i:'s|'re)", "'S '\u017f 'Re 'rE"), (Matches{"'S", "'\u017f", "'Re", "'rE"}));
  EXPECT_EQ(matches("(?i)a(?-i:b)", "AB Ab"), (Matches{"Ab"}));
  // Escapes.
  EXPECT_EQ(matches("\\x{1F600}|\\u00e9|\\x41|\\v|\\.", "\U0001F600\u00e9A\v."),
            (Matches{"\U0001F600", "\u00e9", "A", "\v", "."}));
  EXPECT_EQ(matches("[\\s-x]+|[\\w-]+", "- x"), (Matches{"- x"}));
  EXPECT_EQ(matches("[^\\n\\]}]+", "a]}\nb"), (Matches{"a", "b"}));
}

TEST(Regex, EmptyMatchesDoNotComeRightBehindOthers) {
  EXPECT_EQ(matches("a*", "aab"), (Matches{"aa", ""}));
  EXPECT_EQ(matches("(?=b)", "abb").size(), 2u);
  EXPECT_EQ(matches("x*", "").size(), 0u);
}

TEST(Regex, BytesThatAreNotTextMatchNothing) {
  EXPECT_EQ(matches(".", "a\xff\xc3\u00e9\xe3\x81"), (Matches{"a", "\u00e9"}));
  EXPECT_EQ(matches("\\s+(?!\\S)", "  \xff"), (Matches{"  "}));
}

TEST(Regex, WhatIsReadDifferentlyIsRefusedByName) {
  const std::pair<const char*, const char*> refused[] = {
      {"a{2}+", "{2}+"},     {"a{2}?", "{2}?"},
      {"(?<x>a)", "(?<x"},   {"(?P<x>a)", "(?P<"},
      {"(*FAIL)", "(*FA"},   {"a(?i)b", "(?i)"},
      {"(?m:.)", "(?m:"},    {"(?#x)", "(?#x"},
      {"(a)\\1", "\\1"},     {"\\Ka", "\\K"},
      {"\\h", "\\h"},        {"\\Q.\\E", "\\Q"},
      {"[a[b]]", "[b"},      {"[a&&b]", "&&"},
      {"[[:alpha:]]", "[:"}, {"[\\W]", "\\W"},
      {"[]a]", "[]"},        {"[a", "[a"},
      {"\\xff", "\\xff"},    {"\\p{L", "\\p{"},
      {"(?i:Ss)", "Ss"},     {"(?i:\\p{Lu})", "\\p{Lu}"},
      {"\\pL", "\\pL"},      {"a\\", "\\"}};
  for (const auto& [pattern, what] : refused) {
    const std::string error = error_of([&] { Regex(pattern, "t.json"); });
    EXPECT_TRUE(error.starts_with("t.json: the regular expression ")) << pattern << ": " << error;
    EXPECT_TRUE(error.ends_with(", which is not supported")) << pattern << ": " << error;
  }
  for (const char* pattern : {"(a", "a)", "*a", "\\p{Nonsense}", "(?<=a+)b", "a{9}{9}{9}{99999}"})
    EXPECT_NE(error_of([&] { Regex(pattern, "t.json"); }).find(" is not one: "), std::string::npos)
        << pattern;
  EXPECT_NE(error_of([] { Regex(std::string(20000, 'a'), "t.json"); }).find("at most 16384 bytes"),
            std::string::npos);
}

TEST(Regex, BacktrackingWithoutEndIsAnError) {
  const std::string as(40000, 'a');
  // No character that a match needs and the text lacks: that would end the search at once.
  const char* const patterns[] = {"(a+)+[bc]", "(a|a)*[bc]", "a+[bc]", "(?:a*)*[bc]",
                                  "(a?){40}a{40}[bc]"};
  for (const char* pattern : patterns) {
    const auto start = std::chrono::steady_clock::now();
    try {
      EXPECT_EQ(matches(pattern, as), Matches{});
    } catch (const std::exception& error) {
      EXPECT_NE(std::string(error.what()).find("takes too long on a text of 40000 bytes"),
                std::string::npos);
    }
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    EXPECT_LT(seconds.count(), 60) << pattern;  // of 3, on a machine that has other work
  }
  EXPECT_NE(error_of([&] { matches("(a+)+[bc]", as); }), "(no error)");
}

}  // namespace
}  // namespace refrain::text
