// Tokenizers in the keys of GGUF files. tests/compat/gguf_compat.py compares ids with llama.cpp's.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include "refrain/io/gguf/gguf.h"
#include "refrain/text/gguf/pre_tokenizers.h"
#include "refrain/text/tokenizer.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::text {
namespace {

using Strings = std::vector<std::string>;
using Ints = std::vector<int64_t>;
using Keys = std::map<std::string, io::GgufValue>;

const std::string kPrefix = "tokenizer.ggml.";

class GgufTokenizer : public ::testing::Test {
 protected:
  Tokenizer read(const Keys& keys, const Notes& notes = {}) const {
    io::GgufKeys list;
    for (const auto& [key, value] : keys) list.emplace_back(kPrefix + key, value);
    io::write_gguf(folder_ / "t.gguf", list, {});
    return Tokenizer::load(folder_ / "t.gguf", notes);
  }
  std::string error(const Keys& keys) const {
    const std::string what = error_of([&] { read(keys); });
    const std::string path = folder_ / "t.gguf: ";
    return what.starts_with(path) ? what.substr(path.size()) : what;
  }
  // A tokenizer written and read again.
  Tokenizer again(const Tokenizer& tokenizer, int64_t ids, Strings* told = nullptr) const {
    io::write_gguf(folder_ / "a.gguf",
                   tokenizer.to_gguf(ids,
                                     [&](const std::string& line) {
                                       if (told) told->push_back(line);
                                     }),
                   {});
    return Tokenizer::load(folder_ / "a.gguf");
  }

  TemporaryFolder folder_;
};

Keys byte_level() {
  return {{"model", "gpt2"},
          {"pre", "gpt-2"},
          {"tokens", Strings{"<|end|>", "t", "h", "e", "\u0120", "1", "2", "th", "the", "\u0120the",
                             "12", "<tag>"}},
          {"token_type", Ints{3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 4}},
          {"merges", Strings{"t h", "th e", "\u0120 the", "1 2"}},
          {"bos_token_id", int64_t{0}}};
}

Keys scored() {
  Strings tokens = {"<unk>", "<s>", "</s>"};
  Ints types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
  }
  std::vector<double> scores(tokens.size(), 0);
  for (const auto& [piece, score] : std::map<std::string, double>{
           {"\u2581", -9}, {"a", -9}, {"b", -9}, {"ab", -2}, {"ba", -1}, {"\u2581ab", -3}}) {
    tokens.push_back(piece);
    types.push_back(1);
    scores.push_back(score);
  }
  return {{"model", "llama"}, {"tokens", tokens}, {"token_type", types}, {"scores", scores}};
}

Strings pieces(const Tokenizer& tokenizer, std::string_view text, bool special = false) {
  Strings found;
  for (const int32_t id : tokenizer.encode(text, special)) found.emplace_back(tokenizer.token(id));
  return found;
}

TEST_F(GgufTokenizer, ReadsByteLevelOnes) {
  const Tokenizer gpt2 = read(byte_level());
  EXPECT_EQ(gpt2.kind(), "byte-bpe");
  EXPECT_EQ(pieces(gpt2, "the the12"), (Strings{"the", "\u0120the", "12"}));
  EXPECT_EQ(pieces(gpt2, "<tag>the<|end|>", true), (Strings{"<tag>", "the", "<|end|>"}));
  EXPECT_FALSE(gpt2.is_special(gpt2.id_of("<tag>")));
  EXPECT_FALSE(gpt2.adds_bos());
  // Digits are words of their own.
  Keys keys = byte_level();
  keys["pre"] = "smollm";
  EXPECT_EQ(pieces(read(keys), "the12"), (Strings{"the", "1", "2"}));
  // A token is that token, whatever its merges; and a token begins every text.
  keys["pre"] = "llama-bpe";
  keys["merges"] = Strings{"t h"};
  const Tokenizer llama3 = read(keys);
  EXPECT_EQ(pieces(llama3, "the"), Strings{"the"});
  EXPECT_TRUE(llama3.adds_bos());
  keys["add_bos_token"] = false;
  EXPECT_FALSE(read(keys).adds_bos());
  Strings notes;
  keys.erase("pre");
  read(keys, [&](const std::string& line) { notes.push_back(line); });
  EXPECT_EQ(notes.size(), 1);
}

