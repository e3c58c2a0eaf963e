#include "refrain/data/token_file.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <vector>

#include "refrain/base/random.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using data::TokenFile;
using data::TokenFileWriter;

std::string contents(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<int32_t> all_ids(const TokenFile& file) {
  std::vector<int32_t> ids(static_cast<size_t>(file.ids()));
  file.read(0, ids);
  return ids;
}

// Two pairs.
std::string write_pairs(const std::string& path, uint64_t vocab_size) {
  TokenFileWriter file(path, {data::TokenTask::kTranslate, vocab_size, 99});
  const auto last = static_cast<int32_t>(vocab_size - 1);
  for (int i = 0; i < 2; ++i) {
    file.mark_boundary();
    file.add(std::vector<int32_t>{0, 1, last});
    file.mark_boundary();
    file.add(std::vector<int32_t>{2, 1});
  }
  file.commit(7);
  return path;
}

template <class T>
std::string with(std::string bytes, size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof(value));
  return bytes;
}

TEST(TokenFile, GivesBackWhatWasWritten) {
  const TemporaryFolder folder;
  for (const uint64_t vocab_size : {3u, 65536u, 65537u, 1u << 30}) {
    const std::string path = write_pairs(folder / "t", vocab_size);
    EXPECT_TRUE(TokenFile::is_one(path));
    const TokenFile file(path);
    EXPECT_EQ(file.header().task, data::TokenTask::kTranslate);
    EXPECT_EQ(file.header().vocab_size, vocab_size);
    EXPECT_EQ(file.header().fingerprint, 99u);
    EXPECT_EQ(file.text_bytes(), 7);
    const auto last = static_cast<int32_t>(vocab_size - 1);
    EXPECT_EQ(all_ids(file), (std::vector<int32_t>{0, 1, last, 2, 1, 0, 1, last, 2, 1}));
    std::vector<int64_t> boundaries;
    for (int64_t i = 0; i < file.boundaries(); ++i) boundaries.push_back(file.boundary(i));
    EXPECT_EQ(boundaries, (std::vector<int64_t>{0, 3, 5, 8, 10}));
    std::vector<int32_t> some(2);
    file.read(8, some);
    EXPECT_EQ(some, (std::vector<int32_t>{2, 1}));
    // 10 ids of 2 or 4 bytes, padded.
    EXPECT_EQ(contents(path).size(), 64 + (vocab_size > 65536 ? 40u : 24u) + 5 * 8 + 32);
  }
}

TEST(TokenFile, LeavesNothingWithoutCommit) {
  const TemporaryFolder folder;
  {
    TokenFileWriter file(folder / "t", {data::TokenTask::kLm, 10, 0});
    file.mark_boundary();
    file.add(3);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(TokenFile, TellsTokenFilesFromOthers) {
  const TemporaryFolder folder;
  EXPECT_FALSE(TokenFile::is_one(folder.put("text", "RFTOKEN and more")));
  EXPECT_FALSE(TokenFile::is_one(folder.put("empty", "")));
  EXPECT_FALSE(TokenFile::is_one(folder / "missing"));
  EXPECT_FALSE(TokenFile::is_one(folder.path()));
  EXPECT_FALSE(TokenFile::is_one("-"));
}

TEST(TokenFile, SaysWhatIsWrong) {
  const TemporaryFolder folder;
  const std::string good = contents(write_pairs(folder / "t", 100));
  const auto error = [&](const std::string& bytes) {
    return error_of([&] { TokenFile file(folder.put("bad", bytes)); });
  };
  const size_t boundaries = 64 + 24, tail = boundaries + 5 * 8;
  const auto expect = [&](const std::string& bytes, const std::string& what) {
    EXPECT_NE(error(bytes).find(what), std::string::npos) << error(bytes) << "\nnot: " << what;
  };
  EXPECT_EQ(error(good), "(no error)");
  expect("", "0 bytes, expected at least 96");
  expect(with(good, 0, 'X'), "does not start with RFTOKENS");
  expect(with(good, 8, 2u), "version 2, expected 1");
  expect(with(good, 12, 3u), "task 3, expected 0 to 2");
  expect(with(good, 16, 4u), "4 bytes an id, expected 2 for a vocabulary of 100");
  expect(with(good, 24, uint64_t{0}), "a vocabulary of 0 tokens");
  expect(with(good, 24, uint64_t{1} << 40), "a vocabulary of 1099511627776 tokens");
  expect(good.substr(0, good.size() - 1), "does not end with RFTOKEND");
  expect(with(good, tail, uint64_t{13}), "13 ids and 5 boundaries do not fit");
  expect(with(good, tail, uint64_t{1} << 63), "do not fit");
  expect(with(good, tail + 8, UINT64_MAX), "do not fit");
  expect(with(good, tail + 8, uint64_t{4}), "do not fit");
  expect(with(good, tail + 16, UINT64_MAX), "bytes of text");
  expect(with(good, boundaries, uint64_t{1}), "boundary 0 is 1");
  expect(with(good, boundaries + 8, uint64_t{5}), "boundary 2 is 5 after 5 of 10 ids");
  expect(with(good, boundaries + 8, UINT64_MAX), "boundary 1 is 18446744073709551615 after 0");
  expect(with(good, boundaries + 32, uint64_t{9}), "the last boundary is 9, expected 10 ids");

  const TokenFile file(folder.put("ids", with(good, 64 + 4 * 2, uint16_t{100})));
  EXPECT_NE(error_of([&] { all_ids(file); }).find("id 100 at place 4, expected less than 100"),
            std::string::npos);
}

TEST(TokenFile, SurvivesAnyBytes) {
  const TemporaryFolder folder;
  const std::string good = contents(write_pairs(folder / "t", 100));
  Random random(5);
  int opened = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = good;
    for (uint64_t n = 1 + random.below(4); n > 0; --n) {
      const size_t at = random.below(bytes.size());
      switch (random.below(4)) {
        case 0:
          bytes[at] = static_cast<char>(random.below(256));
          break;
        case 1:
          bytes[at] = static_cast<char>(bytes[at] ^ 1 << random.below(8));
          break;
        case 2:
          bytes.erase(at, 1 + random.below(16));
          break;
        default:
          bytes.insert(at, 1 + random.below(16), static_cast<char>(random.below(3) * 127));
      }
      if (bytes.empty()) bytes = "R";
    }
    try {
      const TokenFile file(folder.put("bad", bytes));
      ++opened;
      int64_t before = -1;
      for (int64_t i = 0; i < file.boundaries(); ++i) {
        ASSERT_GT(file.boundary(i), before);
        before = file.boundary(i);
      }
      ASSERT_EQ(before, file.ids());
      for (const int32_t id : all_ids(file))
        ASSERT_LT(static_cast<uint64_t>(id), file.header().vocab_size);
    } catch (const Error&) {  // anything else fails the test
    }
  }
  EXPECT_GT(opened, 50);
}

}  // namespace
}  // namespace refrain
