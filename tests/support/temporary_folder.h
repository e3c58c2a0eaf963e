// A folder of the test's own, gone when the test ends.
#pragma once
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <string_view>

namespace refrain {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    path_ = (std::filesystem::temp_directory_path() / "refrain-test-XXXXXX").string();
    if (!mkdtemp(path_.data())) throw std::runtime_error("cannot make " + path_);
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(std::string_view name) const { return path_ + "/" + std::string(name); }

  // Writes a file, bytes as they are, and returns its path. A new file each time: truncating an old
  // one makes some file systems wait for the disk.
  std::string put(std::string_view name, std::string_view bytes) const {
    std::filesystem::remove(*this / name);
    std::ofstream file(*this / name, std::ios::binary);
    file << bytes;
    if (!file.flush()) throw std::runtime_error("cannot write " + *this / name);
    return *this / name;
  }

 private:
  std::string path_;
};

}  // namespace refrain
