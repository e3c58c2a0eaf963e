#include "refrain/io/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/io/descriptor.h"

namespace refrain::io {
namespace {

struct Holder {
  std::string process, host;  // empty when nobody has written
};

Holder this_process() {
  std::array<char, 256> host{};
  if (gethostname(host.data(), host.size() - 1) != 0) host = {'?'};
  return {fmt::format("{}", getpid()), host.data()};
}

Holder read_holder(int fd) {
  std::array<char, 300> text{};
  const ssize_t size = pread(fd, text.data(), text.size() - 1, 0);
  const std::string line(text.data(), static_cast<size_t>(std::max<ssize_t>(size, 0)));
  const size_t space = line.find(' '), end = line.find('\n');
  if (space == line.npos || end == line.npos || end < space) return {};
  return {line.substr(0, space), line.substr(space + 1, end - space - 1)};
}

// Advice to others: that it cannot be written (a full disk) does not weaken the lock.
void write_holder(int fd) {
  const Holder self = this_process();
  const std::string line = self.process + " " + self.host + "\n";
  if (ftruncate(fd, 0) == 0) (void)!pwrite(fd, line.data(), line.size(), 0);
}

int lock_now(int fd) {
  while (flock(fd, LOCK_EX | LOCK_NB) != 0)
    if (errno != EINTR) return errno;
  return 0;
}

// The file that was locked may have lost its name before, to a holder who let go of it.
bool is_named(int fd, const std::string& path) {
  struct stat held, named;
  return fstat(fd, &held) == 0 && stat(path.c_str(), &named) == 0 && held.st_dev == named.st_dev &&
         held.st_ino == named.st_ino;
}

}  // namespace

FileLock::FileLock(std::string path, const std::string& what, const Notes& notes)
    : path_(std::move(path)) {
  for (;;) {
    Descriptor file(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0666), path_);
    if (file.fd() < 0) throw_system_error("write", path_);
    const int problem = lock_now(file.fd());
    const Holder holder = read_holder(file.fd());
    if (problem == EWOULDBLOCK)
      throw_error("{}: in use by {}; wait for its end, or end it", what,
                  holder.process.empty()
                      ? "another process"
                      : fmt::format("process {} on {}", holder.process, holder.host));
    if (problem != 0) {
      add_note(notes,
               "{}: this file system knows no locks ({}): a second process that works on it would "
               "not be noticed",
               what, std::generic_category().message(problem));
      unlink(path_.c_str());
      return;
    }
    if (!is_named(file.fd(), path_)) continue;
    if (!holder.process.empty() && holder.host != this_process().host)
      add_note(notes,
               "{}: process {} on {} did not let go of it; if that still works on it, this file "
               "system shares no locks between hosts: end one of the two",
               what, holder.process, holder.host);
    write_holder(file.fd());
    fd_ = file.release();
    return;
  }
}

bool FileLock::is_in_place() const { return fd_ < 0 || is_named(fd_, path_); }

FileLock::~FileLock() {
  if (fd_ < 0) return;
  // In this order: whoever locks it now finds that it has no name, and makes a new one. Where ours
  // was removed, another process may have its own there.
  if (is_named(fd_, path_)) unlink(path_.c_str());
  close(fd_);
}

}  // namespace refrain::io
