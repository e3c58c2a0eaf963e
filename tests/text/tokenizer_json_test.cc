// tokenizer.json: what is written can be read again, and hostile files are refused by name.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "refrain/io/file.h"
#include "refrain/text/tokenizer.h"
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
using testing_files::TokenizerFile;
using text::Tokenizer;

const std::string kText = "low lower hello  hello's\n\n 猫 ab  ab<s></s> <unk>é\xff<|endoftext|>";

std::vector<TokenizerFile> all_forms() {
  std::vector<TokenizerFile> files = {char_file(), spaced_file(), byte_bpe_file(), llama_file()};
  TokenizerFile file = byte_bpe_file();
  file.json["pre_tokenizer"]["add_prefix_space"] = true;
  file.json["pre_tokenizer"]["use_regex"] = false;
  file.json["model"]["ignore_merges"] = true;
  file.add_special("lower", {{"special", false}, {"normalized", true}});
  file.json["post_processor"] = {{"type", "ByteLevel"}, {"trim_offsets", false}};
  files.push_back(file);
  file = llama_file();
  file.add_special("lower", {{"special", false}, {"lstrip", true}, {"single_word", true}});
  file.add_special("ab", {{"special", false}, {"rstrip", true}});
  files.push_back(file);
  for (const char* scheme : {"first", "always", "never"}) {
    file = llama_file();
    file.json["normalizer"] = nullptr;
    file.json["pre_tokenizer"] = {
        {"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}};
    files.push_back(file);
    file.json["pre_tokenizer"]["split"] = false;
    file.json["decoder"]["decoders"].erase(3);  // Strip
    files.push_back(file);
  }
  file = llama_file();
  file.json["normalizer"]["normalizers"].erase(0);
  file.json["decoder"] = nullptr;
  file.json["model"]["unk_token"] = nullptr;
  files.push_back(file);
  return files;
}

TEST(TokenizerJson, WhatIsWrittenReadsTheSame) {
  for (const TokenizerFile& file : all_forms()) {
    const Tokenizer first = file.load();
    const std::string text = first.to_json();
    const Tokenizer again = Tokenizer::from_json(text, "again");
    EXPECT_EQ(again.to_json(), text);
    EXPECT_EQ(again.kind(), first.kind());
    EXPECT_EQ(again.unk(), first.unk());
    EXPECT_EQ(again.adds_bos(), first.adds_bos());
    for (const bool special : {false, true}) {
      const auto ids = first.encode(kText, special);
      EXPECT_EQ(again.encode(kText, special), ids);
      EXPECT_EQ(again.decode(ids, special), first.decode(ids, special));
    }
    EXPECT_EQ(io::parse_json(text, "again")["post_processor"], file.json["post_processor"]);
  }
}

TEST(TokenizerJson, TruncationAndPaddingAreLeftAsideWithANote) {
  TokenizerFile file = llama_file();
  const Tokenizer plain = file.load();
  file.json["truncation"] = {
      {"direction", "Right"}, {"max_length", 2}, {"strategy", "LongestFirst"}, {"stride", 0}};
  file.json["padding"] = {{"strategy", {{"Fixed", 8}}}, {"pad_id", 2}, {"pad_token", "</s>"}};
  std::vector<std::string> notes;
  const Tokenizer tokenizer = Tokenizer::from_json(
      file.json.dump(), "t.json", [&](const std::string& line) { notes.push_back(line); });
  EXPECT_EQ(notes,
            (std::vector<std::string>{
                "t.json: truncation is left aside: texts are encoded whole, and nothing is added",
                "t.json: padding is left aside: texts are encoded whole, and nothing is added"}));
  EXPECT_EQ(tokenizer.encode(kText, true), plain.encode(kText, true));
  EXPECT_EQ(tokenizer.to_json(), plain.to_json());
  notes.clear();
  Tokenizer::from_json(plain.to_json(), "t.json",
                       [&](const std::string& line) { notes.push_back(line); });
  EXPECT_EQ(notes, std::vector<std::string>());
}

TEST(TokenizerJson, SavesIntoADirectoryAndLoadsFromIt) {
  const TemporaryFolder folder;
  const Tokenizer tokenizer = llama_file().load();
  tokenizer.save(folder.path());
  EXPECT_EQ(Tokenizer::load(folder.path()).to_json(), tokenizer.to_json());
  EXPECT_EQ(Tokenizer::load(folder / "tokenizer.json").to_json(), tokenizer.to_json());
  const Json config = io::read_json(folder / "tokenizer_config.json");
  EXPECT_EQ(config["bos_token"], "<s>");
  EXPECT_EQ(config["eos_token"], "</s>");
  EXPECT_EQ(config["unk_token"], "<unk>");
  EXPECT_FALSE(config.contains("pad_token"));
  EXPECT_THROW(Tokenizer::load(folder / "nothing.json"), Error);
  EXPECT_THROW(tokenizer.save(folder / "nowhere"), Error);
}

TEST(TokenizerJson, ReadsMergesInBothSpellings) {
  TokenizerFile file = spaced_file();
  const auto ids = file.load().encode(kText);
  file.json["model"]["merges"] = {"l o", "lo w</w>", "lo w"};
  EXPECT_EQ(file.load().encode(kText), ids);
}

TEST(TokenizerJson, TheLaterOfTwoMergesOfOnePairCounts) {
  TokenizerFile file = byte_bpe_file();
  file.merge("o", "h");
  EXPECT_EQ(file.load().encode("ohe").size(), 2u);  // "o" "he"
  EXPECT_EQ(file.load().decode(std::vector{file.load().encode("ohe")[0]}), "o");
  file.merge("h", "e");
  EXPECT_EQ(file.load().decode(std::vector{file.load().encode("ohe")[0]}), "oh");
}

TEST(TokenizerJson, ReadsOlderFilesThatLeaveOutDefaults) {
  TokenizerFile file = byte_bpe_file();
  const auto ids = file.load().encode(kText, true);
  Json& model = file.json["model"];
  for (const char* key : {"type", "dropout", "byte_fallback", "ignore_merges", "fuse_unk"})
    model.erase(key);
  model["unk_token"] = model["continuing_subword_prefix"] = model["end_of_word_suffix"] = "";
  for (const char* key : {"version", "truncation", "padding", "normalizer", "decoder"})
    file.json.erase(key);
  EXPECT_EQ(file.load().encode(kText, true), ids);
}

struct Change {
  const char* name;
  TokenizerFile (*file)();
  void (*change)(Json& json);
  const char* error;
};

class HostileTokenizer : public testing::TestWithParam<Change> {};

TEST_P(HostileTokenizer, IsRefusedInOneLine) {
  TokenizerFile file = GetParam().file();
  ASSERT_NO_THROW(file.load());
  GetParam().change(file.json);
  const std::string error = error_of([&] { file.load(); });
  EXPECT_EQ(error, std::string("t.json: ") + GetParam().error);
  EXPECT_EQ(error.find('\n'), error.npos);
}

Json& vocab(Json& json) { return json["model"]["vocab"]; }
Json& merges(Json& json) { return json["model"]["merges"]; }
Json& added(Json& json, size_t i = 0) { return json["added_tokens"][i]; }

const Change kChanges[] = {
    // vocabulary
    {"no_model", char_file, [](Json& j) { j.erase("model"); },
     "model: expected an object, found none"},
    {"no_vocabulary", char_file, [](Json& j) { j["model"].erase("vocab"); },
     "model: vocab: expected an object of tokens and their ids, found none"},
    {"vocabulary_as_list", char_file,
     [](Json& j) {
       vocab(j) = {"a", "b"};
     },
     "model: vocab: expected an object of tokens and their ids, found \"[\\\"a\\\",\\\"b\\\"]\""},
    {"empty_vocabulary", char_file, [](Json& j) { vocab(j) = Json::object(); },
     "model: vocab: expected 1 to 16777216 tokens, found 0"},
    {"duplicate_id", char_file, [](Json& j) { vocab(j)["b"] = 1; },
     "model: vocab: tokens \"a\" and \"b\" have the same id 1"},
    {"gap", char_file, [](Json& j) { vocab(j)["猫"] = 6; },
     "model: vocab: token \"猫\": expected an id of 0 to 5 (one for each token), found \"6\""},
    {"negative_id", char_file, [](Json& j) { vocab(j)["a"] = -1; },
     "model: vocab: token \"a\": expected an id of 0 to 5 (one for each token), found \"-1\""},
    {"huge_id", char_file, [](Json& j) { vocab(j)["a"] = UINT64_MAX; },
     "model: vocab: token \"a\": expected an id of 0 to 5 (one for each token), found "
     "\"18446744073709551615\""},
    {"fraction", char_file, [](Json& j) { vocab(j)["a"] = 1.0; },
     "model: vocab: token \"a\": expected an id of 0 to 5 (one for each token), found \"1.0\""},
    {"id_as_text", char_file, [](Json& j) { vocab(j)["a"] = "1"; },
     "model: vocab: token \"a\": expected an id of 0 to 5 (one for each token), found "
     "\"\\\"1\\\"\""},
    {"unknown_unk", char_file, [](Json& j) { j["model"]["unk_token"] = "<UNK>"; },
     "model: unk_token: \"<UNK>\" is not in the vocabulary"},
    // merges
    {"merges_as_object", spaced_file, [](Json& j) { merges(j) = Json::object(); },
     "model: merges: expected a list, found \"{}\""},
    {"merge_of_unknown_token", spaced_file,
     [](Json& j) {
       merges(j)[1] = {"lo", "x"};
     },
     "model: merges: number 1: token \"x\" is not in the vocabulary"},
    {"merge_into_unknown_token", spaced_file, [](Json& j) { merges(j)[1] = "o l"; },
     "model: merges: number 1: token \"ol\" is not in the vocabulary"},
    {"merge_of_three", spaced_file, [](Json& j) { merges(j)[2] = "l o w"; },
     "model: merges: number 2: expected two tokens with a space between them, found \"\\\"l o "
     "w\\\"\""},
    {"merge_of_one", spaced_file, [](Json& j) { merges(j)[2] = "low"; },
     "model: merges: number 2: expected two tokens with a space between them, found "
     "\"\\\"low\\\"\""},
    {"merge_of_numbers", spaced_file,
     [](Json& j) {
       merges(j)[0] = {1, 2};
     },
     "model: merges: number 0: expected \"a b\" or [\"a\", \"b\"], found \"[1,2]\""},
    // added tokens
    {"added_as_object", char_file, [](Json& j) { j["added_tokens"] = Json::object(); },
     "added_tokens: expected a list, found \"{}\""},
    {"added_with_wrong_id", char_file, [](Json& j) { added(j)["id"] = 3; },
     "added_tokens: token \"<unk>\": expected the id 0, found 3"},
    {"added_after_a_gap", char_file,
     [](Json& j) {
       added(j, 1) = {{"id", 7}, {"content", "<s>"}, {"special", true}};
     },
     "added_tokens: token \"<s>\": expected the id 6, found 7"},
    {"added_with_huge_id", char_file, [](Json& j) { added(j)["id"] = 1e300; },
     "added_tokens: id: expected an integer from 0 to 16777216, found 1e+300"},
    {"added_twice", char_file, [](Json& j) { added(j, 1) = added(j); },
     "added_tokens: token \"<unk>\" twice"},
    {"added_without_text", char_file, [](Json& j) { added(j)["content"] = ""; },
     "added_tokens: a token has no text"},
    {"added_as_text", char_file, [](Json& j) { added(j) = "<unk>"; },
     "added_tokens: expected an object, found \"\\\"<unk>\\\"\""},
    {"added_single_word_as_text", char_file, [](Json& j) { added(j)["single_word"] = "x"; },
     "added_tokens: single_word: expected true or false, found \"x\""},
    {"added_too_many_bytes", char_file,
     [](Json& j) {
       added(j, 1) = {{"id", 6}, {"content", std::string((1 << 23) - 4, 'x')}};
     },
     "added_tokens: expected at most 8388608 bytes of tokens together, found more"},
    // what is not supported
    {"other_model", char_file, [](Json& j) { j["model"]["type"] = "Unigram"; },
     "model: type: expected \"BPE\" or \"WordLevel\", found \"Unigram\""},
    // As `transformers` writes them: their type is what is wrong, not the first of their settings.
    {"unigram", char_file,
     [](Json& j) {
       j["model"] = {{"type", "Unigram"},
                     {"unk_id", 0},
                     {"vocab", Json::array({Json::array({"<unk>", 0.0})})},
                     {"byte_fallback", false}};
       j["colour"] = "red";
     },
     "model: type: expected \"BPE\" or \"WordLevel\", found \"Unigram\""},
    {"word_piece", char_file,
     [](Json& j) {
       j["model"] = {{"type", "WordPiece"},
                     {"unk_token", "[UNK]"},
                     {"continuing_subword_prefix", "##"},
                     {"max_input_chars_per_word", 100},
                     {"vocab", Json::object()}};
       j["truncation"] = {{"max_length", 8}};
     },
     "model: type: expected \"BPE\" or \"WordLevel\", found \"WordPiece\""},
    {"other_version", char_file, [](Json& j) { j["version"] = "2.0"; },
     "version: expected \"1.0\", found \"2.0\""},
    {"unknown_setting", char_file, [](Json& j) { j["colour"] = "red"; },
     "\"colour\" is not supported, found \"\\\"red\\\"\""},
    {"unknown_model_setting", char_file, [](Json& j) { j["model"]["colour"] = 1; },
     "model: \"colour\" is not supported, found \"1\""},
    {"dropout", char_file, [](Json& j) { j["model"]["dropout"] = 0.1; },
     "model: dropout is not supported"},
    {"prefix", char_file, [](Json& j) { j["model"]["continuing_subword_prefix"] = "##"; },
     "model: continuing_subword_prefix is not supported"},
    {"other_suffix", spaced_file, [](Json& j) { j["model"]["end_of_word_suffix"] = "@"; },
     "model: end_of_word_suffix: expected \"</w>\" with this pre_tokenizer, found \"@\""},
    {"suffix_elsewhere", byte_bpe_file, [](Json& j) { j["model"]["end_of_word_suffix"] = "</w>"; },
     "model: end_of_word_suffix: expected \"\" with this pre_tokenizer, found \"</w>\""},
    {"suffix_inside", spaced_file, [](Json& j) { vocab(j)["a</w>b"] = vocab(j).size(); },
     "model: vocab: token \"a</w>b\": \"</w>\" before its end is not supported"},
    {"ignore_merges_elsewhere", spaced_file, [](Json& j) { j["model"]["ignore_merges"] = true; },
     "model: ignore_merges: expected false with this pre_tokenizer"},
    {"byte_fallback_elsewhere", byte_bpe_file, [](Json& j) { j["model"]["byte_fallback"] = true; },
     "model: byte_fallback: expected false with this pre_tokenizer"},
    {"byte_fallback_without_bytes", char_file, [](Json& j) { j["model"]["byte_fallback"] = true; },
     "model: byte_fallback needs the token <0x00> in the vocabulary"},
    {"other_splitter", spaced_file, [](Json& j) { j["pre_tokenizer"]["type"] = "Whitespace"; },
     "pre_tokenizer: expected ByteLevel or WhitespaceSplit (or a model with byte_fallback), found "
     "\"{\\\"type\\\":\\\"Whitespace\\\"}\""},
    {"no_splitter", spaced_file, [](Json& j) { j["pre_tokenizer"] = nullptr; },
     "pre_tokenizer: expected ByteLevel or WhitespaceSplit (or a model with byte_fallback), found "
     "none"},
    {"splitter_without_type", spaced_file, [](Json& j) { j["pre_tokenizer"].erase("type"); },
     "pre_tokenizer: type: missing"},
    {"splitter_setting", byte_bpe_file, [](Json& j) { j["pre_tokenizer"]["colour"] = 1; },
     "pre_tokenizer: \"colour\" is not supported, found \"1\""},
    {"splitter_sequence", byte_bpe_file,
     [](Json& j) {
       const Json parts = Json::array({{{"type", "A"}}, {{"type", "ByteLevel"}}});
       j["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", parts}};
     },
     "pre_tokenizer: type: expected Digits, Punctuation or Split before ByteLevel, found \"A\""},
    {"normalizer", byte_bpe_file,
     [](Json& j) {
       j["normalizer"] = {{"type", "Nmt"}};
     },
     "normalizer: type: expected NFC, NFD, NFKC, NFKD, Lowercase, Strip, Replace or Prepend, found "
     "\"Nmt\""},
    {"normalizer_elsewhere", spaced_file,
     [](Json& j) {
       j["normalizer"] = {{"type", "NFC"}};
     },
     "normalizer: expected none, found \"{\\\"type\\\":\\\"NFC\\\"}\""},
    {"char_decoder", char_file, [](Json& j) { j["decoder"]["type"] = "WordPiece"; },
     "decoder: expected Fuse, found \"{\\\"type\\\":\\\"WordPiece\\\"}\""},
    {"bpe_decoder", spaced_file, [](Json& j) { j["decoder"]["suffix"] = "@"; },
     "decoder: expected BPEDecoder with the suffix \"</w>\", found "
     "\"{\\\"type\\\":\\\"BPEDecoder\\\",\\\"suffix\\\":\\\"@\\\"}\""},
    {"byte_level_decoder", byte_bpe_file, [](Json& j) { j["decoder"]["type"] = "Fuse"; },
     "decoder: expected ByteLevel, found \"{\\\"type\\\":\\\"Fuse\\\"}\""},
    {"llama_normalizer", llama_file,
     [](Json& j) {
       j["normalizer"] = {{"type", "NFKC"}};
     },
     "normalizer: expected Replace \" \" by \"▁\", with or without Prepend \"▁\" before it, found "
     "\"{\\\"type\\\":\\\"NFKC\\\"}\""},
    {"llama_splitter", llama_file,
     [](Json& j) {
       j["pre_tokenizer"] = {{"type", "Digits"}};
     },
     "pre_tokenizer: expected Metaspace without a normalizer, or none, found "
     "\"{\\\"type\\\":\\\"Digits\\\"}\""},
    {"llama_decoder", llama_file,
     [](Json& j) {
       j["decoder"] = {{"type", "ByteFallback"}};
     },
     "decoder: expected Replace \"▁\" by \" \", ByteFallback, Fuse, and Strip of one space at the "
     "start or none, found \"{\\\"type\\\":\\\"ByteFallback\\\"}\""},
    // post_processor
    {"other_processor", llama_file,
     [](Json& j) {
       j["post_processor"] = {{"type", "Bert"}};
     },
     "post_processor: expected TemplateProcessing or ByteLevel, found "
     "\"{\\\"type\\\":\\\"Bert\\\"}\""},
    {"template_without_token", llama_file,
     [](Json& j) { j["post_processor"]["special_tokens"] = Json::object(); },
     "post_processor: special_tokens: <s>: missing"},
    {"template_with_wrong_id", llama_file,
     [](Json& j) { j["post_processor"]["special_tokens"]["<s>"]["ids"] = {9}; },
     "post_processor: special_tokens: <s>: ids: expected the id of \"<s>\" in the vocabulary, "
     "found "
     "\"[9]\""},
};

INSTANTIATE_TEST_SUITE_P(All, HostileTokenizer, testing::ValuesIn(kChanges),
                         [](const auto& info) { return info.param.name; });

TEST(TokenizerJson, WrongTypesNeverGetThrough) {
  // Every value of a good file in turn replaced by values of other types: an Error, or a tokenizer
  // (where the value does not matter), but nothing else.
  const std::vector<Json> others = {nullptr, true, -1, 1e300, "x", Json::array(), Json::object()};
  for (const TokenizerFile& file : {char_file(), spaced_file(), llama_file()}) {
    const Json flat = file.json.flatten();
    for (const auto& [path, value] : flat.items()) {
      if (path.find("/<0x") != path.npos) continue;  // 256 of the same
      for (const Json& other : others) {
        TokenizerFile changed = file;
        changed.json[Json::json_pointer(path)] = other;
        try {
          changed.load().encode("ab low");
        } catch (const Error& error) {
          EXPECT_EQ(std::string(error.what()).rfind("t.json: ", 0), 0u) << error.what();
        }
      }
    }
  }
}

TEST(TokenizerJson, WhatIsNoJsonIsRefused) {
  for (const char* text : {"", "{", "[]", "1", "null", "{\"model\": {}, \"model\": {}}"})
    EXPECT_THROW(Tokenizer::from_json(text, "t.json"), Error) << text;
  EXPECT_EQ(error_of([] { Tokenizer::from_json("[]", "t.json"); }),
            "t.json: expected an object, found \"[]\"");
}

}  // namespace
}  // namespace refrain
