// Small tokenizer.json files of every kind, to load as they are or changed.
#pragma once
#include <string>
#include <utility>

#include "refrain/io/json.h"
#include "refrain/text/tokenizer.h"
#include "refrain/text/tokenizer/byte_alphabet.h"

namespace refrain::testing_files {

struct TokenizerFile {
  io::Json json;

  text::Tokenizer load() const { return text::Tokenizer::from_json(json.dump(), "t.json"); }

  void add_token(const std::string& token) {
    io::Json& vocab = json["model"]["vocab"];
    if (!vocab.contains(token)) vocab[token] = vocab.size();
  }
  void merge(const std::string& left, const std::string& right) {
    add_token(left + right);
    json["model"]["merges"].push_back(io::Json::array({left, right}));
  }
  // After the model's tokens, unless it is one of them.
  void add_special(const std::string& token, const io::Json& settings = io::Json::object()) {
    const io::Json& vocab = json["model"]["vocab"];
    size_t id = vocab.size();
    for (const io::Json& added : json["added_tokens"])
      if (!vocab.contains(added["content"].get<std::string>())) ++id;
    if (vocab.contains(token)) id = vocab[token].get<size_t>();
    io::Json entry = {{"id", id},        {"content", token}, {"single_word", false},
                      {"lstrip", false}, {"rstrip", false},  {"normalized", false},
                      {"special", true}};
    entry.update(settings);
    json["added_tokens"].push_back(std::move(entry));
  }
};

inline TokenizerFile empty_file() {
  return {{{"version", "1.0"},
           {"truncation", nullptr},
           {"padding", nullptr},
           {"added_tokens", io::Json::array()},
           {"normalizer", nullptr},
           {"pre_tokenizer", nullptr},
           {"post_processor", nullptr},
           {"decoder", nullptr},
           {"model",
            {{"type", "BPE"},
             {"dropout", nullptr},
             {"unk_token", nullptr},
             {"continuing_subword_prefix", nullptr},
             {"end_of_word_suffix", nullptr},
             {"fuse_unk", false},
             {"byte_fallback", false},
             {"ignore_merges", false},
             {"vocab", io::Json::object()},
             {"merges", io::Json::array()}}}}};
}

// <unk>, then a b, space, line end, cat.
inline TokenizerFile char_file() {
  TokenizerFile file = empty_file();
  for (const char* token : {"<unk>", "a", "b", " ", "\n", "猫"}) file.add_token(token);
  file.add_special("<unk>");
  file.json["model"]["unk_token"] = "<unk>";
  file.json["decoder"] = {{"type", "Fuse"}};
  return file;
}

// The words "low" and "lower" and their letters.
inline TokenizerFile spaced_file() {
  TokenizerFile file = empty_file();
  for (const char* token : {"<unk>", "l", "o", "w", "e", "r", "o</w>", "w</w>", "r</w>"})
    file.add_token(token);
  file.add_special("<unk>");
  file.json["model"]["unk_token"] = "<unk>";
  file.json["model"]["end_of_word_suffix"] = "</w>";
  file.json["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  file.json["decoder"] = {{"type", "BPEDecoder"}, {"suffix", "</w>"}};
  file.merge("l", "o");
  file.merge("lo", "w</w>");
  file.merge("lo", "w");
  return file;
}

// Whole words between white space.
inline TokenizerFile word_file() {
  TokenizerFile file = empty_file();
  file.json["model"] = {
      {"type", "WordLevel"}, {"vocab", io::Json::object()}, {"unk_token", "<unk>"}};
  for (const char* token : {"<unk>", "</s>", "low", "lower", "it's"}) file.add_token(token);
  for (const char* token : {"<unk>", "</s>"}) file.add_special(token);
  file.json["pre_tokenizer"] = {{"type", "WhitespaceSplit"}};
  return file;
}

// Like GPT-2: all bytes, merges up to " hello", <|endoftext|> last.
inline TokenizerFile byte_bpe_file() {
  TokenizerFile file = empty_file();
  for (const uint8_t byte : text::bytes_by_character()) file.add_token(text::byte_character(byte));
  file.merge("l", "l");
  file.merge("h", "e");
  file.merge("he", "ll");
  file.merge("\u0120", "hell");
  file.merge("\u0120hell", "o");
  file.add_token("<|endoftext|>");
  file.add_special("<|endoftext|>");
  file.json["pre_tokenizer"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}};
  file.json["decoder"] = {{"type", "ByteLevel"}};
  return file;
}

// Like Llama: <unk> <s> </s>, bytes, "▁" a b and their merges; <s> in front.
inline TokenizerFile llama_file() {
  TokenizerFile file = empty_file();
  for (const char* token : {"<unk>", "<s>", "</s>"}) {
    file.add_token(token);
    file.add_special(token);
  }
  for (int byte = 0; byte < 256; ++byte) file.add_token(fmt::format("<0x{:02X}>", byte));
  for (const char* token : {"▁", "a", "b"}) file.add_token(token);
  file.merge("▁", "a");
  file.merge("▁a", "b");
  file.merge("a", "b");
  const auto replace = [](const char* from, const char* to) {
    return io::Json{{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  };
  io::Json& json = file.json;
  json["model"]["unk_token"] = "<unk>";
  json["model"]["fuse_unk"] = true;
  json["model"]["byte_fallback"] = true;
  json["normalizer"] = {{"type", "Sequence"},
                        {"normalizers", io::Json::array({{{"type", "Prepend"}, {"prepend", "▁"}},
                                                         replace(" ", "▁")})}};
  json["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", io::Json::array({{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
                                  {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}})},
      {"pair", io::Json::array()},
      {"special_tokens",
       {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", io::Json::array({"<s>"})}}}}}};
  json["decoder"] = {
      {"type", "Sequence"},
      {"decoders",
       io::Json::array({replace("▁", " "),
                        {{"type", "ByteFallback"}},
                        {{"type", "Fuse"}},
                        {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}})}};
  return file;
}

}  // namespace refrain::testing_files
