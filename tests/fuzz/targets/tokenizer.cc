// tokenizer.json and, after the last NUL, a text that it encodes and decodes.
#include "refrain/text/tokenizer.h"

#include "fuzz/target.h"
#include "refrain/base/error.h"
#include "support/tokenizer_files.h"

namespace refrain::fuzz {
namespace {

using text::Tokenizer;

void run(std::string_view input) {
  const auto [json, text] = parts_of(input);
  const Tokenizer tokenizer = Tokenizer::from_json(json, "tokenizer.json");
  const Tokenizer again = Tokenizer::from_json(tokenizer.to_json(), "written");
  expect(again.to_json() == tokenizer.to_json(), "what was written reads as something else");
  for (const bool parse_special : {false, true}) {
    const std::vector<int32_t> ids = tokenizer.encode(text, parse_special);
    expect(again.encode(text, parse_special) == ids, "what was written encodes otherwise");
    for (const int32_t id : ids) expect(id >= 0 && id < tokenizer.vocab_size(), "no token's id");
    const std::string decoded = tokenizer.decode(ids, true);
    text::StreamDecoder stream(tokenizer);
    std::string streamed;
    for (const int32_t id : ids) streamed += stream.feed(id);
    streamed += stream.finish();
    expect(streamed == tokenizer.decode(ids), "a stream decodes otherwise");
  }
  for (int32_t id = 0; id < std::min<int64_t>(tokenizer.vocab_size(), 300); ++id) {
    (void)tokenizer.token(id);
    tokenizer.decode({&id, 1}, true);
  }
}

std::vector<std::string> seeds() {
  using namespace testing_files;
  std::vector<std::string> all;
  const auto add = [&](TokenizerFile file, std::string_view text) {
    all.push_back(file.json.dump() + std::string(1, '\0') + std::string(text));
  };
  add(char_file(), "ab a\nb x");
  add(spaced_file(), "lower  low\nlo");
  add(word_file(), "low  lower\nlo");
  add(byte_bpe_file(), "hello <|endoftext|> hello\xff");
  add(llama_file(), "ab a</s> b\n\xE7\x8C\xAB");
  TokenizerFile more = llama_file();
  more.add_special("sat", {{"special", false}, {"normalized", true}});
  add(more, "ab sat a");
  for (const char* splitter :
       {R"({"type": "Digits", "individual_digits": true})",
        R"({"type": "Split", "pattern": {"Regex": "\\p{L}+|\\s"}, "behavior": "Isolated"})",
        R"({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithNext"})"}) {
    more = byte_bpe_file();
    more.json["normalizer"] = {{"type", "NFC"}};
    const io::Json bytes = more.json["pre_tokenizer"];
    more.json["pre_tokenizer"] = {{"type", "Sequence"}};
    more.json["pre_tokenizer"]["pretokenizers"] = {io::parse_json(splitter, "step"), bytes};
    more.json["model"]["ignore_merges"] = true;
    more.add_special("Ze\u0301", {{"special", false}, {"normalized", true}, {"lstrip", true}});
    add(more, "hello  12 Z\u00e9Ze\u0301 e\u0301<|endoftext|>\xff");
  }
  return all;
}

const Register registered({"tokenizer", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
