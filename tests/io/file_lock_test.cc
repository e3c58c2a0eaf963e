#include "refrain/io/file_lock.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <string>
#include <vector>

#include "refrain/io/file.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace {
int flock_fails_with = 0;
}  // namespace

// In place of the system's: of a file system that knows no locks.
extern "C" int flock(int fd, int operation) noexcept {
  if (flock_fails_with == 0) return static_cast<int>(syscall(SYS_flock, fd, operation));
  errno = flock_fails_with;
  return -1;
}

namespace refrain::io {
namespace {

class FileLocks : public testing::Test {
 protected:
  std::unique_ptr<FileLock> take() {
    return std::make_unique<FileLock>(path, "run",
                                      [&](const std::string& n) { notes.push_back(n); });
  }
  std::string refusal() {
    return error_of([&] { take(); });
  }
  static std::string host() {
    char name[256] = {};
    gethostname(name, sizeof name - 1);
    return name;
  }

  const TemporaryFolder folder;
  const std::string path = folder / "lock";
  std::vector<std::string> notes;
};

TEST_F(FileLocks, IsForOneAndSaysForWhom) {
  auto lock = take();
  EXPECT_EQ(read_file(path), fmt::format("{} {}\n", getpid(), host()));
  EXPECT_EQ(refusal(), fmt::format("run: in use by process {} on {}; wait for its end, or end it",
                                   getpid(), host()));
  EXPECT_TRUE(exists(path));
  lock.reset();
  EXPECT_FALSE(exists(path));
  EXPECT_TRUE(take());
  EXPECT_TRUE(notes.empty());
}

TEST_F(FileLocks, EndsWithItsProcess) {
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    const auto lock = take();
    (void)!write(ready[1], "x", 1);
    for (;;) pause();
  }
  char byte;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_EQ(refusal(), fmt::format("run: in use by process {} on {}; wait for its end, or end it",
                                   child, host()));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(exists(path));
  const auto lock = take();
  EXPECT_EQ(read_file(path), fmt::format("{} {}\n", getpid(), host()));
  EXPECT_TRUE(notes.empty());
}

TEST_F(FileLocks, TellsOfAHolderOnAnotherHost) {
  folder.put("lock", "12 far.away\n");
  const auto lock = take();
  ASSERT_EQ(notes.size(), 1u);
  EXPECT_TRUE(notes[0].starts_with("run: process 12 on far.away did not let go of it")) << notes[0];
}

TEST_F(FileLocks, GoesOnWhereThereAreNone) {
  flock_fails_with = EOPNOTSUPP;
  { const auto one = take(), two = take(); }
  flock_fails_with = 0;
  ASSERT_EQ(notes.size(), 2u);
  EXPECT_EQ(notes[0],
            "run: this file system knows no locks (Operation not supported): a second process that "
            "works on it would not be noticed");
  EXPECT_FALSE(exists(path));
}

TEST_F(FileLocks, SaysWhyItCannotBeMade) {
  EXPECT_EQ(error_of([&] { FileLock(folder / "none/lock", "run", {}); }),
            fmt::format("cannot write {}: No such file or directory", folder / "none/lock"));
}

}  // namespace
}  // namespace refrain::io
