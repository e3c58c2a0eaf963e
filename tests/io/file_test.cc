#include "refrain/io/file.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/io/input_file.h"
#include "refrain/io/text.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain::io {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::sort(names.begin(), names.end());
  return names;
}

std::string read_at_once(const std::string& path) {
  const InputFile file(path);
  std::string text(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(text)));
  return text;
}

// No file of this process may grow beyond `bytes` while this lives.
class SizeLimit {
 public:
  explicit SizeLimit(rlim_t bytes) : handler_(signal(SIGXFSZ, SIG_IGN)) {
    getrlimit(RLIMIT_FSIZE, &old_);
    const rlimit limit{bytes, old_.rlim_max};
    setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~SizeLimit() {
    setrlimit(RLIMIT_FSIZE, &old_);
    signal(SIGXFSZ, handler_);
  }

 private:
  sighandler_t handler_;
  rlimit old_;
};

using Names = std::vector<std::string>;

TEST(File, ReadsWholeOrMapped) {
  const TemporaryFolder folder;
  std::string large(3'000'001, 'x');
  large[1'500'000] = '\0';
  for (const std::string& content : {std::string(), std::string("a"), large}) {
    const std::string path = folder.put("f", content);
    EXPECT_EQ(read_file(path), content);
    EXPECT_EQ(read_file(path, content.size()), content);
    EXPECT_EQ(read_file(path, SIZE_MAX), content);
    EXPECT_EQ(read_at_once(path), content);
  }
  EXPECT_EQ(error_of([&] { read_file(folder / "f", large.size() - 1); }),
            folder / "f" + ": longer than 3000000 bytes");
  EXPECT_EQ(error_of([&] { read_stream("/dev/zero", 1000); }), "/dev/zero: longer than 1000 bytes");
}

TEST(File, SaysWhyItCannotRead) {
  const TemporaryFolder folder;
  const std::string none = folder / "none";
  EXPECT_EQ(error_of([&] { read_file(none); }),
            "cannot open " + none + ": No such file or directory");
  EXPECT_EQ(error_of([&] { InputFile file(none); }),
            "cannot open " + none + ": No such file or directory");
  EXPECT_EQ(error_of([&] { read_file(folder.path()); }),
            folder.path() + ": expected a regular file");
  EXPECT_EQ(error_of([&] { InputFile file(folder.path()); }),
            folder.path() + ": expected a regular file");
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { InputFile file(pipe); }), pipe + ": expected a regular file");
}

// A pipe that nobody writes to would be waited for without end.
TEST(File, WaitsForNoPipeButWhereOneIsMeant) {
  const TemporaryFolder folder;
  const std::string pipe = folder / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  EXPECT_EQ(error_of([&] { read_file(pipe); }), pipe + ": expected a regular file");
  EXPECT_EQ(error_of([&] { TextReader::of_regular(pipe); }), pipe + ": expected a regular file");
  EXPECT_EQ(error_of([&] { read_file("/dev/zero"); }), "/dev/zero: expected a regular file");
  std::jthread writer([&] { std::ofstream(pipe) << "line\n"; });
  EXPECT_EQ(read_stream(pipe), "line\n");
  std::string line;
  EXPECT_TRUE(TextReader::of_regular(folder.put("f", "a\nb")).line(line));
  EXPECT_EQ(line, "a");
}

TEST(File, Exists) {
  const TemporaryFolder folder;
  const std::string file = folder.put("f", "");
  EXPECT_TRUE(exists(file));
  EXPECT_TRUE(exists(folder.path()));
  EXPECT_FALSE(exists(folder / "none"));
  EXPECT_FALSE(exists(file + "/below"));
  EXPECT_THROW(exists(folder / std::string(300, 'n')), Error);  // a name too long
}

