#include "refrain/text/tokenizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <thread>
#include <vector>

#include "refrain/base/random.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"
#include "support/tokenizer_files.h"

namespace refrain {
namespace {

using io::Json;
using testing_files::byte_bpe_file;
using testing_files::char_file;
using testing_files::llama_file;
using testing_files::spaced_file;
using text::kNoToken;
using text::StreamDecoder;
using text::Tokenizer;

using Ids = std::vector<int32_t>;
using Texts = std::vector<std::string>;

Texts tokens_of(const Tokenizer& tokenizer, std::string_view text, bool special = false) {
  Texts tokens;
  for (const int32_t id : tokenizer.encode(text, special)) tokens.emplace_back(tokenizer.token(id));
  return tokens;
}

std::string round_trip(const Tokenizer& tokenizer, std::string_view text) {
  return tokenizer.decode(tokenizer.encode(text));
}

std::string streamed(const Tokenizer& tokenizer, const Ids& ids) {
  StreamDecoder decoder(tokenizer);
  std::string text;
  for (const int32_t id : ids) text += decoder.feed(id);
  return text + decoder.finish();
}

TEST(Tokenizer, CharIsATokenForEachCodePoint) {
  const Tokenizer tokenizer = char_file().load();
  EXPECT_EQ(tokenizer.kind(), "char");
  EXPECT_EQ(tokens_of(tokenizer, "ab 猫\n"), (Texts{"a", "b", " ", "猫", "\n"}));
  EXPECT_EQ(round_trip(tokenizer, "ab 猫\n"), "ab 猫\n");
  EXPECT_EQ(tokens_of(tokenizer, "azza"), (Texts{"a", "<unk>", "<unk>", "a"}));
  EXPECT_EQ(round_trip(tokenizer, "azza"), "aa");  // <unk> is special
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("az"), true), "a<unk>");
  // An invalid byte, and a character that breaks off, are one unknown character each.
  EXPECT_EQ(tokens_of(tokenizer,
                      "a\xff"
                      "b\xe7\x8c"),
            (Texts{"a", "<unk>", "b", "<unk>"}));
}

TEST(Tokenizer, BpeMarksTheEndsOfWords) {
  const Tokenizer tokenizer = spaced_file().load();
  EXPECT_EQ(tokenizer.kind(), "bpe");
  EXPECT_EQ(tokens_of(tokenizer, "  low lower\u3000o\n"),
            (Texts{"low</w>", "low", "e", "r</w>", "o</w>"}));
  EXPECT_EQ(round_trip(tokenizer, "  low lower\u3000o\n"), "low lower o");
  // "w" is known inside of a word only, and nothing at all about "x".
  EXPECT_EQ(tokens_of(tokenizer, "ox xw"), (Texts{"o", "<unk>", "<unk>", "w</w>"}));
  EXPECT_EQ(tokens_of(tokenizer, "ol o\xff"), (Texts{"o", "<unk>", "o", "<unk>"}));
}

TEST(Tokenizer, ByteBpeKeepsAnyBytes) {
  const Tokenizer tokenizer = byte_bpe_file().load();
  EXPECT_EQ(tokenizer.kind(), "byte-bpe");
  EXPECT_EQ(tokens_of(tokenizer, "hello hello's  hell"),
            (Texts{"hell", "o", "\u0120hello", "'", "s", "\u0120", "\u0120hell"}));
  std::string all;
  for (int i = 0; i < 256; ++i) all.push_back(static_cast<char>(i));
  EXPECT_EQ(round_trip(tokenizer, all), all);
  Random random(mix_key(1, "bytes"));
  for (int round = 0; round < 200; ++round) {
    std::string bytes(random.below(60), ' ');
    for (char& byte : bytes) byte = static_cast<char>(random.below(256));
    const Ids ids = tokenizer.encode(bytes);
    EXPECT_EQ(tokenizer.decode(ids), bytes);
    EXPECT_EQ(streamed(tokenizer, ids), bytes);
  }
}

