// GPT-2's two files, encoder.json and, after the last NUL, vocab.bpe.
#include "fuzz/target.h"
#include "refrain/io/json.h"
#include "refrain/text/tokenizer.h"
#include "refrain/text/tokenizer/byte_alphabet.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [vocab, merges] = parts_of(input);
  const auto tokenizer =
      text::Tokenizer::from_gpt2(put(vocab, "encoder.json"), put(merges, "vocab.bpe"));
  tokenizer.decode(tokenizer.encode("hello <|endoftext|>\xff"));
}

std::vector<std::string> seeds() {
  io::Json vocab = io::Json::object();
  for (const uint8_t byte : text::bytes_by_character())
    vocab[text::byte_character(byte)] = vocab.size();
  for (const char* token : {"he", "ll", "hell", "<|endoftext|>"}) vocab[token] = vocab.size();
  return {vocab.dump() + std::string(1, '\0') + "#version: 0.2\nh e\nl l\nhe ll\n"};
}

const Register registered({"gpt2", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