TEST(AtomicFile, ShowsNothingBeforeCommit) {
  const TemporaryFolder folder;
  const std::string path = folder.put("f", "old");
  {
    AtomicFile file(path);
    file.write("new");
    EXPECT_EQ(read_file(path), "old");
    EXPECT_EQ(names_in(folder.path()), (Names{fmt::format(".f.tmp-{}", getpid()), "f"}));
  }
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(names_in(folder.path()), Names{"f"});

  AtomicFile file(path);
  std::string expected;
  for (int i = 0; i < 40; ++i) {  // short and long writes, to cross the buffer's end
    const std::string part(static_cast<size_t>(i * i * 1000), static_cast<char>('a' + i % 26));
    file.write(part);
    file.write(std::as_bytes(std::span("xyz", 3)));
    expected += part + "xyz";
  }
  file.commit();
  EXPECT_EQ(read_file(path), expected);
  EXPECT_EQ(names_in(folder.path()), Names{"f"});
  EXPECT_THROW(file.write("more"), std::logic_error);
  EXPECT_THROW(file.commit(), std::logic_error);
}

TEST(AtomicFile, TwoAtOnceAndLeftOvers) {
  const TemporaryFolder folder;
  folder.put(fmt::format(".f.tmp-{}", getpid()), "left by a process of the same number");
  AtomicFile one(folder / "f"), two(folder / "f");
  one.write("one");
  two.write("two");
  two.commit();
  EXPECT_EQ(read_file(folder / "f"), "two");
  one.commit();
  EXPECT_EQ(read_file(folder / "f"), "one");
  AtomicDirectory::remove_stale(folder.path());
  EXPECT_EQ(names_in(folder.path()), Names{"f"});
}

