// Word-level vocabularies, and characters that a bpe:N leaves out.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "refrain/io/text.h"
#include "refrain/text/text_cuts.h"
#include "refrain/text/tokenizer.h"
#include "support/error_of.h"
#include "support/tokenizer_files.h"

namespace refrain {
namespace {

using text::Tokenizer;
using text::TokenizerTraining;
using Ids = std::vector<int32_t>;

Tokenizer train(const TokenizerTraining& training, std::string text) {
  return Tokenizer::train(training, [text, given = false](std::string& piece) mutable {
    piece = text;
    return !std::exchange(given, true);
  });
}

TokenizerTraining spec(const std::string& what, std::vector<std::string> special = {}) {
  TokenizerTraining training = Tokenizer::parse_spec(what);
  training.special_tokens = std::move(special);
  return training;
}

TEST(Words, TheMostFrequentAreTokens) {
  const Tokenizer words =
      train(spec("word:6", {"</s>"}), "b c a\nc, b c <unk>\u3000d b </s> c\tc a");
  ASSERT_EQ(words.vocab_size(), 6);
  EXPECT_EQ(words.kind(), "word");
  // Special tokens, then by frequency, of equally frequent ones by text.
  const char* want[] = {"</s>", "<unk>", "c", "b", "a", "c,"};
  for (int32_t id = 0; id < 6; ++id) EXPECT_EQ(words.token(id), want[id]);
  EXPECT_EQ(words.unk(), 1);
  EXPECT_EQ(words.eos(), 0);
  EXPECT_EQ(words.encode(" a  b\nd <unk> c,c c"), (Ids{4, 3, 1, 1, 1, 2}));
  EXPECT_EQ(words.encode("\xff a"), (Ids{1, 4}));
  EXPECT_EQ(words.encode(""), Ids{});
  EXPECT_EQ(words.decode(Ids{4, 3, 0, 2}), "a b c");
  EXPECT_EQ(words.decode(Ids{4, 3, 0, 2}, true), "a b </s> c");
  // Fewer words than there is room for.
  EXPECT_EQ(train(spec("word:100"), "a b a").vocab_size(), 3);
  EXPECT_NE(error_of([] { train(spec("word:1"), "a b"); }).find("too small"), std::string::npos);
  EXPECT_NE(error_of([] { train(spec("word:9"), "a \xff b"); }).find("UTF-8"), std::string::npos);
  for (const char* bad : {"word", "word:", "word:0", "word:x"})
    EXPECT_NE(error_of([&] { Tokenizer::parse_spec(bad); }), "") << bad;
}

TEST(Words, StreamsDecodeAlike) {
  const Tokenizer words = testing_files::word_file().load();
  const Ids ids = {2, 3, 1, 99, 4, 0, 2};
  std::string streamed;
  text::StreamDecoder stream(words);
  for (const int32_t id : ids) streamed += stream.feed(id);
  EXPECT_EQ(streamed + stream.finish(), words.decode(ids));
  std::string again = stream.feed(2);
  again += stream.feed(3);
  EXPECT_EQ(again + stream.finish(), "low lower");
}

TEST(Words, FilesComeBack) {
  testing_files::TokenizerFile file = testing_files::word_file();
  const Tokenizer words = file.load();
  EXPECT_EQ(words.encode("low lower. it's </s>"), (Ids{2, 0, 4, 1}));
  const Tokenizer again = Tokenizer::from_json(words.to_json(), "again");
  EXPECT_EQ(again.to_json(), words.to_json());
  EXPECT_EQ(io::parse_json(words.to_json(), "json")["model"]["type"], "WordLevel");

  // Letters and punctuation apart, as the package's Whitespace has it.
  file.json["pre_tokenizer"]["type"] = "Whitespace";
  file.add_token("it");
  file.add_token("...");
  const Tokenizer split = file.load();
  EXPECT_EQ(split.encode("low... it's"), (Ids{2, 6, 5, 0, 0}));
  EXPECT_EQ(Tokenizer::from_json(split.to_json(), "again").to_json(), split.to_json());
}

TEST(Words, OtherSettingsAreRefused) {
  const auto refused = [](const std::string& at, const io::Json& value) {
    testing_files::TokenizerFile file = testing_files::word_file();
    file.json[io::Json::json_pointer(at)] = value;
    return error_of([&] { file.load(); });
  };
  EXPECT_NE(refused("/pre_tokenizer", {}).find("WhitespaceSplit or Whitespace"), std::string::npos);
  EXPECT_NE(refused("/pre_tokenizer/type", "ByteLevel"), "");
  EXPECT_NE(refused("/normalizer", {{"type", "Lowercase"}}).find("normalizer"), std::string::npos);
  EXPECT_NE(refused("/decoder", {{"type", "Fuse"}}).find("decoder"), std::string::npos);
  EXPECT_NE(refused("/model/unk_token", "[UNK]").find("not in the vocabulary"), std::string::npos);
  EXPECT_NE(refused("/model/merges", io::Json::array({"a b"})).find("merges"), std::string::npos);
  EXPECT_NE(refused("/model/type", "Unigram").find("WordLevel"), std::string::npos);
}

// 40 a word of "ab", and once each of 30 other characters.
std::string rare_characters() {
  std::string text;
  for (int i = 0; i < 40; ++i) text += "abab ";
  for (char c = 'A'; c < 'A' + 30; ++c) text += std::string("a") + c + "b ";
  return text;
}

TEST(Coverage, RareCharactersAreUnknownWhereThereIsNoRoom) {
  std::string note;
  TokenizerTraining training = spec("bpe:12");
  training.notes = [&](const std::string& line) { note = line; };
  const Tokenizer few = train(training, rare_characters());
  EXPECT_EQ(few.vocab_size(), 12);
  EXPECT_NE(note.find("are <unk>"), std::string::npos) << note;
  EXPECT_NE(few.id_of("a"), text::kNoToken);
  EXPECT_NE(few.id_of("b</w>"), text::kNoToken);
  EXPECT_EQ(few.encode("\u00e9"), Ids{few.unk()});

  note.clear();
  training.vocab_size = 100;  // room for all
  const Tokenizer all = train(training, rare_characters());
  EXPECT_EQ(note, "");
  EXPECT_NE(all.id_of("Z"), text::kNoToken);
}

TEST(Coverage, IsAShareOfTheText) {
  TokenizerTraining training = spec("bpe:100");
  training.character_coverage = 0.8;
  const Tokenizer some = train(training, rare_characters());
  EXPECT_EQ(some.id_of("Z"), text::kNoToken);
  // Nothing merges over a character that is not there, and the rest merges as ever.
  EXPECT_NE(some.id_of("abab</w>"), text::kNoToken);
  const Ids ids = some.encode("aZb");
  EXPECT_EQ(ids, (Ids{some.id_of("a"), some.unk(), some.id_of("b</w>")}));
  training.character_coverage = 1;
  EXPECT_NE(train(training, rare_characters()).id_of("Z"), text::kNoToken);
}

}  // namespace
}  // namespace refrain
