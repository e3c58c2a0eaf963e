#include "refrain/io/input_file.h"

#include <unistd.h>

#include <cerrno>

#include "refrain/base/error.h"

namespace refrain::io {

InputFile::InputFile(const std::string& path, const std::string& name)
    : name_(name), file_(open_regular(path, &size_)) {}

void InputFile::read(size_t at, std::span<std::byte> to) const {
  while (!to.empty()) {
    const ssize_t got = pread(file_.fd(), to.data(), to.size(), static_cast<off_t>(at));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw_system_error("read", name_);
    if (got == 0)
      throw_error("{}: changed while it was read: it ends at byte {}, expected {} bytes", name_, at,
                  size_);
    at += static_cast<size_t>(got);
    to = to.subspan(static_cast<size_t>(got));
  }
}

}  // namespace refrain::io
