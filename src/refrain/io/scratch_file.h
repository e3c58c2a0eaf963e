// Bytes put aside on disk and read back: a file without a name, which ends with the process in
// whatever way that ends.
#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace refrain::io {

class ScratchFile {
 public:
  // In `directory`, from the first write on. Every failure is an Error that names it.
  explicit ScratchFile(const std::string& directory) : directory_(directory) {}
  ~ScratchFile();
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;

  void write(size_t at, std::span<const std::byte> bytes);
  void read(size_t at, std::span<std::byte> bytes) const;

 private:
  void make();
  std::string directory_;
  int fd_ = -1;
};

}  // namespace refrain::io