TEST_F(GgufTokenizer, ReadsScoredOnes) {
  const Tokenizer tokenizer = read(scored());
  EXPECT_EQ(tokenizer.kind(), "llama");
  // "ba" has the highest score of what may be merged in "_abab", then "_ab" cannot come to be.
  EXPECT_EQ(pieces(tokenizer, "abab"), (Strings{"\u2581", "a", "ba", "b"}));
  EXPECT_EQ(pieces(tokenizer, "ab\n"), (Strings{"\u2581ab", "<0x0A>"}));
  EXPECT_TRUE(tokenizer.adds_bos());
  EXPECT_EQ(tokenizer.decode(tokenizer.encode("ab ab")), "ab ab");
  Keys keys = scored();
  keys["add_space_prefix"] = false;
  keys["add_bos_token"] = false;
  const Tokenizer plain = read(keys);
  EXPECT_EQ(pieces(plain, "ab"), Strings{"ab"});
  EXPECT_FALSE(plain.adds_bos());
}

TEST_F(GgufTokenizer, LeavesOutWhatFillsTheVocabularyUp) {
  const Tokenizer tokenizer = read(byte_level());
  const io::GgufKeys keys = tokenizer.to_gguf(15);
  const auto tokens = std::ranges::find(keys, kPrefix + "tokens", &io::GgufKeys::value_type::first);
  EXPECT_EQ(std::get<Strings>(tokens->second).size(), 15);
  EXPECT_EQ(std::get<Strings>(tokens->second)[14], "[PAD14]");
  EXPECT_EQ(again(tokenizer, 15).to_json(), tokenizer.to_json());
}

TEST_F(GgufTokenizer, ComesBackAsItWas) {
  TokenizerTraining training = Tokenizer::parse_spec("byte-bpe:300");
  training.special_tokens = {"<|endoftext|>"};
  const auto train = [&] {
    bool given = false;
    return Tokenizer::train(training, [&](std::string& piece) {
      piece = "the cat sat on the mat, the dog sat on the cat 12 \u00e9\u3042";
      return !std::exchange(given, true);
    });
  };
  const Tokenizer byte_bpe = train();
  EXPECT_EQ(again(byte_bpe, byte_bpe.vocab_size()).to_json(), byte_bpe.to_json());
  const Tokenizer llama = read(scored());
  EXPECT_EQ(again(llama, llama.vocab_size()).to_json(), llama.to_json());

  training = Tokenizer::parse_spec("char");
  training.special_tokens = {"</s>"};
  const Tokenizer characters = train();
  Strings told;
  const Tokenizer read_again = again(characters, characters.vocab_size(), &told);
  const std::string text = "the cat 12</s> \u3042";
  EXPECT_EQ(read_again.encode(text, true), characters.encode(text, true));
  EXPECT_EQ(read_again.encode("the x cat"), characters.encode("the x cat"));  // x: <unk>
  EXPECT_EQ(told, Strings{"tokenizer: of several unknown characters in a row llama.cpp makes one "
                          "<unk>"});
}

TEST_F(GgufTokenizer, RefusesKindsThatLlamaCppHasNot) {
  for (const char* spec : {"bpe:60", "word:9"}) {
    bool given = false;
    const Tokenizer tokenizer =
        Tokenizer::train(Tokenizer::parse_spec(spec), [&](std::string& piece) {
          piece = "the cat sat on the mat";
          return !std::exchange(given, true);
        });
    const std::string what = error_of([&] { tokenizer.to_gguf(100); });
    EXPECT_EQ(what.find("tokenizer: llama.cpp has none that gives the ids of this one (" +
                        tokenizer.kind() + "): "),
              0u)
        << what;
  }
  // Merges in an order that no scores give.
  const Tokenizer llama = read(scored());
  std::string json = llama.to_json();
  const auto swap = [&](const std::string& a, const std::string& b) {
    const size_t at = json.find(a), other = json.find(b);
    ASSERT_NE(at, json.npos);
    ASSERT_NE(other, json.npos);
    json.replace(at, a.size(), "@");
    json.replace(json.find(b), b.size(), a);
    json.replace(json.find('@'), 1, b);
  };
  swap("\"b\",\n        \"a\"", "\"\u2581\",\n        \"ab\"");
  EXPECT_NE(json, llama.to_json());
  EXPECT_EQ(error_of([&] { Tokenizer::from_json(json, "t").to_gguf(300); }), "(no error)");
  const size_t merges = json.find("\"merges\""), end = json.rfind(']');
  json.replace(merges, end - merges, "\"merges\": [[\"a\", \"b\"]");
  EXPECT_EQ(
      error_of([&] { Tokenizer::from_json(json, "t").to_gguf(300); }),
      "tokenizer: llama.cpp has none that gives the ids of this one (llama): its merges are not "
      "those that scores of tokens give");
}

