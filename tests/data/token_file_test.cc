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

// The same file as version 1 wrote it.
std::string first_version(std::string bytes) {
  const auto number = [&](size_t from_end) {
    uint64_t value;
    std::memcpy(&value, bytes.data() + bytes.size() - from_end, sizeof(value));
    return value;
  };
  const uint64_t id_bytes = static_cast<uint8_t>(bytes[16]);
  const uint64_t ids = (number(40) * id_bytes + 7) / 8 * 8;
  bytes.erase(bytes.size() - 16, 8);
  bytes.erase(64 + ids, bytes.size() - 32 - 8 * number(24) - 64 - ids);
  return with(bytes, 8, 1u);
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
    EXPECT_EQ(contents(path).size(), 64 + (vocab_size > 65536 ? 40u : 24u) + 8 + 5 * 8 + 40);
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
  const size_t hashes = 64 + 24, boundaries = hashes + 8, tail = boundaries + 5 * 8;
  const auto expect = [&](const std::string& bytes, const std::string& what) {
    EXPECT_NE(error(bytes).find(what), std::string::npos) << error(bytes) << "\nnot: " << what;
  };
  EXPECT_EQ(error(good), "(no error)");
  expect("", "0 bytes, expected at least 96");
  expect(with(good, 0, 'X'), "does not start with RFTOKENS");
  expect(with(good, 8, 3u), "version 3, expected 1 or 2");
  expect(with(good, 12, 4u), "task 4, expected 0 to 3");
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

  expect(good.substr(0, 98), "cut short: 98 bytes, expected at least 104");
  // What is right by itself, but not what was written.
  const char* other = "damaged: its fingerprint is ";
  expect(with(good, boundaries + 8, uint64_t{2}), other);
  expect(with(good, tail + 16, uint64_t{8}), other);
  expect(with(good, hashes, uint64_t{1}), other);
  expect(with(good, 32, uint64_t{98}), other);
  expect(with(good, tail + 24, uint64_t{1}), other);

  const TokenFile file(folder.put("ids", with(good, 64 + 4 * 2, uint16_t{3})));
  EXPECT_NE(error_of([&] { all_ids(file); }).find("the ids from place 0 on are not those that"),
            std::string::npos);
  const TokenFile first(folder.put("first", first_version(with(good, 64 + 4 * 2, uint16_t{100}))));
  EXPECT_NE(error_of([&] { all_ids(first); }).find("id 100 at place 4, expected less than 100"),
            std::string::npos);
}

TEST(TokenFile, ReadsTheFirstVersion) {
  const TemporaryFolder folder;
  const std::string second = write_pairs(folder / "t", 100);
  const std::string bytes = first_version(contents(second));
  const TokenFile file(folder.put("first", bytes)), now(second);
  EXPECT_EQ(all_ids(file), all_ids(now));
  EXPECT_EQ(file.boundary(3), 8);
  EXPECT_EQ(file.text_bytes(), 7);
  EXPECT_EQ(file.header().fingerprint, 99u);
  EXPECT_NE(file.fingerprint(),
            TokenFile(folder.put("other", with(bytes, 64, uint16_t{1}))).fingerprint());
  EXPECT_EQ(file.fingerprint(), TokenFile(folder.put("same", bytes)).fingerprint());
}

// Of some 300,000 ids of 2 bytes: more than two blocks of them.
std::string write_text(const std::string& path, int32_t changed) {
  TokenFileWriter file(path, {data::TokenTask::kLm, 1000, 99});
  file.mark_boundary();
  for (int32_t i = 0; i < 300'001; ++i) file.add(i == 200'000 ? changed : i % 1000);
  file.commit(7);
  return path;
}

TEST(TokenFile, ReadsAcrossBlocksInAnyOrder) {
  const TemporaryFolder folder;
  const TokenFile file(write_text(folder / "t", 0));
  Random random(1);
  for (int round = 0; round < 300; ++round) {
    std::vector<int32_t> ids(random.below(round % 10 == 0 ? 200'000 : 300));
    const auto first = static_cast<int64_t>(random.below(300'001 - ids.size()));
    file.read(first, ids);
    for (size_t i = 0; i < ids.size(); ++i)
      ASSERT_EQ(ids[i], (first + static_cast<int64_t>(i)) % 1000);
  }
}

TEST(TokenFile, TheFingerprintIsOfTheIds) {
  const TemporaryFolder folder;
  const uint64_t one = TokenFile(write_text(folder / "1", 5)).fingerprint();
  EXPECT_EQ(TokenFile(write_text(folder / "2", 5)).fingerprint(), one);
  EXPECT_NE(TokenFile(write_text(folder / "3", 6)).fingerprint(), one);
  // One that is changed behind the hash's back is found where it stands, and nowhere else.
  const std::string bytes = contents(folder / "1");
  const TokenFile file(folder.put("4", with(bytes, 64 + 2 * 200'000, uint16_t{6})));
  std::vector<int32_t> ids(1000);
  file.read(100'000, ids);
  EXPECT_NE(error_of([&] { file.read(199'900, ids); }).find("the ids from place 131072 on"),
            std::string::npos);
}

// What would be a signal if the file were mapped.
TEST(TokenFile, TruncatedWhileItIsRead) {
  const TemporaryFolder folder;
  for (const bool first : {false, true}) {
    const std::string path = write_text(folder / "t", 5);
    if (first) folder.put("t", first_version(contents(path)));
    const TokenFile file(path);
    std::vector<int32_t> ids(10);
    file.read(0, ids);
    std::filesystem::resize_file(path, 100);
    const std::string expected = path + ": changed while it was read: it ends at byte ";
    EXPECT_TRUE(error_of([&] { file.read(290'000, ids); }).starts_with(expected));
    EXPECT_TRUE(error_of([&] { all_ids(file); }).starts_with(expected));
    EXPECT_TRUE(error_of([&] { file.boundary(1); }).starts_with(expected));
  }
}

TEST(TokenFile, SurvivesAnyBytes) {
  const TemporaryFolder folder;
  const std::string now = contents(write_pairs(folder / "t", 100)), before = first_version(now);
  Random random(5);
  int opened = 0;
  for (int round = 0; round < 3000; ++round) {
    std::string bytes = round % 2 == 0 ? now : before;
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
