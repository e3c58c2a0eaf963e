#include "refrain/io/descriptor.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "refrain/base/error.h"

namespace refrain::io {

Descriptor::Descriptor(std::string path, int flags) : path_(std::move(path)) {
  do {
    fd_ = open(path_.c_str(), flags | O_CLOEXEC);
  } while (fd_ < 0 && errno == EINTR);
  if (fd_ < 0) throw_system_error("open", path_);
}

Descriptor::~Descriptor() {
  if (fd_ >= 0) close(fd_);
}

size_t Descriptor::read(char* to, size_t max) const {
  for (;;) {
    const ssize_t got = ::read(fd_, to, max);
    if (got >= 0) return static_cast<size_t>(got);
    if (errno != EINTR) throw_system_error("read", path_);
  }
}

Descriptor open_regular(const std::string& path, size_t* size) {
  Descriptor file(path, O_RDONLY | O_NONBLOCK);  // opening a pipe comes back, to be refused
  struct stat status;
  if (fstat(file.fd(), &status) != 0) throw_system_error("read", path);
  if (!S_ISREG(status.st_mode)) throw_error("{}: expected a regular file", path);
  if (size) *size = static_cast<size_t>(status.st_size);
  return file;
}

void throw_system_error(const std::string& action, const std::string& path) {
  throw_error("cannot {} {}: {}", action, path, std::generic_category().message(errno));
}

}  // namespace refrain::io
