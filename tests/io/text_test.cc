#include "refrain/io/text.h"

#include <gtest/gtest.h>
#include <unistd.h>
#include <zlib.h>

#include <string>
#include <thread>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

using namespace std::string_literals;
using Lines = std::vector<std::string>;

const std::string kMark = "\xEF\xBB\xBF";

std::string gzip(const TemporaryFolder& folder, std::string_view text) {
  const std::string path = folder / "made.gz";
  gzFile file = gzopen(path.c_str(), "wb");
  gzwrite(file, text.data(), static_cast<unsigned>(text.size()));
  gzclose(file);
  return read_file(path);
}

Lines lines_of(TextReader reader) {
  Lines lines;
  for (std::string line; reader.line(line);) {
    lines.push_back(line);
    EXPECT_EQ(reader.line_number(), static_cast<int64_t>(lines.size()));
  }
  return lines;
}

std::string all_of(TextReader reader, size_t piece_bytes = 1000) {
  std::string text, piece;
  bool last = false;
  while (reader.read(piece, piece_bytes)) {
    EXPECT_FALSE(last) << "only the last piece may be short";
    EXPECT_LE(piece.size(), piece_bytes);
    last = piece.size() < piece_bytes;
    text += piece;
  }
  EXPECT_EQ(piece, "");
  return text;
}

// Text that does not shrink to nothing and that fills several buffers.
std::string long_text(size_t size) {
  Random random(mix_key(1, "text"));
  std::string text;
  while (text.size() < size)
    text += static_cast<char>(random.below(20) ? 'a' + random.below(26) : '\n');
  return text;
}

TEST(Text, Lines) {
  struct Case {
    std::string text;
    Lines lines;
  };
  const std::vector<Case> cases = {
      {"", {}},
      {"a", {"a"}},
      {"a\n", {"a"}},
      {"\n", {""}},
      {"\n\n", {"", ""}},
      {"a\n\nb", {"a", "", "b"}},
      {"a\r\nb\r\n", {"a", "b"}},
      {"a\rb\r\r\n", {"a\rb\r"}},
      {"a\r", {"a\r"}},
      {"a\0b\nc"s, {"a\0b"s, "c"}},
      {"\xFF\xFE\n", {"\xFF\xFE"}},
      {"\x1F\x8B", {"\x1F\x8B"}},
      {"\x1F\x8Bx", {"\x1F\x8Bx"}},
      {kMark, {}},
      {kMark + "a\n", {"a"}},
      {kMark + kMark + "a", {kMark + "a"}},
      {"a\n" + kMark + "b", {"a", kMark + "b"}},
      {"\xEF\xBB", {"\xEF\xBB"}},
      {"\xEF\xBBx\n", {"\xEF\xBBx"}},
  };
  const TemporaryFolder folder;
  for (const Case& c : cases) {
    EXPECT_EQ(lines_of(TextReader(folder.put("t", c.text))), c.lines)
        << testing::PrintToString(c.text);
    EXPECT_EQ(lines_of(TextReader(folder.put("t", gzip(folder, c.text)))), c.lines)
        << "gzip of " << testing::PrintToString(c.text);
  }
}

TEST(Text, PiecesAndLinesGiveEveryByte) {
  const TemporaryFolder folder;
  const std::string text = long_text(1'000'000);
  for (const std::string& path : {folder.put("t", text), folder.put("t.gz", gzip(folder, text)),
                                  folder.put("with mark", kMark + text)}) {
    for (const size_t bytes : {1000u, 131'072u, 999'999u, 5'000'000u})
      EXPECT_EQ(all_of(TextReader(path), bytes), text) << path << " by " << bytes;
    std::string joined;
    for (const std::string& line : lines_of(TextReader(path))) joined += line + "\n";
    EXPECT_EQ(joined, text.ends_with('\n') ? text : text + "\n") << path;
  }
}

