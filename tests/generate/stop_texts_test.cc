#include "refrain/generate/stop_texts.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/base/utf8.h"
#include "support/error_of.h"

namespace refrain {
namespace {

using Texts = std::vector<std::string>;

// What is shown piece by piece, and the end of it.
Texts shown(const Texts& stops, const Texts& pieces) {
  StopTexts stop(stops);
  Texts all;
  for (const std::string& piece : pieces) all.push_back(stop.feed(piece));
  all.push_back(stop.finish() + (stop.found() ? "!" : ""));
  return all;
}

TEST(StopTexts, AreNeverShown) {
  EXPECT_EQ(shown({}, {"a", "b"}), (Texts{"a", "b", ""}));
  EXPECT_EQ(shown({"END"}, {"to the END of it"}), (Texts{"to the ", "!"}));
  EXPECT_EQ(shown({"END"}, {"to the E", "N", "D of it", "more"}),
            (Texts{"to the ", "", "", "", "!"}));
  EXPECT_EQ(shown({"END"}, {"E", "N", "ENE", "ND", "E"}), (Texts{"", "", "ENEN", "", "", "!"}));
  EXPECT_EQ(shown({"END"}, {"an E", "N"}), (Texts{"an ", "", "EN"}));
  EXPECT_EQ(shown({"\n"}, {"a\r", "\n"}), (Texts{"a\r", "", "!"}));
  EXPECT_EQ(error_of([] { StopTexts({"a", ""}); }), "stop: expected a text, found an empty one");
}

TEST(StopTexts, TheOneThatIsCompleteFirst) {
  EXPECT_EQ(shown({"abcd", "bc"}, {"xabcd"}), (Texts{"xa", "!"}));
  EXPECT_EQ(shown({"abcd", "bc"}, {"xab", "cd"}), (Texts{"x", "a", "!"}));
  EXPECT_EQ(shown({"c", "abc", "bc"}, {"xab", "c"}), (Texts{"x", "", "!"}));
  EXPECT_EQ(shown({"aab"}, {"aa", "a", "ab"}), (Texts{"", "a", "a", "!"}));
}

TEST(StopTexts, WholeCharacters) {
  // The stop text begins with the same bytes as what comes.
  const Texts pieces = {"日", "本", "語", "é", "è", "日", "曜"};
  for (const Texts& stops : {Texts{"日曜"}, Texts{"本日"}, Texts{"è日本", "é"}, Texts{"曙"}})
    for (const std::string& text : shown(stops, pieces))
      EXPECT_FALSE(find_invalid_utf8(text)) << stops[0];
  EXPECT_EQ(shown({"日曜"}, pieces), (Texts{"", "日本", "語", "é", "è", "", "", "!"}));
  // A character that comes in two pieces.
  EXPECT_EQ(shown({"é"}, {"a\xC3", "\xA9"}), (Texts{"a", "", "!"}));
  EXPECT_EQ(shown({"é"}, {"a\xC3", "\xA8"}), (Texts{"a", "\xC3\xA8", ""}));
}

// All texts over two letters: against a search after every byte.
TEST(StopTexts, HoweverTheTextIsCut) {
  Random random(5);
  const auto letters = [&](uint64_t most) {
    std::string text;
    for (uint64_t n = 1 + random.below(most); n > 0; --n) text += random.below(2) ? 'a' : 'b';
    return text;
  };
  int found = 0;
  for (int round = 0; round < 3000; ++round) {
    Texts stops;
    for (uint64_t n = 1 + random.below(3); n > 0; --n) stops.push_back(letters(5) + letters(2));
    const std::string text = letters(24);
    std::string want = text;
    bool stopped = false;
    for (size_t end = 1; end <= text.size() && !stopped; ++end)
      for (const std::string& stop : stops)
        if (text.substr(0, end).ends_with(stop)) {
          want = want.substr(0, std::min(want.size(), end - stop.size()));
          stopped = true;
        }
    StopTexts filter(stops);
    std::string got;
    for (size_t at = 0; at < text.size() && !filter.found();) {
      const size_t n = std::min<size_t>(1 + random.below(4), text.size() - at);
      got += filter.feed(text.substr(at, n));
      at += n;
      ASSERT_TRUE(want.starts_with(got)) << want;
      if (filter.found()) continue;
      // No more is held back than needed.
      const std::string held = text.substr(got.size(), at - got.size());
      EXPECT_TRUE(held.empty() ||
                  std::any_of(stops.begin(), stops.end(),
                              [&](const std::string& stop) { return stop.starts_with(held); }))
          << held;
    }
    EXPECT_EQ(filter.found(), stopped);
    EXPECT_EQ(got + filter.finish(), want);
    found += stopped;
  }
  EXPECT_GT(found, 500);
  EXPECT_LT(found, 2500);
}

}  // namespace
}  // namespace refrain
