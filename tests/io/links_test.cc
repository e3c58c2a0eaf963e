// What replaces a file or a directory leaves its place and its rights as they were.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <span>
#include <string>
#include <string_view>

#include "refrain/base/hash.h"
#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

namespace fs = std::filesystem;

mode_t mode_of(const std::string& path) {
  struct stat status {};
  EXPECT_EQ(stat(path.c_str(), &status), 0) << path;
  return status.st_mode & 07777;
}

size_t entries(const std::string& folder) {
  return static_cast<size_t>(std::distance(fs::directory_iterator(folder), {}));
}

TEST(Links, AreFollowed) {
  const TemporaryFolder folder;
  make_directories(folder / "far");
  folder.put("far/file", "old");
  fs::create_symlink("far/file", folder / "near");
  fs::create_symlink(folder / "near", folder / "twice");
  fs::create_symlink("far/new", folder / "dangling");
  write_file(folder / "twice", "new");
  write_file(folder / "dangling", "made");
  for (const char* link : {"near", "twice", "dangling"})
    EXPECT_TRUE(fs::is_symlink(folder / link)) << link;
  EXPECT_EQ(read_file(folder / "far/file"), "new");
  EXPECT_EQ(read_file(folder / "far/new"), "made");
  EXPECT_EQ(entries(folder / "far"), 2u);

  fs::create_symlink("round", folder / "round");
  EXPECT_EQ(error_of([&] { write_file(folder / "round", "x"); }),
            fmt::format("cannot follow {}: Too many levels of symbolic links", folder / "round"));
}

TEST(Links, OfDirectoriesAreFollowed) {
  const TemporaryFolder folder;
  make_directories(folder / "far/d");
  fs::create_symlink("far/d", folder / "there");
  fs::create_symlink("far/e", folder / "not yet");
  for (const char* name : {"there", "not yet"}) {
    AtomicDirectory directory(folder / name);
    write_file(directory.path() + "/a", "1");
    directory.commit();
    EXPECT_TRUE(fs::is_symlink(folder / name));
    EXPECT_EQ(read_file(folder / name + "/a"), "1");
  }
  EXPECT_EQ(entries(folder / "far"), 2u);
  fs::create_symlink("far/f", folder / "made");
  make_directories(folder / "made");
  EXPECT_TRUE(fs::is_directory(folder / "far/f"));
  remove_all(folder / "there");
  EXPECT_FALSE(fs::exists(fs::symlink_status(folder / "there")));
  EXPECT_EQ(read_file(folder / "far/d/a"), "1");
}

TEST(Links, OpenFilesAreWrittenInPlace) {
  const TemporaryFolder folder;
  std::FILE* open = std::fopen((folder / "f").c_str(), "w");
  write_file(fmt::format("/proc/self/fd/{}", fileno(open)), "text");
  EXPECT_EQ(fs::file_size(folder / "f"), 4u);
  EXPECT_EQ(entries(folder.path()), 1u);
  unlink((folder / "f").c_str());
  write_file(fmt::format("/proc/self/fd/{}", fileno(open)), "more");
  struct stat status {};
  fstat(fileno(open), &status);
  EXPECT_EQ(status.st_size, 8);
  std::fclose(open);
  EXPECT_EQ(entries(folder.path()), 0u);
}

TEST(Modes, StayWhenSomethingIsReplaced) {
  const TemporaryFolder folder;
  for (const mode_t mode : {0600, 0640, 0664, 0400}) {
    folder.put("f", "old");
    chmod((folder / "f").c_str(), mode);
    {
      AtomicFile file(folder / "f");
      for (const auto& entry : fs::directory_iterator(folder.path()))
        EXPECT_EQ(mode_of(entry.path()), mode) << "while it is written, too";
      file.commit();
    }
    EXPECT_EQ(mode_of(folder / "f"), mode);
  }
  make_directories(folder / "d/sub");
  folder.put("d/secret", "old");
  folder.put("d/sub/secret", "old");
  chmod((folder / "d").c_str(), 0750);
  chmod((folder / "d/sub").c_str(), 0700);
  chmod((folder / "d/secret").c_str(), 0600);
  chmod((folder / "d/sub/secret").c_str(), 0640);
  AtomicDirectory directory(folder / "d");
  make_directories(directory.path() + "/sub");
  for (const char* name : {"/secret", "/sub/secret", "/other"})
    write_file(directory.path() + name, "new");
  const mode_t usual = mode_of(directory.path() + "/other");
  directory.commit();
  EXPECT_EQ(mode_of(folder / "d"), 0750u);
  EXPECT_EQ(mode_of(folder / "d/sub"), 0700u);
  EXPECT_EQ(mode_of(folder / "d/secret"), 0600u);
  EXPECT_EQ(mode_of(folder / "d/sub/secret"), 0640u);
  EXPECT_EQ(mode_of(folder / "d/other"), usual);
  EXPECT_EQ(read_file(folder / "d/secret"), "new");
}

