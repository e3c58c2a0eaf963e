#include "refrain/text/tokenizer/added_tokens.h"

#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <string>
#include <vector>

#include "refrain/base/random.h"

namespace refrain::text {
namespace {

using Entry = AddedTokenFinder::Entry;

// What was found, in brackets, and the text between.
std::string shown(const AddedTokenFinder& finder, std::string_view text, bool special = true) {
  std::string all;
  finder.split(
      text, special, [&](std::string_view plain) { all += plain; },
      [&](int32_t id) { all += "[" + std::to_string(id) + "]"; });
  return all;
}

Entry entry(const std::string& content, int32_t id, bool special = false) {
  return {content, {.id = id, .special = special}};
}

// Tries every token at every place.
std::string by_reference(const std::vector<Entry>& entries, std::string_view text, bool special) {
  std::string all;
  for (size_t at = 0; at < text.size();) {
    const Entry* best = nullptr;
    for (const bool of_special : {true, false})
      for (const Entry& e : entries)
        if (e.token.special == of_special && text.substr(at).starts_with(e.content) &&
            (!best || e.content.size() > best->content.size()))
          best = &e;
    if (!best) {
      all += text[at++];
      continue;
    }
    const bool counts = special || !best->token.special;
    all += counts ? "[" + std::to_string(best->token.id) + "]" : best->content;
    at += best->content.size();
  }
  return all;
}

TEST(AddedTokenFinder, FindsWhatTryingEverythingFinds) {
  Random random(mix_key(1, "added"));
  const auto word = [&](uint64_t longest) {
    std::string text(1 + random.below(longest), ' ');
    for (char& c : text) c = "abc"[random.below(3)];
    return text;
  };
  for (int round = 0; round < 2000; ++round) {
    std::vector<Entry> entries;
    for (uint64_t n = random.below(6); n > 0; --n)
      entries.push_back(entry(word(5), static_cast<int32_t>(n), random.below(3) == 0));
    const AddedTokenFinder finder(entries);
    const std::string text = word(40);
    // Nothing is looked for where only special tokens are there and not asked for.
    for (const bool special : {false, true})
      ASSERT_EQ(shown(finder, text, special), by_reference(entries, text, special)) << text;
  }
}

TEST(AddedTokenFinder, FindsTokensWhereverTheTextIsReadInBlocks) {
  // Longer than a block of the text, and around its ends.
  const std::string token = std::string(70000, 'a') + "b";
  const AddedTokenFinder finder({entry(token, 1), entry("ab", 2)});
  for (const size_t before : {0u, 1u, 65535u, 65536u, 250000u, 283000u, 284004u}) {
    const std::string x(before, 'x');
    EXPECT_EQ(shown(finder, x + token + "aab"), x + "[1]a[2]") << before;
    EXPECT_EQ(shown(finder, x + "a" + token), x + "a[1]") << before;
  }
}

// Both took time in proportion to the product of text and tokens: minutes.
TEST(AddedTokenFinder, TakesLinearTimeForAnyTokens) {
  std::vector<Entry> many;
  for (int32_t i = 0; i < 100000; ++i) many.push_back(entry("<extra_" + std::to_string(i), i));
  std::string text;
  for (int i = 0; i < 100000; ++i) text += "<extra_x";
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(shown(AddedTokenFinder(std::move(many)), text), text);
  const std::string as(500000, 'a');
  EXPECT_EQ(shown(AddedTokenFinder({entry(as + "b", 1), entry("b" + as, 2)}), as + as), as + as);
  const auto seconds = std::chrono::steady_clock::now() - start;
  EXPECT_LT(std::chrono::duration<double>(seconds).count(), 20);  // of less than 1
}

}  // namespace
}  // namespace refrain::text