TEST(Tokenizer, ByteBpeFollowsTheFilesSettings) {
  auto file = byte_bpe_file();
  file.json["pre_tokenizer"]["add_prefix_space"] = true;
  EXPECT_EQ(tokens_of(file.load(), "hello hello"), (Texts{"\u0120hello", "\u0120hello"}));
  EXPECT_EQ(tokens_of(file.load(), " hello"), (Texts{"\u0120hello"}));
  EXPECT_EQ(file.load().encode(""), Ids{});

  file = byte_bpe_file();
  file.json["pre_tokenizer"]["use_regex"] = false;
  file.merge("o", "\u0120hello");
  EXPECT_EQ(tokens_of(file.load(), "hello hello"), (Texts{"hell", "o\u0120hello"}));

  file = byte_bpe_file();
  file.add_token("oh");  // no merge makes it
  EXPECT_EQ(tokens_of(file.load(), "oh"), (Texts{"o", "h"}));
  file.json["model"]["ignore_merges"] = true;
  EXPECT_EQ(tokens_of(file.load(), "oh"), (Texts{"oh"}));
  EXPECT_EQ(tokens_of(file.load(), "ohh"), (Texts{"o", "h", "h"}));
}

TEST(Tokenizer, ByteBpeWithoutAllBytesLeavesOutTheOthers) {
  auto file = byte_bpe_file();
  file.json["model"]["vocab"] = io::Json{{"a", 0}, {"b", 1}, {"?", 2}};
  file.json["model"]["merges"] = io::Json::array();
  file.json["added_tokens"] = io::Json::array();
  EXPECT_EQ(tokens_of(file.load(), "abcda"), (Texts{"a", "b", "a"}));
  file.json["model"]["unk_token"] = "?";
  EXPECT_EQ(tokens_of(file.load(), "abcda"), (Texts{"a", "b", "?", "?", "a"}));
  file.json["model"]["fuse_unk"] = true;
  EXPECT_EQ(tokens_of(file.load(), "abcda"), (Texts{"a", "b", "?", "a"}));
}

TEST(Tokenizer, LlamaPutsASpaceInFrontAndFallsBackToBytes) {
  const Tokenizer tokenizer = llama_file().load();
  EXPECT_EQ(tokenizer.kind(), "llama");
  EXPECT_EQ(tokens_of(tokenizer, "ab ab"), (Texts{"▁ab", "▁ab"}));
  EXPECT_EQ(tokens_of(tokenizer, " ab"), (Texts{"▁", "▁ab"}));
  EXPECT_EQ(tokens_of(tokenizer, "a\n"), (Texts{"▁a", "<0x0A>"}));
  EXPECT_EQ(tokens_of(tokenizer, "é\xff"), (Texts{"▁", "<0xC3>", "<0xA9>", "<0xFF>"}));
  for (const std::string text : {"ab ab", " ab", "a\n", "", "é\xff b", "▁"}) {
    EXPECT_EQ(round_trip(tokenizer, text), text == "▁" ? " " : text);
  }
  EXPECT_EQ(tokenizer.encode(""), Ids{});
}