TEST_F(GgufTokenizer, KnowsPreTokenizersByTheirNames) {
  for (const char* name : {"gpt-2", "smollm", "qwen2", "qwen35", "llama-bpe", "dbrx", "default"}) {
    const auto named = pre_tokenizer_named(name);
    ASSERT_TRUE(named) << name;
    EXPECT_EQ(name_of_pre_tokenizer(named->json, named->ignore_merges), name);
  }
  EXPECT_FALSE(pre_tokenizer_named("no such"));
  const auto parse = [](const char* text) { return io::parse_json(text, "t"); };
  EXPECT_EQ(
      name_of_pre_tokenizer(parse(R"({"type": "ByteLevel", "add_prefix_space": true})"), false),
      std::nullopt);
  EXPECT_EQ(
      name_of_pre_tokenizer(parse(R"({"type": "ByteLevel", "add_prefix_space": false})"), true),
      std::nullopt);
  EXPECT_EQ(name_of_pre_tokenizer(parse(R"({"type": "Sequence", "pretokenizers": [
                  {"type": "Punctuation"},
                  {"type": "ByteLevel", "add_prefix_space": false}]})"),
                                  false),
            std::nullopt);
}

TEST_F(GgufTokenizer, RefusesKeysThatAreWrong) {
  const auto with = [&](Keys keys, const std::string& key, const io::GgufValue& value) {
    keys[key] = value;
    return error(keys);
  };
  const auto without = [&](Keys keys, const std::string& key) {
    keys.erase(key);
    return error(keys);
  };
  EXPECT_EQ(without(byte_level(), "model"), "tokenizer.ggml.model: missing, expected a text");
  EXPECT_EQ(with(byte_level(), "model", "bert"),
            "tokenizer.ggml.model: expected \"gpt2\" or \"llama\", found \"bert\"");
  EXPECT_EQ(with(byte_level(), "model", "no_vocab"),
            "tokenizer.ggml.model: expected a tokenizer, found a file without one");
  EXPECT_EQ(
      with(byte_level(), "pre", "no such"),
      "tokenizer.ggml.pre: expected gpt-2, smollm, qwen2, qwen35, llama-bpe, dbrx, default or "
      "another name of one of these, found \"no such\"");
  EXPECT_EQ(without(byte_level(), "tokens"),
            "tokenizer.ggml.tokens: missing, expected a list of texts");
  EXPECT_EQ(with(byte_level(), "tokens", Strings{}),
            "tokenizer.ggml.token_type: expected 0 numbers, one for each token, found 12");
  EXPECT_EQ(error({{"model", "gpt2"}, {"tokens", Strings{}}}),
            "tokenizer.ggml.tokens: expected 1 to 16777216 tokens, found 0");
  EXPECT_EQ(error({{"model", "gpt2"}, {"tokens", Strings{"a", "b", "a"}}}),
            "tokenizer.ggml.tokens: token 2: \"a\" is a token before");
  EXPECT_EQ(error({{"model", "gpt2"}, {"tokens", Strings{"a", "\xff"}}}),
            "tokenizer.ggml.tokens: token 1: expected UTF-8 text, found \"\uFFFD\"");
  EXPECT_EQ(error({{"model", "gpt2"}, {"tokens", Strings{"a", ""}}}),
            "tokenizer.ggml.tokens: token 1: expected UTF-8 text, found \"\"");
  EXPECT_EQ(without(byte_level(), "merges"),
            "tokenizer.ggml.merges: missing, expected a list of texts");
  EXPECT_EQ(with(byte_level(), "merges", Strings{"t x"}),
            "tokenizer.ggml: model: merges: number 0: token \"x\" is not in the vocabulary");
  EXPECT_EQ(with(byte_level(), "bos_token_id", int64_t{4294967295}), "(no error)");
  EXPECT_EQ(without(scored(), "scores"),
            "tokenizer.ggml.scores: expected 265 numbers, one for each token, found 0");
  Keys keys = scored();
  std::get<std::vector<double>>(keys["scores"])[260] = std::numeric_limits<double>::infinity();
  EXPECT_EQ(error(keys), "tokenizer.ggml.scores: expected finite numbers, found inf of token 260");
  keys = scored();
  std::get<Strings>(keys["tokens"])[5] = "x";
  EXPECT_EQ(error(keys),
            "tokenizer.ggml.tokens: expected a token for every byte, found none that is <0x02>");
  keys = scored();
  std::get<Strings>(keys["tokens"])[260] = std::string(513, 'a');
  EXPECT_EQ(error(keys), "tokenizer.ggml.tokens: token 260: expected at most 512 bytes, found 513");
  EXPECT_EQ(error({{"model", "t5"},
                   {"tokens", Strings{"<unk>", "a", "ab"}},
                   {"token_type", Ints{2, 1, 1}},
                   {"add_space_prefix", false}}),
            "tokenizer.ggml.tokens: token 2: expected a single character (tokenizer.ggml.model "
            "\"t5\" with longer tokens is not supported), found \"ab\"");
}

}  // namespace
}  // namespace refrain::text
