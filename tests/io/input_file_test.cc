#include "refrain/io/input_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>

#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

std::string read_at(const InputFile& file, size_t at, size_t bytes) {
  std::string text(bytes, '\0');
  file.read(at, std::as_writable_bytes(std::span(text)));
  return text;
}

TEST(InputFile, ReadsAtAnyPlace) {
  const TemporaryFolder folder;
  const InputFile file(folder.put("a", "0123456789"));
  EXPECT_EQ(file.size(), 10u);
  EXPECT_EQ(read_at(file, 7, 3), "789");
  EXPECT_EQ(read_at(file, 0, 10), "0123456789");
  EXPECT_EQ(read_at(file, 10, 0), "");
}

TEST(InputFile, TruncatedMeanwhile) {
  const TemporaryFolder folder;
  const InputFile file(folder.put("a", std::string(10'000, 'x')), "the file");
  std::filesystem::resize_file(folder / "a", 5000);
  EXPECT_EQ(read_at(file, 0, 5000), std::string(5000, 'x'));
  EXPECT_EQ(error_of([&] { read_at(file, 4990, 20); }),
            "the file: changed while it was read: it ends at byte 5000, expected 10000 bytes");
}

TEST(InputFile, OnlyRegularFiles) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { InputFile(folder / "pipe"); }),
            (folder / "pipe: expected a regular file"));
  EXPECT_EQ(error_of([&] { InputFile(folder.path()); }),
            folder.path() + ": expected a regular file");
  EXPECT_EQ(error_of([&] { InputFile(folder / "none"); }),
            "cannot open " + (folder / "none: No such file or directory"));
}

}  // namespace
}  // namespace refrain::io