TEST(Tokenizer, LlamaFollowsTheFormOfTheFile) {
  auto file = llama_file();
  // As a normalizer: before every stretch of text.
  EXPECT_EQ(tokens_of(file.load(), "<s>ab</s>ab", true), (Texts{"<s>", "▁ab", "</s>", "▁ab"}));
  EXPECT_EQ(tokens_of(file.load(), "ab <s> ab", true), (Texts{"▁ab", "▁", "<s>", "▁", "▁ab"}));
  file.json["normalizer"]["normalizers"].erase(0);
  EXPECT_EQ(tokens_of(file.load(), "ab ab"), (Texts{"ab", "▁ab"}));
  // As Metaspace: only where there is none.
  file.json["normalizer"] = nullptr;
  file.json["pre_tokenizer"] = {
      {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", "always"}, {"split", false}};
  EXPECT_EQ(tokens_of(file.load(), "<s>ab</s> ab", true), (Texts{"<s>", "▁ab", "</s>", "▁ab"}));
  file.json["pre_tokenizer"]["prepend_scheme"] = "first";
  EXPECT_EQ(tokens_of(file.load(), "ab<s>ab", true), (Texts{"▁ab", "<s>", "ab"}));
  EXPECT_EQ(tokens_of(file.load(), "<s>ab", true), (Texts{"<s>", "ab"}));
  file.json["pre_tokenizer"]["prepend_scheme"] = "never";
  EXPECT_EQ(tokens_of(file.load(), "ab ab"), (Texts{"ab", "▁ab"}));
  file.merge("▁", "▁");
  EXPECT_EQ(tokens_of(file.load(), "a  b"), (Texts{"a", "▁▁", "b"}));
  file.json["pre_tokenizer"]["split"] = true;
  EXPECT_EQ(tokens_of(file.load(), "a  b"), (Texts{"a", "▁", "▁", "b"}));
}

TEST(Tokenizer, LlamaMergesAcrossSpacesWhereAMergeSaysSo) {
  auto file = llama_file();
  file.merge("b", "▁a");
  EXPECT_EQ(tokens_of(file.load(), "b a"), (Texts{"▁", "b▁a"}));
  EXPECT_EQ(round_trip(file.load(), "b a"), "b a");
}

TEST(Tokenizer, SpecialTokensAreFoundWhereTheyAreAskedFor) {
  const Tokenizer tokenizer = byte_bpe_file().load();
  const Ids plain = tokenizer.encode("hello<|endoftext|>");
  EXPECT_EQ(plain.back(), tokenizer.id_of(">"));
  EXPECT_EQ(tokenizer.decode(plain), "hello<|endoftext|>");
  const Ids ids = tokenizer.encode("hello<|endoftext|>", true);
  EXPECT_EQ(ids.back(), tokenizer.eos());
  EXPECT_TRUE(tokenizer.is_special(ids.back()));
  EXPECT_FALSE(tokenizer.is_special(ids.front()));
  EXPECT_EQ(tokenizer.decode(ids), "hello");
  EXPECT_EQ(tokenizer.decode(ids, true), "hello<|endoftext|>");
  EXPECT_EQ(streamed(tokenizer, ids), "hello");
}

TEST(Tokenizer, AddedTokensMatchLeftmostThenLongest) {
  auto file = byte_bpe_file();
  file.add_special("<a>");
  file.add_special("<a><b>");
  file.add_special("b><c");
  file.add_special("é ü");
  file.add_special("word", {{"special", false}, {"normalized", false}});
  const Tokenizer tokenizer = file.load();
  EXPECT_EQ(tokens_of(tokenizer, "<a><b><c", true), (Texts{"<a><b>", "<", "c"}));
  EXPECT_EQ(tokens_of(tokenizer, "<a><d>", true), (Texts{"<a>", "<", "d", ">"}));
  // What is added without being special is a token of the text, always.
  EXPECT_EQ(tokens_of(tokenizer, "swords"), (Texts{"s", "word", "s"}));
  EXPECT_EQ(round_trip(tokenizer, "swords"), "swords");
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("<é ü>", true), true), "<é ü>");
}

TEST(Tokenizer, NormalizedAddedTokensAreLookedForInNormalizedText) {
  auto file = llama_file();
  file.json["added_tokens"][1]["normalized"] = true;  // "<s>" is "▁<s>" with the space in front
  const Tokenizer tokenizer = file.load();
  EXPECT_EQ(tokens_of(tokenizer, "<s>ab", true), (Texts{"<s>", "ab"}));
  EXPECT_EQ(tokens_of(tokenizer, "ab <s> ab", true), (Texts{"▁ab", "<s>", "▁ab"}));
  const Ids inside = tokenizer.encode("ab<s>", true);
  EXPECT_EQ(std::count(inside.begin(), inside.end(), tokenizer.bos()), 0);
}

