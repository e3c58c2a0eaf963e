// Bytes that are stored on disk and read back, in a file without a name. The file disappears when
// the process ends in any way.
#pragma once
#include <cstddef>
#include <span>
#include <string>

namespace refrain::io {

class ScratchFile {
 public:
  // In `directory`; the first write creates it. Every failure is an Error that names the directory.
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
