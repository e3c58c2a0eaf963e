// Tokenizers of karpathy/llama2.c, its tokenizer .bin files. Little endian:
//
//   0  u32       bytes of the longest piece
//   4            per piece: f32 score, i32 bytes, then the bytes
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace refrain::text {

struct ScoredPieces {
  std::vector<std::string> pieces;
  std::vector<float> scores;
};

// The input of Tokenizer::from_scored_pieces(). The file does not say how many pieces it has.
// `vocab_size` is the model's; there must be as many, and nothing after them.
ScoredPieces read_llama2c_tokenizer(const std::string& path, int64_t vocab_size);

}  // namespace refrain::text
