// A regular file that is read at any place. It is not mapped: if another program truncates a mapped
// file, a signal ends the process. Here that is an Error.
#pragma once
#include <cstddef>
#include <span>
#include <string>

#include "refrain/io/descriptor.h"

namespace refrain::io {

class InputFile {
 public:
  explicit InputFile(const std::string& path) : InputFile(path, path) {}
  InputFile(const std::string& path, const std::string& name);  // which errors call it

  size_t size() const { return size_; }  // as it was when the file was opened
  const std::string& name() const { return name_; }
  // All of `to`, from the byte `at` on. Any number of threads may read.
  void read(size_t at, std::span<std::byte> to) const;

 private:
  std::string name_;
  size_t size_ = 0;
  Descriptor file_;
};

}  // namespace refrain::io