// What the `tokenizers` package (0.23) gives; tests/compat/tokenizer_compat.py has many more.
TEST(Tokenizer, AddedTokensDecodeToWhatTheyWereLookedForIn) {
  auto file = llama_file();
  file.add_special("ba", {{"special", false}, {"normalized", true}});
  file.add_special("b ab", {{"special", false}, {"normalized", true}});
  file.add_special("▁x", {{"special", false}, {"normalized", false}});
  const Tokenizer tokenizer = file.load();
  const std::pair<std::string, Texts> cases[] = {
      {"ab ba ab", {"▁ab", "ba", "▁ab"}},  // in the middle
      {"ba ab", {"ba", "▁ab"}},            // at the start
      {"ab ba", {"▁ab", "ba"}},            // at the end
      {"ba ba", {"ba", "ba"}},             // twice
      {"abba", {"▁ab", "b", "a"}},         // without its space it is not there
      {"a b ab a", {"▁a", "b ab", "▁a"}},  // with a space inside
  };
  for (const auto& [text, tokens] : cases) {
    const Ids ids = tokenizer.encode(text);
    EXPECT_EQ(tokens_of(tokenizer, text), tokens);
    EXPECT_EQ(tokenizer.decode(ids), text);
    EXPECT_EQ(streamed(tokenizer, ids), text);
  }
  EXPECT_EQ(tokens_of(tokenizer, "a▁x"), (Texts{"▁a", "▁x"}));
  EXPECT_EQ(round_trip(tokenizer, "a▁x"), "a x");  // as marks in other tokens
  // Not normalized, and in the form without a prefix: what is added is what is there.
  file = llama_file();
  file.add_special("ba", {{"special", false}, {"normalized", false}});
  EXPECT_EQ(round_trip(file.load(), "ab ba"), "ab ba");
  file = llama_file();
  file.json["normalizer"]["normalizers"].erase(0);
  file.add_special("b a", {{"special", false}, {"normalized", true}});
  EXPECT_EQ(tokens_of(file.load(), "ab ab a"), (Texts{"a", "b a", "b a"}));
  EXPECT_EQ(round_trip(file.load(), "ab ab a"), "ab ab a");
}

TEST(Tokenizer, AddedTokensMayTakeWhiteSpaceAlongOrStandAlone) {
  const auto tokens = [](const Json& settings, const std::string& text) {
    auto file = byte_bpe_file();
    Json all = {{"special", false}};
    all.update(settings);
    file.add_special("sat", all);
    return tokens_of(file.load(), text);
  };
  const Json none = Json::object(), left = {{"lstrip", true}}, right = {{"rstrip", true}},
             word = {{"single_word", true}};
  EXPECT_EQ(tokens(none, "a sat o"), (Texts{"a", "\u0120", "sat", "\u0120", "o"}));
  EXPECT_EQ(tokens(left, "a \n sat o"), (Texts{"a", "sat", "\u0120", "o"}));
  EXPECT_EQ(tokens(left, "\u3000\u2003sat"), (Texts{"sat"}));
  EXPECT_EQ(tokens(left, "sat sat"), (Texts{"sat", "sat"}));
  EXPECT_EQ(tokens(right, "a sat \u3000\no"), (Texts{"a", "\u0120", "sat", "o"}));
  EXPECT_EQ(tokens(right, "sat sat "), (Texts{"sat", "sat"}));
  EXPECT_EQ(tokens(word, "sat"), (Texts{"sat"}));
  EXPECT_EQ(tokens(word, "-sat."), (Texts{"-", "sat", "."}));
  for (const char* beside :
       {"_", "x", "1", "é", "猫", "\u0301", "\u203F", "\u200D", "\U000E0101"}) {
    const auto has = [&](const std::string& text) {
      const Texts found = tokens(word, text);
      return std::count(found.begin(), found.end(), "sat") > 0;
    };
    EXPECT_FALSE(has(std::string("sat") + beside)) << beside;
    EXPECT_FALSE(has(beside + std::string("sat"))) << beside;
    EXPECT_TRUE(has(beside + std::string(" sat ") + beside)) << beside;
  }
  // Bytes that are not UTF-8 are no characters of words.
  EXPECT_EQ(tokens(word, "\xffsat\xff")[1], "sat");
}

TEST(Tokenizer, WhatAMatchCoversIsUsedUpEvenIfItDoesNotCount) {
  auto file = byte_bpe_file();
  file.add_special("<a>");
  file.add_special("a><b", {{"special", false}});
  file.add_special("<", {{"special", false}});
  const Tokenizer tokenizer = file.load();
  EXPECT_EQ(tokenizer.encode("<a><b")[0], tokenizer.id_of("<"));
  EXPECT_EQ(tokens_of(tokenizer, "<a><b"), (Texts{"<", "a", ">", "<", "b"}));
  EXPECT_EQ(tokens_of(tokenizer, "<a><b", true), (Texts{"<a>", "<", "b"}));
  EXPECT_EQ(tokens_of(tokenizer, "a><b"), (Texts{"a><b"}));
}

