#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/text/tokenizer.h"
#include "support/error_of.h"

namespace refrain {
namespace {

using text::Tokenizer;
using text::TokenizerTraining;

using Texts = std::vector<std::string>;

// Gives the pieces one after another.
text::TextSource source_of(Texts pieces) {
  return [pieces = std::move(pieces), next = size_t{0}](std::string& piece) mutable {
    if (next == pieces.size()) return false;
    piece = pieces[next++];
    return true;
  };
}

Tokenizer train(const std::string& spec, Texts pieces, Texts special = {}) {
  TokenizerTraining training = Tokenizer::parse_spec(spec);
  training.special_tokens = std::move(special);
  return Tokenizer::train(training, source_of(std::move(pieces)));
}

Texts vocabulary_of(const Tokenizer& tokenizer) {
  Texts tokens;
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) tokens.emplace_back(tokenizer.token(id));
  return tokens;
}

const std::string kRhyme =
    "It was many and many a year ago,\r\n  In a kingdom by the sea,\n\nThat a maiden there lived "
    "whom you may know\u3000猫は猫である。 don't we'll\t<unk> 1849!!\n";

TEST(TokenizerTraining, ReadsItsSpec) {
  EXPECT_EQ(Tokenizer::parse_spec("char").kind, "char");
  EXPECT_EQ(Tokenizer::parse_spec("bpe:8000").kind, "bpe");
  EXPECT_EQ(Tokenizer::parse_spec("byte-bpe:8000").vocab_size, 8000);
  for (const char* spec : {"", "char:5", "bpe", "bpe:", "bpe:0", "bpe:-3", "bpe:8k", "bpe:1e3",
                           "bpe:99999999999999999999", "bpe:16777217", "words:10", "llama:10"})
    EXPECT_EQ(error_of([&] { Tokenizer::parse_spec(spec); }),
              "tokenizer \"" + std::string(spec) +
                  "\": expected char, bpe:N, byte-bpe:N or word:N with N tokens of 1 to 16777216");
  TokenizerTraining training;
  training.kind = "llama";
  EXPECT_EQ(error_of([&] { Tokenizer::train(training, source_of({})); }),
            "tokenizer kind \"llama\": expected char, bpe, byte-bpe or word to train");
}

TEST(TokenizerTraining, CharTakesTheCodePointsInOrder) {
  EXPECT_EQ(vocabulary_of(train("char", {"b猫a\n", "ab"})), (Texts{"<unk>", "\n", "a", "b", "猫"}));
  EXPECT_EQ(vocabulary_of(train("char", {"a"}, {"<s>", "<pad>"})),
            (Texts{"<s>", "<pad>", "<unk>", "a"}));
  EXPECT_EQ(vocabulary_of(train("char", {"a"}, {"<unk>", "<s>"})), (Texts{"<unk>", "<s>", "a"}));
  EXPECT_EQ(vocabulary_of(train("char", {})), (Texts{"<unk>"}));
}

TEST(TokenizerTraining, BpeMergesTheMostFrequentPairs) {
  // "low" 5 times, "lower" 2, "newest" 6, "widest" 3: the textbook example.
  std::string text;
  for (int i = 0; i < 6; ++i) text += " newest";
  for (int i = 0; i < 5; ++i) text += " low";
  for (int i = 0; i < 3; ++i) text += " widest";
  for (int i = 0; i < 2; ++i) text += " lower";
  const Tokenizer tokenizer = train("bpe:21", {text});
  EXPECT_EQ(vocabulary_of(tokenizer),
            (Texts{"<unk>", "d",       "e",  "i",  "l",     "n",          "o",
                   "r",     "s",       "t",  "w",  "r</w>", "t</w>",      "w</w>",
                   "es",    "est</w>", "lo", "ew", "new",   "newest</w>", "low</w>"}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("lowest newer")), "lowest newer");
}

TEST(TokenizerTraining, ByteBpeStartsFromAllBytes) {
  const Tokenizer tokenizer = train("byte-bpe:260", {"aab aab aab"}, {"<|endoftext|>"});
  const Texts tokens = vocabulary_of(tokenizer);
  EXPECT_EQ(tokens[0], "<|endoftext|>");
  EXPECT_EQ(tokens[1], "!");
  EXPECT_EQ(tokens[189], "\u0100");  // byte 0, after the 188 that are visible
  EXPECT_EQ(Texts(tokens.begin() + 257, tokens.end()), (Texts{"aa", "aab", "\u0120aab"}));
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("\xff xyz")), "\xff xyz");
}

TEST(TokenizerTraining, DependsOnTheTextOnly) {
  std::string text;
  for (int i = 0; i < 3; ++i) text += kRhyme;
  Random random(mix_key(1, "pieces"));
  for (const char* spec : {"char", "bpe:120", "byte-bpe:330"}) {
    const std::string whole = train(spec, {text}).to_json();
    EXPECT_EQ(train(spec, {text}).to_json(), whole);
    for (const uint64_t longest : {1, 2, 7, 100}) {
      Texts pieces;
      for (size_t at = 0; at < text.size(); at += pieces.back().size())
        pieces.push_back(text.substr(at, 1 + random.below(longest)));
      pieces.insert(pieces.begin() + 1, "");  // a piece may be empty
      EXPECT_EQ(train(spec, pieces).to_json(), whole) << spec << ", pieces up to " << longest;
    }
  }
}