TEST(AtomicFile, FullDisk) {
  const TemporaryFolder folder;
  const std::string path = folder.put("f", "old");
  for (const size_t size : {100'000u, 5'000'000u}) {  // fails in commit(), in write()
    const SizeLimit limit(65536);
    EXPECT_EQ(error_of([&] { write_file(path, std::string(size, 'x')); }),
              "cannot write " + path + ": File too large");
    EXPECT_EQ(names_in(folder.path()), Names{"f"});
  }
  EXPECT_EQ(read_file(path), "old");

  const SizeLimit limit(65536);
  AtomicFile file(path);
  EXPECT_THROW(file.write(std::string(5'000'000, 'x')), Error);
  EXPECT_THROW(file.commit(), std::logic_error);  // what was written is not whole
  EXPECT_EQ(read_file(path), "old");
}

TEST(AtomicFile, DevicesAreWrittenInPlace) {
  EXPECT_EQ(error_of([] { write_file("/dev/full", "x"); }),
            "cannot write /dev/full: No space left on device");
  EXPECT_NO_THROW(write_file("/dev/null", "x"));
  struct stat status;
  ASSERT_EQ(stat("/dev/null", &status), 0);
  EXPECT_TRUE(S_ISCHR(status.st_mode));
}

TEST(AtomicFile, SaysWhyItCannotWrite) {
  const TemporaryFolder folder;
  const std::string below = folder / "none/f";
  EXPECT_EQ(error_of([&] { write_file(below, ""); }),
            "cannot write " + below + ": No such file or directory");
  EXPECT_EQ(error_of([&] { write_file(folder.path(), ""); }),
            "cannot open " + folder.path() + ": Is a directory");
  EXPECT_EQ(error_of([] { write_file("", ""); }), "\"\": not a name that can be written");
  EXPECT_THROW(write_file(folder / std::string(300, 'n'), ""), Error);
}

TEST(AtomicDirectory, AppearsWhole) {
  const TemporaryFolder folder;
  {
    AtomicDirectory unfinished(folder / "d");
    write_file(unfinished.path() + "/a", "1");
    EXPECT_FALSE(exists(folder / "d"));
  }
  EXPECT_EQ(names_in(folder.path()), Names{});

  AtomicDirectory directory(folder / "d/");
  write_file(directory.path() + "/a", "1");
  make_directories(directory.path() + "/sub/deep");
  write_file(directory.path() + "/sub/deep/b", "2");
  directory.commit();
  EXPECT_EQ(names_in(folder.path()), Names{"d"});
  EXPECT_EQ(read_file(folder / "d/sub/deep/b"), "2");
  EXPECT_THROW(directory.commit(), std::logic_error);

  AtomicDirectory again(folder / "d");
  write_file(again.path() + "/c", "3");
  EXPECT_EQ(names_in(folder / "d"), (Names{"a", "sub"}));
  again.commit();
  EXPECT_EQ(names_in(folder / "d"), Names{"c"});
  EXPECT_EQ(names_in(folder.path()), Names{"d"});
}

TEST(AtomicDirectory, KeepsTheOldOneWhenItCannotFinish) {
  const TemporaryFolder folder;
  make_directories(folder / "d");
  folder.put("d/a", "old");
  AtomicDirectory directory(folder / "d");
  remove_all(directory.path());
  EXPECT_THROW(directory.commit(), Error);
  EXPECT_EQ(read_file(folder / "d/a"), "old");

  folder.put("file", "");
  EXPECT_EQ(error_of([&] { AtomicDirectory over_file(folder / "file"); }),
            folder / "file" + ": expected a directory or nothing");
  for (const char* name : {"", ".", "..", "/", "a/.."})
    EXPECT_THROW(AtomicDirectory{name}, Error) << name;
}

TEST(AtomicDirectory, RecoversFromCrashes) {
  const TemporaryFolder folder;
  const auto directory = [&](const std::string& name, const std::string& content) {
    make_directories(folder / name);
    folder.put(name + "/content", content);
  };
  directory(".best.old-12", "best");         // crashed between the renames
  directory(".best.tmp-12", "part");         //
  directory("last", "new");                  // crashed before the old one was removed
  directory(".last.old-12-3", "old");        //
  directory(".next.tmp-4", "part");          // crashed while writing
  directory(".odd.tmp-1.old-2", "odd");      // "odd.tmp-1" hidden once: a name like any other
  folder.put(".state.json.tmp-99", "part");  //
  for (const char* other :
       {".tmp-1", ".old-1", ".x.tmp-", ".x.tmp-a1", "x.tmp-1", ".hidden", "file"})
    folder.put(other, "not ours");
  AtomicDirectory::remove_stale(folder.path());
  EXPECT_EQ(names_in(folder.path()), (Names{".hidden", ".old-1", ".tmp-1", ".x.tmp-", ".x.tmp-a1",
                                            "best", "file", "last", "odd.tmp-1", "x.tmp-1"}));
  EXPECT_EQ(read_file(folder / "best/content"), "best");
  EXPECT_EQ(read_file(folder / "last/content"), "new");
  EXPECT_THROW(AtomicDirectory::remove_stale(folder / "none"), Error);
}

// A process that replaces a directory and a file without end is killed at random moments.
TEST(AtomicDirectory, SurvivesKilling) {
  const TemporaryFolder folder;
  const std::vector<std::string> parts = {"a", "b", "c"};
  const auto save = [&](const std::string& content) {
    AtomicDirectory directory(folder / "best");
    for (const std::string& part : parts) write_file(directory.path() + "/" + part, content);
    directory.commit();
    write_file(folder / "file", content);
  };
  save(std::string(5000, '0'));
  Random random(mix_key(1, "kill"));
  for (int round = 0; round < 30; ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0)
      for (char digit = '0';; digit = digit == '9' ? '0' : static_cast<char>(digit + 1))
        save(std::string(5000, digit));
    usleep(static_cast<useconds_t>(random.below(30'000)));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    AtomicDirectory::remove_stale(folder.path());
    ASSERT_EQ(names_in(folder.path()), (Names{"best", "file"}));
    ASSERT_EQ(names_in(folder / "best"), parts);
    const std::string content = read_file(folder / "best/a");
    ASSERT_EQ(content, std::string(5000, content[0]));
    ASSERT_EQ(read_file(folder / "best/b"), content);
    ASSERT_EQ(read_file(folder / "best/c"), content);
    const std::string file = read_file(folder / "file");
    ASSERT_EQ(file, std::string(5000, file[0]));
  }
}

TEST(File, MakesAndRemovesDirectories) {
  const TemporaryFolder folder;
  make_directories(folder / "a/b/c");
  make_directories(folder / "a/b/c/");
  EXPECT_TRUE(fs::is_directory(folder / "a/b/c"));
  folder.put("f", "");
  EXPECT_EQ(error_of([&] { make_directories(folder / "f/g"); }),
            "cannot make the directory " + folder / "f/g" + ": Not a directory");
  EXPECT_THROW(make_directories(folder / "f"), Error);
  remove_all(folder / "a");
  remove_all(folder / "never was");
  EXPECT_EQ(names_in(folder.path()), Names{"f"});
}

}  // namespace
}  // namespace refrain::io