TEST(Tokenizer, KnowsItsSpecialTokensByName) {
  auto file = char_file();
  Tokenizer tokenizer = file.load();
  EXPECT_EQ(tokenizer.unk(), tokenizer.id_of("<unk>"));
  EXPECT_EQ(tokenizer.bos(), kNoToken);
  EXPECT_EQ(tokenizer.eos(), kNoToken);
  EXPECT_EQ(tokenizer.pad(), kNoToken);
  EXPECT_EQ(tokenizer.id_of("no such token"), kNoToken);
  for (const char* name : {"<s>", "</s>", "<pad>"}) file.add_special(name);
  tokenizer = file.load();
  EXPECT_EQ(tokenizer.token(tokenizer.bos()), "<s>");
  EXPECT_EQ(tokenizer.token(tokenizer.eos()), "</s>");
  EXPECT_EQ(tokenizer.token(tokenizer.pad()), "<pad>");
  EXPECT_FALSE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.vocab_size(), tokenizer.pad() + 1);
  EXPECT_EQ(byte_bpe_file().load().unk(), kNoToken);
}

TEST(Tokenizer, LearnsTheBosFromTheTemplate) {
  const Tokenizer tokenizer = llama_file().load();
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.token(tokenizer.bos()), "<s>");
  EXPECT_EQ(tokens_of(tokenizer, "ab"), (Texts{"▁ab"}));  // adding it is the caller's business
}

TEST(Tokenizer, StreamsEqualDecode) {
  auto llama = llama_file();
  for (const Tokenizer& tokenizer :
       {char_file().load(), spaced_file().load(), byte_bpe_file().load(), llama.load()}) {
    Random random(mix_key(1, tokenizer.kind()));
    StreamDecoder decoder(tokenizer);  // one for all sequences
    for (int round = 0; round < 500; ++round) {
      Ids ids(random.below(12));
      for (int32_t& id : ids)
        id = static_cast<int32_t>(random.below(static_cast<uint64_t>(tokenizer.vocab_size())));
      std::string text;
      for (const int32_t id : ids) text += decoder.feed(id);
      text += decoder.finish();
      ASSERT_EQ(text, tokenizer.decode(ids)) << tokenizer.kind();
    }
  }
}

TEST(Tokenizer, StreamsHoldBackWhatCanStillChange) {
  const Tokenizer bytes = byte_bpe_file().load();
  StreamDecoder decoder(bytes);
  const Ids cat = bytes.encode("猫");
  ASSERT_EQ(cat.size(), 3u);
  EXPECT_EQ(decoder.feed(cat[0]), "");
  EXPECT_EQ(decoder.feed(cat[1]), "");
  EXPECT_EQ(decoder.feed(cat[2]), "猫");
  EXPECT_EQ(decoder.feed(cat[0]), "");
  EXPECT_EQ(decoder.finish(), "\xe7");

  const Tokenizer words = spaced_file().load();
  StreamDecoder spaces(words);
  EXPECT_EQ(spaces.feed(words.id_of("low</w>")), "low");
  EXPECT_EQ(spaces.feed(words.id_of("low</w>")), " low");
  EXPECT_EQ(spaces.finish(), "");

  const Tokenizer llama = llama_file().load();
  StreamDecoder marks(llama);
  EXPECT_EQ(marks.feed(llama.bos()), "");
  EXPECT_EQ(marks.feed(llama.id_of("▁ab")), "ab");
  EXPECT_EQ(marks.feed(llama.id_of("▁ab")), " ab");
  EXPECT_EQ(marks.finish(), "");
  EXPECT_EQ(marks.feed(llama.id_of("▁ab")), "ab");
}

