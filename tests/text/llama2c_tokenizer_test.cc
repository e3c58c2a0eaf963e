#include "refrain/text/llama2c_tokenizer.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "refrain/base/error.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::text {
namespace {

template <class T>
std::string bytes_of(T value) {
  return {reinterpret_cast<const char*>(&value), sizeof(value)};
}

std::string piece(float score, const std::string& text) {
  return bytes_of(score) + bytes_of(static_cast<int32_t>(text.size())) + text;
}

const std::string kFile =
    bytes_of(uint32_t{5}) + piece(0, "<unk>") + piece(-1.5f, "") + piece(-2, "\n\xff");

std::string error_with(const std::string& file, int64_t vocab_size = 3) {
  const TemporaryFolder folder;
  const std::string path = folder.put("t.bin", file);
  const std::string error = error_of([&] { read_llama2c_tokenizer(path, vocab_size); });
  return error.starts_with(path + ": ") ? error.substr(path.size() + 2) : "no path: " + error;
}

TEST(Llama2cTokenizer, ReadsPiecesAndScores) {
  const TemporaryFolder folder;
  const ScoredPieces all = read_llama2c_tokenizer(folder.put("t.bin", kFile), 3);
  EXPECT_EQ(all.pieces, (std::vector<std::string>{"<unk>", "", "\n\xff"}));
  EXPECT_EQ(all.scores, (std::vector<float>{0, -1.5f, -2}));
}

TEST(Llama2cTokenizer, RefusesAnotherNumberOfPieces) {
  EXPECT_EQ(error_with(kFile, 2), "expected the end after 2 pieces, found 10 bytes more");
  EXPECT_EQ(error_with(kFile, 4), "truncated at piece 3: expected 4 pieces");
  EXPECT_EQ(error_with(kFile, std::numeric_limits<int64_t>::max()).find("truncated at piece 3"),
            0u);
  EXPECT_EQ(error_with(kFile + "x"), "expected the end after 3 pieces, found 1 bytes more");
}

TEST(Llama2cTokenizer, RefusesATruncatedFile) {
  for (size_t size = 0; size < kFile.size(); ++size)
    EXPECT_EQ(error_with(kFile.substr(0, size)).find("truncated at piece "), 0u) << size;
}

TEST(Llama2cTokenizer, RefusesLyingLengthsAndScores) {
  const auto with_length = [](int32_t length) {
    return bytes_of(uint32_t{5}) + bytes_of(1.0f) + bytes_of(length) + std::string(100, 'x');
  };
  EXPECT_EQ(error_with(with_length(-1)), "piece 0: expected a length from 0 to 5, found -1");
  EXPECT_EQ(error_with(with_length(6)), "piece 0: expected a length from 0 to 5, found 6");
  EXPECT_EQ(error_with(with_length(INT32_MIN)).find("piece 0: expected a length"), 0u);
  const std::string huge = bytes_of(UINT32_MAX) + bytes_of(1.0f) + bytes_of(INT32_MAX);
  EXPECT_EQ(error_with(huge), "truncated at piece 0: expected 3 pieces");
  for (float score : {NAN, INFINITY, -INFINITY})
    EXPECT_EQ(error_with(bytes_of(uint32_t{5}) + piece(score, "a")).find("piece 0: expected a f"),
              0u);
}

}  // namespace
}  // namespace refrain::text
