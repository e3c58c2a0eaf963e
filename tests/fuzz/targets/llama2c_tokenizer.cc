// A tokenizer of llama2.c, for as many pieces as the first byte says beyond the 259 there must be.
#include "refrain/text/llama2c_tokenizer.h"

#include "fuzz/target.h"
#include "refrain/text/tokenizer.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  text::ScoredPieces read = text::read_llama2c_tokenizer(put(rest), 259 + choice);
  const auto tokenizer =
      text::Tokenizer::from_scored_pieces(std::move(read.pieces), std::move(read.scores));
  tokenizer.decode(tokenizer.encode("ab a"));
}

std::vector<std::string> seeds() {
  std::vector<std::string> pieces = {"<unk>", "\n<s>\n", "\n</s>\n"};
  for (int byte = 0; byte < 256; ++byte) {
    constexpr const char* kDigits = "0123456789ABCDEF";
    pieces.push_back(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">");
  }
  for (const char* piece : {" ", "a", "b", " a", " ab"}) pieces.emplace_back(piece);
  std::string bytes(1, static_cast<char>(pieces.size() - 259));
  const auto put_raw = [&](const auto& value) {
    bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
  };
  put_raw(uint32_t{8});
  for (const std::string& piece : pieces) {
    put_raw(-static_cast<float>(bytes.size()));
    put_raw(static_cast<int32_t>(piece.size()));
    bytes += piece;
  }
  return {bytes};
}

const Register registered({"llama2c_tokenizer", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
