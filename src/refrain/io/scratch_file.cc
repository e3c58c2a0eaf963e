#include "refrain/io/scratch_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "refrain/base/error.h"

namespace refrain::io {
namespace {

// All of `bytes` at the file's place `at`, by pread or pwrite.
template <class Byte, class Move>
void move_all(const std::string& directory, size_t at, std::span<Byte> bytes, Move&& move) {
  while (!bytes.empty()) {
    const ssize_t n = move(bytes.data(), bytes.size(), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0)
      throw_error("{}: a scratch file: {}", directory,
                  n < 0 ? std::strerror(errno) : "it ends too early");
    bytes = bytes.subspan(static_cast<size_t>(n));
    at += static_cast<size_t>(n);
  }
}

}  // namespace

ScratchFile::~ScratchFile() {
  if (fd_ >= 0) close(fd_);
}

void ScratchFile::make() {
  if (fd_ >= 0) return;
  fd_ = open(directory_.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd_ >= 0) return;
  // A file system that makes no file without a name: one that loses it at once.
  std::string name = directory_ + "/.scratch-XXXXXX";
  fd_ = mkostemp(name.data(), O_CLOEXEC);
  if (fd_ < 0) throw_error("{}: a scratch file: {}", directory_, std::strerror(errno));
  unlink(name.c_str());
}

void ScratchFile::write(size_t at, std::span<const std::byte> bytes) {
  make();
  move_all(directory_, at, bytes,
           [&](const std::byte* from, size_t n, off_t to) { return pwrite(fd_, from, n, to); });
}

void ScratchFile::read(size_t at, std::span<std::byte> bytes) const {
  move_all(directory_, at, bytes,
           [&](std::byte* to, size_t n, off_t from) { return pread(fd_, to, n, from); });
}

}  // namespace refrain::io