TEST(Tokenizer, RefusesIdsThatItDoesNotHave) {
  const Tokenizer tokenizer = char_file().load();
  const auto size = static_cast<int32_t>(tokenizer.vocab_size());
  StreamDecoder decoder(tokenizer);
  for (const int32_t id : {-1, size, INT32_MAX, INT32_MIN}) {
    EXPECT_EQ(error_of([&] { tokenizer.token(id); }),
              fmt::format("token id {} is not one of the vocabulary's 0 to {}", id, size - 1));
    EXPECT_THROW(tokenizer.is_special(id), Error);
    if (id >= 0) continue;
    EXPECT_THROW(tokenizer.decode(Ids{0, id}), Error);
    EXPECT_THROW(decoder.feed(id), Error);
  }
}

TEST(Tokenizer, IdsBeyondTheVocabularyShowAsTheReplacementCharacter) {
  // A model may have more ids than its tokenizer has tokens.
  for (const Tokenizer& tokenizer :
       {char_file().load(), spaced_file().load(), byte_bpe_file().load(), llama_file().load()}) {
    const auto size = static_cast<int32_t>(tokenizer.vocab_size());
    for (const Ids& ids : {Ids{size}, Ids{size, INT32_MAX}, Ids{size - 1, size, size - 1, size}}) {
      std::string expected;
      for (const int32_t id : ids)
        expected += id < size ? tokenizer.decode(Ids{id}) : std::string("\uFFFD");
      if (tokenizer.kind() != "bpe") {
        EXPECT_EQ(tokenizer.decode(ids), expected) << tokenizer.kind();
      }
      EXPECT_EQ(streamed(tokenizer, ids), tokenizer.decode(ids)) << tokenizer.kind();
    }
  }
  const Tokenizer words = spaced_file().load();
  const auto size = static_cast<int32_t>(words.vocab_size());
  const int32_t low = words.id_of("low</w>");
  EXPECT_EQ(words.decode(Ids{low, size, low}), "low \uFFFDlow");
}

TEST(Tokenizer, LongTextsOfRepeatedWordsGiveWhatShortOnesGive) {
  const Tokenizer tokenizer = byte_bpe_file().load();
  Random random(mix_key(1, "words"));
  std::string text;
  Ids expected;
  for (int i = 0; i < 20000; ++i) {
    std::string word = " ";
    for (uint64_t letters = 1 + random.below(4); letters > 0; --letters)
      word.push_back("helo"[random.below(4)]);
    text += word;
    const Ids ids = tokenizer.encode(word);
    expected.insert(expected.end(), ids.begin(), ids.end());
  }
  EXPECT_EQ(tokenizer.encode(text), expected);
}

TEST(Tokenizer, AMegabyteWithoutSpacesIsEncodedInNoTime) {
  const std::string text(1 << 20, 'l');
  EXPECT_EQ(byte_bpe_file().load().encode(text).size(), text.size() / 2);  // "ll"
  auto llama = llama_file();
  EXPECT_EQ(round_trip(llama.load(), std::string(1 << 20, ' ')), std::string(1 << 20, ' '));
}

TEST(Tokenizer, OneTokenizerServesManyThreads) {
  const Tokenizer tokenizer = byte_bpe_file().load();
  const std::string text = "hello hell hello's 猫 <|endoftext|> ";
  const Ids expected = tokenizer.encode(text, true);
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (int& count : wrong)
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i)
        count +=
            tokenizer.encode(text, true) != expected || tokenizer.decode(expected, true) != text;
    });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

// llama2.c's and GPT-2's files.

struct ScoredPieces {
  std::vector<std::string> pieces = {"<unk>", "\n<s>\n", "\n</s>\n"};
  std::vector<float> scores = {0, 0, 0};
  ScoredPieces() {
    for (int byte = 0; byte < 256; ++byte) add(fmt::format("<0x{:02X}>", byte), 0);
  }
  void add(const std::string& piece, float score) {
    pieces.push_back(piece);
    scores.push_back(score);
  }
  Tokenizer make() const { return Tokenizer::from_scored_pieces(pieces, scores); }
};

