// An open file descriptor, closed at the end of its scope. For the files of io/ only.
#pragma once
#include <cstddef>
#include <string>
#include <utility>

namespace refrain::io {

class Descriptor {
 public:
  Descriptor(std::string path, int flags);  // open(2) with O_CLOEXEC; an Error if it fails
  Descriptor(int fd, std::string name) : path_(std::move(name)), fd_(fd) {}
  ~Descriptor();
  Descriptor(Descriptor&& other) noexcept
      : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)) {}
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  Descriptor& operator=(Descriptor&&) = delete;

  int fd() const { return fd_; }
  int release() { return std::exchange(fd_, -1); }  // the caller closes it
  size_t read(char* to, size_t max) const;          // 0 at the end only

 private:
  std::string path_;
  int fd_;
};

// Opens a regular file for reading. Anything else of that name is refused without waiting for it.
Descriptor open_regular(const std::string& path, size_t* size = nullptr);

// "cannot <action> <path>: <what errno says>"
[[noreturn]] void throw_system_error(const std::string& action, const std::string& path);

}  // namespace refrain::io
