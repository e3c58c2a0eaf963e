#include "refrain/io/stream_copies.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <vector>

#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

std::string all_of(TextReader reader) {
  std::string text, piece;
  while (reader.read(piece)) text += piece;
  return text;
}

TEST(StreamCopies, WhatIsAStream) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo((folder / "pipe").c_str(), 0600), 0);
  EXPECT_TRUE(is_stream("-"));
  EXPECT_TRUE(is_stream(folder / "pipe"));
  EXPECT_TRUE(is_stream("/dev/null"));
  EXPECT_FALSE(is_stream(folder.put("file", "text")));
  EXPECT_FALSE(is_stream(folder.path()));
  EXPECT_FALSE(is_stream(folder / "missing"));
}

TEST(StreamCopies, AreReadAgainAndAgain) {
  const TemporaryFolder folder, copies_folder;
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const std::string text = "the text\n";
  ASSERT_EQ(write(ends[1], text.data(), text.size()), std::ssize(text));
  close(ends[1]);
  const std::string stream = fmt::format("/dev/fd/{}", ends[0]), file = folder.put("a", "other");
  {
    const std::vector<std::string> inputs = {stream, file, stream};
    const StreamCopies copies(inputs, copies_folder.path());
    EXPECT_TRUE(copies.has(stream));
    EXPECT_FALSE(copies.has(file));
    for (int round = 0; round < 3; ++round) {
      EXPECT_EQ(all_of(StreamCopies::open(stream, &copies)), text);
      EXPECT_EQ(all_of(StreamCopies::open(file, &copies)), "other");
    }
    EXPECT_EQ(StreamCopies::open(stream, &copies).name(), stream);
    // No name that a killed process would leave behind.
    EXPECT_TRUE(std::filesystem::is_empty(copies_folder.path()));
  }
  close(ends[0]);
  const std::vector<std::string> inputs = {"/dev/null"};
  EXPECT_EQ(error_of([&] { StreamCopies(inputs, folder / "none"); }),
            fmt::format("cannot make a temporary file in {}: No such file or directory",
                        folder / "none"));
}

}  // namespace
}  // namespace refrain::io