TEST(Text, CarriageReturnsAcrossBuffers) {
  const TemporaryFolder folder;
  for (size_t buffer = 1024; buffer <= 1 << 20; buffer *= 2)
    for (size_t size = buffer - 3; size < buffer + 2; ++size) {
      const std::string first(size, 'x');
      EXPECT_EQ(lines_of(TextReader(folder.put("t", first + "\r\nb\r\n"))), (Lines{first, "b"}));
      EXPECT_EQ(lines_of(TextReader(folder.put("t", first + "\rb"))), Lines{first + "\rb"});
    }
}

TEST(Text, ConcatenatedGzip) {
  const TemporaryFolder folder;
  const std::string text = long_text(300'000);
  const std::string members = gzip(folder, text) + gzip(folder, "") + gzip(folder, "end\n");
  EXPECT_EQ(all_of(TextReader(folder.put("t", members))), text + "end\n");
}

TEST(Text, DamagedGzip) {
  const TemporaryFolder folder;
  const std::string text = long_text(400'000), packed = gzip(folder, text);
  const std::string path = folder / "t";
  const auto error = [&](const std::string& bytes) {
    folder.put("t", bytes);
    return error_of([&] { all_of(TextReader(path)); });
  };
  ASSERT_GT(packed.size(), 200'000u);  // more than one buffer
  for (const size_t size : {size_t{3}, size_t{9}, size_t{10}, size_t{18}, size_t{131'072},
                            packed.size() - 9, packed.size() - 8, packed.size() - 1})
    EXPECT_EQ(error(packed.substr(0, size)), path + ": the gzip data is cut short") << size;
  EXPECT_EQ(error(packed + packed.substr(0, 100)), path + ": the gzip data is cut short");
  EXPECT_EQ(error(packed + "garbage"), path + ": corrupt gzip data: incorrect header check");
  for (const size_t at : {packed.size() / 2, packed.size() - 8, packed.size() - 1}) {
    std::string damaged = packed;
    damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
    EXPECT_TRUE(error(damaged).starts_with(path + ": corrupt gzip data: ")) << at;
  }
}

TEST(Text, LongLines) {
  const TemporaryFolder folder;
  const std::string path = folder.put("t", "ok\n12345\r\n123456\nlater\n");
  TextReader reader(path);
  std::string line;
  EXPECT_TRUE(reader.line(line, 5));
  EXPECT_TRUE(reader.line(line, 5));
  EXPECT_EQ(line, "12345");
  EXPECT_EQ(error_of([&] { reader.line(line, 5); }), path + ": line 3: longer than 5 bytes");

  const std::string endless = folder.put("endless", std::string(3'000'000, 'x'));
  EXPECT_EQ(error_of([&] { TextReader(endless).line(line, 1'000'000); }),
            endless + ": line 1: longer than 1000000 bytes");
  EXPECT_TRUE(TextReader(endless).line(line, 3'000'000));
  EXPECT_TRUE(TextReader(endless).line(line, SIZE_MAX));
}

TEST(Text, StandardInput) {
  // Bytes that come one by one, with the mark and the magic number cut anywhere.
  const TemporaryFolder folder;
  for (const std::string& text : {kMark + "a\nb", gzip(folder, kMark + "a\nb")}) {
    int pipe_ends[2];
    ASSERT_EQ(pipe(pipe_ends), 0);
    const int saved = dup(STDIN_FILENO);
    dup2(pipe_ends[0], STDIN_FILENO);
    close(pipe_ends[0]);
    std::thread writer([&] {
      for (char byte : text) {
        ASSERT_EQ(write(pipe_ends[1], &byte, 1), 1);
        usleep(100);
      }
      close(pipe_ends[1]);
    });
    TextReader reader("-");
    EXPECT_EQ(reader.name(), "standard input");
    EXPECT_EQ(lines_of(std::move(reader)), (Lines{"a", "b"}));
    writer.join();
    dup2(saved, STDIN_FILENO);
    close(saved);
  }
}

TEST(Text, SaysWhyItCannotRead) {
  const TemporaryFolder folder;
  EXPECT_EQ(error_of([&] { TextReader reader(folder / "none"); }),
            "cannot open " + folder / "none" + ": No such file or directory");
  EXPECT_EQ(error_of([&] { TextReader reader(folder.path()); }),
            "cannot read " + folder.path() + ": Is a directory");
}

}  // namespace
}  // namespace refrain::io