TEST(TokenizerTraining, DoesNotDependOnTheOrderOfFiles) {
  Texts files;
  for (const char* line : {"the cat sat\n", "on the mat\n", "that sat there\n", "ababab abab\n"})
    files.push_back(line);
  for (const char* spec : {"bpe:60", "byte-bpe:300"}) {
    const std::string first = train(spec, files).to_json();
    std::sort(files.begin(), files.end());
    do EXPECT_EQ(train(spec, files).to_json(), first);
    while (std::next_permutation(files.begin(), files.end()));
  }
}

TEST(TokenizerTraining, KeepsWhatItLearnedThroughAFile) {
  for (const char* spec : {"char", "bpe:150", "byte-bpe:400"}) {
    const Tokenizer tokenizer = train(spec, {kRhyme}, {"<s>", "</s>"});
    const Tokenizer again = Tokenizer::from_json(tokenizer.to_json(), "again");
    EXPECT_EQ(again.to_json(), tokenizer.to_json());
    EXPECT_EQ(again.kind(), tokenizer.kind());
    const std::string text = kRhyme + "<s>unseen Ω</s>";
    for (const bool special : {false, true})
      EXPECT_EQ(again.encode(text, special), tokenizer.encode(text, special));
  }
}

TEST(TokenizerTraining, TextNeverMakesASpecialToken) {
  std::string text;
  for (int i = 0; i < 50; ++i) text += "<s>x<s>x </w>a</w> a<";
  for (const char* spec : {"bpe:100", "byte-bpe:400"}) {
    const Tokenizer tokenizer = train(spec, {text}, {"<s>"});
    for (const int32_t id : tokenizer.encode(text)) EXPECT_FALSE(tokenizer.is_special(id));
    EXPECT_EQ(tokenizer.decode(tokenizer.encode("<s>x </w>a</w> </w>")), "<s>x </w>a</w> </w>");
    EXPECT_NO_THROW(Tokenizer::from_json(tokenizer.to_json(), "again"));
  }
}

TEST(TokenizerTraining, StopsWhenThereAreNoMorePairs) {
  EXPECT_EQ(vocabulary_of(train("bpe:1000", {"ab ab"})),
            (Texts{"<unk>", "a", "b", "b</w>", "ab</w>"}));
  EXPECT_EQ(train("byte-bpe:1000", {""}).vocab_size(), 256);
}

TEST(TokenizerTraining, RefusesAVocabularyTooSmallForItsAlphabet) {
  EXPECT_EQ(
      error_of([] {
        train("byte-bpe:257", {"a"}, {"<s>", "</s>"});
      }),
      "a vocabulary of 257 tokens is too small: 256 characters and 2 special tokens need 258");
  // Of bpe, rare characters are unknown instead (tokenizer_word_test.cc), but not all of them.
  EXPECT_EQ(error_of([] { train("bpe:2", {"ab ab"}, {"<s>"}); }),
            "a vocabulary of 2 tokens is too small: 2 special tokens leave no room for the most "
            "frequent character");
  EXPECT_EQ(train("byte-bpe:258", {"a"}, {"<s>", "</s>"}).vocab_size(), 258);
}

TEST(TokenizerTraining, RefusesBadSpecialTokens) {
  EXPECT_EQ(error_of([] { train("char", {"a"}, {"<s>", "<s>"}); }), "special token \"<s>\" twice");
  EXPECT_EQ(error_of([] { train("char", {"a"}, {""}); }),
            "special token \"\": expected text that is valid UTF-8");
  EXPECT_NE(error_of([] { train("char", {"a"}, {"\xff"}); }), "(no error)");
  EXPECT_EQ(error_of([] { train("bpe:9", {"a"}, {"</w>"}); }),
            "special token \"</w>\": \"</w>\" ends a word in bpe");
  EXPECT_EQ(error_of([] { train("char", {"a"}, {"a"}); }),
            "special token \"a\" is a character of the text as well");
  EXPECT_NE(error_of([] { train("byte-bpe:300", {"a"}, {"!"}); }), "(no error)");
}

TEST(TokenizerTraining, NamesTheByteThatIsNotText) {
  for (const char* spec : {"char", "bpe:100"}) {
    for (const Texts& pieces : {Texts{"abc d\xff"
                                      "e fg"},
                                Texts{"ab", "c d",
                                      "\xff"
                                      "e fg"}})
      EXPECT_EQ(error_of([&] { train(spec, pieces); }),
                "the training text is not valid UTF-8 at byte 5 (from 0): convert it, or train "
                "byte-bpe")
          << spec;
    EXPECT_NE(error_of([&] { train(spec, {"ab \xe7\x8c"}); }).find("at byte 3"), std::string::npos);
  }
  const std::string bytes = "abc d\xff \xe7\x8c";  // byte-bpe takes any
  EXPECT_EQ(train("byte-bpe:300", {bytes}).vocab_size(), 256 + 2 + 1 + 2);
}

TEST(TokenizerTraining, BoundsTheWordsItKeeps) {
  TokenizerTraining training = Tokenizer::parse_spec("bpe:100");
  training.max_words = 3;
  EXPECT_NO_THROW(Tokenizer::train(training, source_of({"a b c a b c"})));
  EXPECT_EQ(
      error_of([&] { Tokenizer::train(training, source_of({"a b c d"})); }),
      "the training text has more than 3 distinct words: train the tokenizer on a part of it");
}

}  // namespace
}  // namespace refrain
