// A GGUF file: its container, the model, the tokenizer and the chat template in it; by the first
// byte, the tokenizer alone.
#include "refrain/formats/gguf/gguf.h"

#include <optional>
#include <vector>

#include "fuzz/target.h"
#include "fuzz/tiny.h"
#include "refrain/base/error.h"
#include "refrain/formats/chat_template.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/text/tokenizer.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  const std::string path = put(rest, "model.gguf");
  const io::Gguf file(path);
  std::optional<Error> refused;
  const auto read = [&](auto&& f) {
    try {
      f();
    } catch (const Error& error) {
      refused = error;
    }
  };
  if (choice % 2 == 0) {
    read([&] { load_model(path); });
    read([&] { load_packed_model(path); });
    read([&] { read_chat_template(path); });
  }
  read([&] {
    const auto tokenizer = text::Tokenizer::from_gguf(file);
    const std::string text = "the cat\n 12\u3042<s>";
    expect(tokenizer.decode(tokenizer.encode(text, true)).size() < 1000, "text out of nowhere");
  });
  if (refused) throw *refused;
}

// Of the tiny model, which has 8 ids.
std::string file_of(const io::GgufKeys& tokenizer, io::GgufType type) {
  const std::string path = folder() / "seed.gguf";
  GgufOptions options{.type = type, .tokenizer = tokenizer};
  options.tokenizer.emplace_back("tokenizer.chat_template", "{{ messages }}");
  save_gguf(path, *tiny_model("attention"), {1, 2, -1}, options);
  return bytes_of(path);
}

// The llama kind needs more tokens than the tiny model has.
std::string scored_file() {
  std::vector<std::string> tokens = {"<unk>", "<s>", "</s>"};
  std::vector<int64_t> types = {2, 3, 3};
  for (int byte = 0; byte < 256; ++byte) {
    tokens.push_back(fmt::format("<0x{:02X}>", byte));
    types.push_back(6);
  }
  for (const char* piece : {"\u2581", "a", "b", "ab", "\u2581ab"}) {
    tokens.push_back(piece);
    types.push_back(1);
  }
  std::vector<double> scores(tokens.size());
  for (size_t i = 0; i < scores.size(); ++i) scores[i] = -static_cast<double>(i);
  const std::string path = folder() / "scored.gguf";
  io::write_gguf(path,
                 {{"tokenizer.ggml.model", "llama"},
                  {"tokenizer.ggml.tokens", tokens},
                  {"tokenizer.ggml.token_type", types},
                  {"tokenizer.ggml.scores", scores}},
                 {});
  return bytes_of(path);
}

std::vector<std::string> seeds() {
  const std::vector<std::string> tokens = {"<unk>", "<s>", "</s>", "t", "h", "e", "th", "the"};
  const std::vector<int64_t> types = {2, 3, 3, 1, 1, 1, 1, 1};
  const io::GgufKeys byte_level = {
      {"tokenizer.ggml.model", "gpt2"},
      {"tokenizer.ggml.pre", "gpt-2"},
      {"tokenizer.ggml.tokens", tokens},
      {"tokenizer.ggml.token_type", types},
      {"tokenizer.ggml.merges", std::vector<std::string>{"t h", "th e"}},
      {"tokenizer.ggml.add_bos_token", true}};
  io::GgufKeys characters = {
      {"tokenizer.ggml.model", "t5"},
      {"tokenizer.ggml.tokens",
       std::vector<std::string>{"<unk>", "<s>", "</s>", "t", "h", "e", "\u2581", "[PAD7]"}},
      {"tokenizer.ggml.token_type", std::vector<int64_t>{2, 3, 3, 1, 1, 1, 1, 5}},
      {"tokenizer.ggml.unknown_token_id", int64_t{0}},
      {"tokenizer.ggml.add_space_prefix", false}};
  return {'\0' + file_of(byte_level, io::GgufType::kF32),
          '\0' + file_of(characters, io::GgufType::kBf16), '\1' + scored_file()};
}

const Register registered({"gguf", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