TEST(Tokenizer, ScoredPiecesMergeByScore) {
  ScoredPieces scored;
  float score = -1;
  for (const char* piece : {" a", "bc", "ab", " abc", " ", "a", "b", "c"})
    scored.add(piece, score--);
  const Tokenizer tokenizer = scored.make();
  EXPECT_EQ(tokenizer.kind(), "llama");
  EXPECT_EQ(tokens_of(tokenizer, "abc ab"), (Texts{"▁abc", "▁a", "b"}));
  EXPECT_EQ(tokens_of(tokenizer, "ab\n"), (Texts{"▁a", "b", "<0x0A>"}));
  EXPECT_EQ(round_trip(tokenizer, "abc ab\né"), "abc ab\né");
  EXPECT_EQ(tokenizer.encode("abc").size(), 1u);
  EXPECT_EQ(tokenizer.token(1), "<s>");
  EXPECT_EQ(tokenizer.bos(), 1);
  EXPECT_EQ(tokenizer.eos(), 2);
  EXPECT_TRUE(tokenizer.adds_bos());
  const Tokenizer again = Tokenizer::from_json(tokenizer.to_json(), "again");
  EXPECT_TRUE(again.adds_bos());
  EXPECT_EQ(again.encode("abc ab\né"), tokenizer.encode("abc ab\né"));
}

TEST(Tokenizer, ScoredPiecesAreChecked) {
  const auto error = [](auto change) {
    ScoredPieces scored;
    scored.add("a", -1);
    change(scored);
    return error_of([&] { scored.make(); });
  };
  EXPECT_EQ(error([](ScoredPieces&) {}), "(no error)");
  EXPECT_EQ(error([](ScoredPieces& s) { s.scores.pop_back(); }),
            "tokenizer: 260 pieces with 259 scores");
  EXPECT_EQ(error([](ScoredPieces& s) { s.pieces.resize(100), s.scores.resize(100); }),
            "tokenizer: 100 pieces, expected at least 259 (special tokens and bytes)");
  EXPECT_EQ(error([](ScoredPieces& s) { s.pieces[5] = "b"; }),
            "tokenizer: piece 5: expected <0x02>, found \"b\"");
  EXPECT_EQ(error([](ScoredPieces& s) { s.add("a", -2); }),
            "tokenizer: pieces 259 and 260 are the same: \"a\"");
  EXPECT_NE(error([](ScoredPieces& s) { s.add("", -2); }), "(no error)");
  EXPECT_NE(error([](ScoredPieces& s) { s.add("\xff", -2); }), "(no error)");
  EXPECT_NE(error([](ScoredPieces& s) { s.add("b", NAN); }), "(no error)");
  // All ways to cut a piece are tried: a long one would take forever.
  EXPECT_EQ(error([](ScoredPieces& s) { s.add(std::string(512, 'b'), -2); }), "(no error)");
  EXPECT_EQ(error([](ScoredPieces& s) { s.add(std::string(513, 'b'), -2); }),
            "tokenizer: piece 260: expected at most 512 bytes, found 513");
}

TEST(Tokenizer, ReadsGpt2sOwnFiles) {
  const TemporaryFolder folder;
  const auto file = byte_bpe_file();
  const std::string vocab = folder.put("encoder.json", file.json["model"]["vocab"].dump());
  const std::string merges =
      folder.put("vocab.bpe", "#version: 0.2\nl l\nh e\nhe ll\n\u0120 hell\n\u0120hell o\n");
  const Tokenizer tokenizer = Tokenizer::from_gpt2(vocab, merges);
  const std::string text = "hello hello <|endoftext|>";
  EXPECT_EQ(tokenizer.encode(text, true), file.load().encode(text, true));
  EXPECT_EQ(tokenizer.eos(), file.load().eos());

  folder.put("vocab.bpe", "#version: 0.2\nl l\nl q\n");
  EXPECT_EQ(
      error_of([&] { Tokenizer::from_gpt2(vocab, merges); }),
      vocab + ", " + merges + ": model: merges: number 1: token \"lq\" is not in the vocabulary");
  folder.put("encoder.json", "[1, 2]");
  EXPECT_NE(error_of([&] { Tokenizer::from_gpt2(vocab, merges); }), "(no error)");
}

}  // namespace
}  // namespace refrain
