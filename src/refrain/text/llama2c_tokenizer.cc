#include "refrain/text/llama2c_tokenizer.h"

#include <cmath>
#include <cstring>
#include <span>

#include "refrain/base/error.h"
#include "refrain/io/file.h"

namespace refrain::text {

ScoredPieces read_llama2c_tokenizer(const std::string& path, int64_t vocab_size) {
  const std::string file = io::read_file(path);
  std::span<const std::byte> rest = std::as_bytes(std::span(file));
  ScoredPieces all;
  const auto take = [&](size_t bytes) {
    if (bytes > rest.size())
      throw_error("{}: truncated at piece {}: expected {} pieces", path, all.pieces.size(),
                  vocab_size);
    const std::byte* at = rest.data();
    rest = rest.subspan(bytes);
    return at;
  };
  const auto read = [&](auto& value) { std::memcpy(&value, take(sizeof(value)), sizeof(value)); };

  uint32_t longest;
  read(longest);
  for (int64_t i = 0; i < vocab_size; ++i) {
    float score;
    int32_t bytes;
    read(score);
    read(bytes);
    if (!std::isfinite(score))
      throw_error("{}: piece {}: expected a finite score, found {}", path, i, score);
    if (bytes < 0 || static_cast<uint32_t>(bytes) > longest)
      throw_error("{}: piece {}: expected a length from 0 to {}, found {}", path, i, longest,
                  bytes);
    const auto* text = reinterpret_cast<const char*>(take(static_cast<size_t>(bytes)));
    all.pieces.emplace_back(text, static_cast<size_t>(bytes));
    all.scores.push_back(score);
  }
  if (!rest.empty())
    throw_error("{}: expected the end after {} pieces, found {} bytes more", path, vocab_size,
                rest.size());
  return all;
}

}  // namespace refrain::text
