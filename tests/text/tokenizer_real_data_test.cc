// Against published figures, on real files in the folder that REFRAIN_DATA names.
#include <gtest/gtest.h>

#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

#include "refrain/io/file.h"
#include "refrain/text/llama2c_tokenizer.h"
#include "refrain/text/tokenizer.h"

namespace refrain {
namespace {

using text::Tokenizer;

class TokenizerRealData : public testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("REFRAIN_DATA");
    if (!folder) GTEST_SKIP() << "REFRAIN_DATA does not name a folder of real data";
    folder_ = folder;
  }
  std::string read(const std::string& name) const { return io::read_file(folder_ + "/" + name); }
  Tokenizer gpt2() const {
    return Tokenizer::from_gpt2(folder_ + "/gpt2_bpe/encoder.json",
                                folder_ + "/gpt2_bpe/vocab.bpe");
  }

  std::string folder_;
};

std::vector<int32_t> read_ids(const std::string& line) {
  std::istringstream words(line);
  std::vector<int32_t> ids;
  for (int32_t id; words >> id;) ids.push_back(id);
  return ids;
}

TEST_F(TokenizerRealData, Gpt2GivesTheIdsOfItsVectors) {
  const Tokenizer tokenizer = gpt2();
  const std::string texts = read("tokenizer_vectors/gpt2.inp");
  std::istringstream lines(read("tokenizer_vectors/gpt2.out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int checked = 0;
  for (size_t at = 0; at != texts.npos; ++checked) {
    const size_t end = texts.find(separator, at);
    const std::string text = texts.substr(at, end == texts.npos ? end : end - at);
    at = end == texts.npos ? end : end + separator.size();
    std::string line;
    std::getline(lines, line);
    EXPECT_EQ(tokenizer.encode(text), read_ids(line)) << text;
    EXPECT_EQ(tokenizer.decode(tokenizer.encode(text)), text);
  }
  EXPECT_GE(checked, 46);
}

TEST_F(TokenizerRealData, Gpt2CountsOfShakespeare) {
  const Tokenizer tokenizer = gpt2();
  const std::string text = read("tinyshakespeare/input.txt");  // ASCII: bytes are characters
  const std::string_view train = std::string_view(text).substr(0, text.size() * 9 / 10);
  EXPECT_EQ(tokenizer.encode(train).size(), 301966u);
  EXPECT_EQ(tokenizer.encode(std::string_view(text).substr(train.size())).size(), 36059u);
}

TEST_F(TokenizerRealData, StoriesTokenizer) {
  const text::ScoredPieces scored =
      text::read_llama2c_tokenizer(folder_ + "/stories260K/tok512.bin", 512);
  const Tokenizer tokenizer = Tokenizer::from_scored_pieces(scored.pieces, scored.scores);
  ASSERT_EQ(tokenizer.vocab_size(), 512);
  const std::string text = "Once upon a time, there was a little girl named Lily.";
  std::vector<int32_t> ids = {tokenizer.bos()};
  for (const int32_t id : tokenizer.encode(text)) ids.push_back(id);
  EXPECT_EQ(ids, read_ids(read("stories260K/ref_tokens.txt")));
  EXPECT_EQ(tokenizer.decode(ids), text);
}

}  // namespace
}  // namespace refrain