TEST(CopyFile, ReplacesAndLeavesNothing) {
  const TemporaryFolder folder;
  folder.put("from", "new");
  make_directories(folder / "far");
  folder.put("far/to", "old");
  chmod((folder / "far/to").c_str(), 0600);
  fs::create_symlink("far/to", folder / "link");
  for (int again = 0; again < 2; ++again) {
    copy_file(folder / "from", folder / "link");
    EXPECT_TRUE(fs::is_symlink(folder / "link"));
    EXPECT_EQ(read_file(folder / "far/to"), "new");
    EXPECT_FALSE(fs::equivalent(folder / "from", folder / "far/to"));  // each is one of its own
    EXPECT_EQ(mode_of(folder / "far/to"), 0600u);
    EXPECT_EQ(entries(folder / "far"), 1u);
  }
  make_directories(folder / "taken/inner");
  EXPECT_THROW(copy_file(folder / "from", folder / "taken"), Error);
  EXPECT_THROW(copy_file(folder / "none", folder / "to"), Error);
  EXPECT_EQ(entries(folder.path()), 4u);  // far, from, link, taken
}

TEST(MoveNew, TakesNobodysPlace) {
  const TemporaryFolder folder;
  folder.put("a", "a");
  folder.put("b", "b");
  EXPECT_EQ(error_of([&] { move_new(folder / "a", folder / "b"); }),
            fmt::format("{}: is in the way of {}", folder / "b", folder / "a"));
  move_new(folder / "a", folder / "c");
  EXPECT_EQ(read_file(folder / "b") + read_file(folder / "c"), "ba");
}

TEST(AppendFile, AddsAtTheEnd) {
  const TemporaryFolder folder;
  append_file(folder / "f", "a\n");
  append_file(folder / "f", "b\n");
  EXPECT_EQ(read_file(folder / "f"), "a\nb\n");
  EXPECT_EQ(error_of([] { append_file("/dev/full", "x"); }),
            "cannot write /dev/full: No space left on device");
}

TEST(AppendFile, WaitsForNoReader) {
  const TemporaryFolder folder;
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::string refusal = pipe + ": expected a regular file, found a pipe";
  EXPECT_EQ(error_of([&] { append_file(pipe, "x"); }), refusal);
  const int reader = open(pipe.c_str(), O_RDONLY | O_NONBLOCK);
  EXPECT_EQ(error_of([&] { append_file(pipe, "x"); }), refusal);
  close(reader);
}

TEST(HashFile, IsOfAllOfIt) {
  const TemporaryFolder folder;
  std::string text((size_t{1} << 18) * 2 + 5, 'a');
  const auto hash = [&] { return hash_file(folder.put("f", text)); };
  const uint64_t before = hash();
  EXPECT_EQ(hash(), before);
  for (const size_t at : {size_t{0}, (size_t{1} << 18) - 1, size_t{1} << 18, text.size() - 1}) {
    text[at] = 'b';
    EXPECT_NE(hash(), before) << at;
    text[at] = 'a';
  }
  text += 'a';
  EXPECT_NE(hash(), before);
  const auto bytes = [](std::string_view s) { return std::as_bytes(std::span(s)); };
  text = "a text";
  EXPECT_EQ(hash(), hash64(bytes(text)));  // as docs/formats.md says
  text = std::string(size_t{1} << 18, 'x') + "y";
  EXPECT_EQ(hash(), hash64(bytes("y"), hash64(bytes(text.substr(0, size_t{1} << 18)))));
}

TEST(AtomicDirectory, RefusesMountPoints) {
  // The one that every system has.
  EXPECT_EQ(error_of([] { AtomicDirectory directory("/proc"); }),
            "/proc: is a mount point, which cannot be replaced; expected a directory in it");
}

}  // namespace
}  // namespace refrain::io
