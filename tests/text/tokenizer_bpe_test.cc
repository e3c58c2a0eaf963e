#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/random.h"
#include "refrain/text/tokenizer/bpe.h"
#include "refrain/text/tokenizer/bpe_trainer.h"

namespace refrain {
namespace {

using text::BpeTrainer;
using text::Merge;
using text::MergeTable;

using Ids = std::vector<int32_t>;

// The definition: the lowest rank of all neighbours, the leftmost of equals, one merge at a time.
Ids apply_plainly(const std::vector<Merge>& merges, Ids ids) {
  for (;;) {
    size_t best_rank = merges.size(), best_at = 0;
    for (size_t at = 0; at + 1 < ids.size(); ++at)
      for (size_t rank = merges.size(); rank-- > 0;)
        if (merges[rank].left == ids[at] && merges[rank].right == ids[at + 1]) {
          if (rank < best_rank) best_rank = rank, best_at = at;
          break;  // a later merge of the same pair replaces an earlier one
        }
    if (best_rank == merges.size()) return ids;
    ids[best_at] = merges[best_rank].merged;
    ids.erase(ids.begin() + static_cast<std::ptrdiff_t>(best_at) + 1);
  }
}

TEST(MergeTable, AppliesTheLowestRankFirstInShortAndLongWords) {
  Random random(mix_key(1, "merges"));
  for (int round = 0; round < 200; ++round) {
    // Merges of random pairs in random order: a token may have a lower rank than its parts.
    std::vector<Merge> merges;
    int32_t tokens = 3;
    for (int i = 0; i < 12; ++i) {
      const auto n = static_cast<uint64_t>(tokens);
      merges.push_back(
          {static_cast<int32_t>(random.below(n)), static_cast<int32_t>(random.below(n)), tokens++});
    }
    for (size_t i = merges.size() - 1; i > 0; --i)
      std::swap(merges[i], merges[random.below(i + 1)]);
    const MergeTable table(merges);
    for (const size_t length : {0, 1, 2, 3, 7, 47, 48, 49, 50, 200}) {
      Ids word(length);
      for (int32_t& id : word) id = static_cast<int32_t>(random.below(3));
      Ids found = {77, 78};  // what is in front stays
      found.insert(found.end(), word.begin(), word.end());
      table.apply(found, 2);
      Ids expected = {77, 78};
      for (const int32_t id : apply_plainly(merges, word)) expected.push_back(id);
      ASSERT_EQ(found, expected) << "round " << round << ", length " << length;
    }
  }
}

// Pairs that all come to one place of the table, as a hostile file may have them.
TEST(MergeTable, ChosenPairsTakeNoQuadraticTime) {
  uint64_t inverse = 1;  // of mix_bits()'s factor, modulo 2^64
  for (int i = 0; i < 6; ++i) inverse *= 2 - 0x9FB21C651E98DF25u * inverse;
  std::vector<text::Merge> merges;
  for (uint64_t half = 1; merges.size() < 150'000; ++half) {
    const uint64_t key = (half << 32 | half) * inverse;
    const auto left = static_cast<int32_t>(key >> 32), right = static_cast<int32_t>(key);
    if (left < 0 || right < 0) continue;
    ASSERT_EQ(static_cast<uint32_t>(text::mix_bits(text::pair_key(left, right))), 0u);
    merges.push_back({left, right, static_cast<int32_t>(merges.size())});
  }
  const std::clock_t start = std::clock();
  const MergeTable table(merges);
  for (const text::Merge& merge : merges) {
    std::vector<int32_t> ids = {merge.left, merge.right};
    table.apply(ids, 0);
    ASSERT_EQ(ids, std::vector<int32_t>{merge.merged});
  }
  EXPECT_LT(static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC, 5);
}

TEST(MergeTable, ALongWordTakesNoQuadraticTime) {
  const MergeTable table({{0, 1, 2}, {2, 2, 3}, {3, 3, 4}});
  Ids ids(2'000'000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = i % 2;
  table.apply(ids, 0);
  EXPECT_EQ(ids, Ids(250'000, 4));
}

// The definition: count all neighbours again before every merge.
std::vector<Merge> learn_plainly(std::vector<std::string> tokens, std::vector<Ids> words,
                                 const std::vector<int64_t>& counts, size_t vocab_size) {
  std::vector<Merge> merges;
  while (tokens.size() < vocab_size) {
    std::map<std::pair<int32_t, int32_t>, int64_t> pairs;
    for (size_t w = 0; w < words.size(); ++w)
      for (size_t i = 0; i + 1 < words[w].size(); ++i)
        pairs[{words[w][i], words[w][i + 1]}] += counts[w];
    int64_t most = 0;
    std::pair<int32_t, int32_t> best;
    for (const auto& [pair, count] : pairs)
      if (count > most) most = count, best = pair;
    if (most == 0) break;
    const std::string text =
        tokens[static_cast<size_t>(best.first)] + tokens[static_cast<size_t>(best.second)];
    const auto known = std::find(tokens.begin(), tokens.end(), text);
    const auto id = static_cast<int32_t>(known - tokens.begin());
    if (known == tokens.end()) tokens.push_back(text);
    merges.push_back({best.first, best.second, id});
    for (Ids& word : words)
      for (size_t i = 0; i + 1 < word.size(); ++i)
        if (word[i] == best.first && word[i + 1] == best.second) {
          word[i] = id;
          word.erase(word.begin() + static_cast<std::ptrdiff_t>(i) + 1);
        }
  }
  return merges;
}

bool any(std::string_view, std::string_view) { return true; }

TEST(BpeTrainer, LearnsWhatARecountBeforeEveryMergeLearns) {
  Random random(mix_key(1, "training"));
  for (int round = 0; round < 300; ++round) {
    const uint64_t letters = 1 + random.below(4);  // one letter: runs that overlap themselves
    std::vector<std::string> tokens;
    for (uint64_t i = 0; i < letters; ++i) tokens.emplace_back(1, static_cast<char>('a' + i));
    std::vector<Ids> words(1 + random.below(12));
    std::vector<int64_t> counts;
    BpeTrainer trainer(tokens, any);
    for (Ids& word : words) {
      word.resize(random.below(24));
      for (int32_t& id : word) id = static_cast<int32_t>(random.below(letters));
      counts.push_back(static_cast<int64_t>(1 + random.below(5)));
      trainer.add_word(word, counts.back());
    }
    trainer.run(40);
    const std::vector<Merge> expected = learn_plainly(tokens, words, counts, 40);
    ASSERT_EQ(trainer.merges().size(), expected.size()) << "round " << round;
    for (size_t i = 0; i < expected.size(); ++i) {
      ASSERT_EQ(trainer.merges()[i].left, expected[i].left) << "round " << round << ", merge " << i;
      ASSERT_EQ(trainer.merges()[i].right, expected[i].right);
      ASSERT_EQ(trainer.merges()[i].merged, expected[i].merged);
    }
  }
}

TEST(BpeTrainer, CountsIn64Bits) {
  BpeTrainer trainer({"a", "b", "c"}, any);
  trainer.add_word(Ids{0, 1}, int64_t{1} << 33);
  trainer.add_word(Ids{1, 2}, (int64_t{1} << 33) + 1);
  trainer.run(4);
  EXPECT_EQ(trainer.tokens().back(), "bc");
}

TEST(BpeTrainer, LeavesOutWhatIsNotAllowed) {
  BpeTrainer trainer({"a", "b", "c"},
                     [](std::string_view merged, std::string_view) { return merged != "ab"; });
  trainer.add_word(Ids{0, 1, 2}, 5);
  trainer.run(10);
  EXPECT_EQ(trainer.tokens(), (std::vector<std::string>{"a", "b", "c", "bc", "abc"}));
}

TEST(WordCounts, CountsAndKeepsItsLimit) {
  text::WordCounts words(2000);
  for (int round = 0; round < 3; ++round)
    for (int i = 0; i < 2000; ++i) words.add("word" + std::to_string(i));
  ASSERT_EQ(words.size(), 2000u);
  for (size_t i = 0; i < words.size(); ++i) {
    EXPECT_EQ(words.word(i), "word" + std::to_string(i));
    EXPECT_EQ(words.count(i), 3);
  }
  words.add("word7");
  EXPECT_THROW(words.add("one more"), Error);
}

// A vocabulary of the 256 bytes and random merges of tokens of the first `letters` of them.
struct RandomMerges {
  RandomMerges(Random& random, uint64_t letters, size_t n, bool in_order) {
    std::map<std::string, int32_t> ids;
    for (int b = 0; b < 256; ++b) {
      bytes[static_cast<size_t>(b)] = b;
      texts.emplace_back(1, static_cast<char>(b));
      ids[texts.back()] = b;
    }
    std::vector<int32_t> parts;
    for (uint64_t b = 0; b < letters; ++b) parts.push_back(static_cast<int32_t>('a' + b));
    while (merges.size() < n) {
      const int32_t left = parts[random.below(parts.size())],
                    right = parts[random.below(parts.size())];
      const std::string text = texts[static_cast<size_t>(left)] + texts[static_cast<size_t>(right)];
      const auto [at, is_new] = ids.emplace(text, static_cast<int32_t>(texts.size()));
      if (is_new) {
        texts.push_back(text);
        parts.push_back(at->second);
      }
      merges.push_back({left, right, at->second});
    }
    if (in_order) return;
    for (size_t i = 0; i + 1 < n; ++i)
      if (random.below(4) == 0) std::swap(merges[i], merges[i + 1]);
  }
  std::vector<Merge> merges;
  std::array<int32_t, 256> bytes{};
  std::vector<std::string> texts;
};

TEST(WordSearch, FindsWhatMergesGive) {
  Random random(1);
  int usable = 0, found = 0;
  for (int round = 0; round < 600; ++round) {
    const uint64_t letters = 1 + random.below(4);
    const RandomMerges given(random, letters, 1 + random.below(40), round % 3 != 0);
    const MergeTable table(given.merges);
    const text::WordSearch search(table, given.merges, given.bytes, given.texts);
    if (!search.usable()) continue;
    ++usable;
    for (int i = 0; i < 20; ++i) {
      std::string word;
      Ids ids = {-1}, expected;
      for (uint64_t n = random.below(i == 0 ? 700 : 40); n > 0; --n)
        word += static_cast<char>('a' + random.below(letters + 1));
      for (const char byte : word) expected.push_back(static_cast<uint8_t>(byte));
      if (!search.encode(word, ids)) continue;
      ++found;
      EXPECT_EQ(ids[0], -1);
      ids.erase(ids.begin());
      ASSERT_EQ(ids, apply_plainly(given.merges, expected)) << round << " " << word;
    }
  }
  EXPECT_GT(usable, 300);
  EXPECT_GT(found, 19 * usable);
}

// ba is made before a is merged with what follows, whatever the search would like better.
TEST(WordSearch, KnowsWhichMergeComesFirst) {
  std::array<int32_t, 256> bytes{};
  std::vector<std::string> texts;
  for (int b = 0; b < 256; ++b) {
    bytes[static_cast<size_t>(b)] = b;
    texts.emplace_back(1, static_cast<char>(b));
  }
  texts.insert(texts.end(), {"ba", "an", "nan", "ban"});
  std::vector<Merge> merges = {{'b', 'a', 256}, {'a', 'n', 257}, {'n', 257, 258}, {'b', 257, 259}};
  const auto encoded = [&](std::string_view word) {
    const MergeTable table(merges);
    const text::WordSearch search(table, merges, bytes, texts);
    Ids ids;
    EXPECT_TRUE(search.usable() && search.encode(word, ids));
    return ids;
  };
  EXPECT_EQ(encoded("banan"), (Ids{256, 258}));
  EXPECT_EQ(encoded("ban"), (Ids{256, 'n'}));  // nothing gives the token of all three
  EXPECT_EQ(encoded(""), Ids());
  std::swap(merges[0], merges[3]);  // it has a lower rank than what makes its part
  const MergeTable table(merges);
  EXPECT_FALSE(text::WordSearch(table, merges, bytes, texts).usable());
  bytes['q'] = -1;
  EXPECT_FALSE(text::WordSearch(table, {}, bytes, texts).usable());
}

// Nobody can make it slow: words of one letter, and tokens of all its lengths.
TEST(WordSearch, GivesUpInTime) {
  std::array<int32_t, 256> bytes{};
  std::vector<std::string> texts;
  for (int b = 0; b < 256; ++b) {
    bytes[static_cast<size_t>(b)] = b;
    texts.emplace_back(1, static_cast<char>(b));
  }
  std::vector<Merge> merges;
  for (int32_t n = 2; n <= 2000; ++n) {
    texts.push_back(std::string(static_cast<size_t>(n), 'a'));
    merges.push_back({n == 2 ? 'a' : 254 + n - 1, 'a', 254 + n});
  }
  const MergeTable table(merges);
  const text::WordSearch search(table, merges, bytes, texts);
  const std::string word(1'000'000, 'a');
  const std::clock_t start = std::clock();
  Ids ids;
  const bool done = search.encode(word, ids);
  EXPECT_EQ(ids.empty(), !done);
  EXPECT_LT(std::clock() - start, 10 * CLOCKS_PER_SEC);
}

}  // namespace
}  // namespace refrain
