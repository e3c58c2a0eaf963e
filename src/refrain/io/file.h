// Files as the rest of the program sees them: read whole, mapped, or line by line; written so that
// a crash at any instant leaves either the old content or the new, never a part. Every failure is
// an Error that names the path and the reason the system gave.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace refrain::io {

// A file mapped read-only for as long as this lives. An empty file has no bytes.
class MappedFile {
 public:
  explicit MappedFile(const std::string& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// The whole file; an Error if it is longer than `max_bytes`.
std::string read_file(const std::string& path, size_t max_bytes = size_t{1} << 30);

bool exists(const std::string& path);

// A file being written beside its final name. commit() makes it durable (fsync, rename, fsync of
// the folder); without it nothing is left behind.
class AtomicFile {
 public:
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(std::span<const std::byte> bytes);
  void write(std::string_view text);
  void commit();

 private:
  std::string path_, temporary_;
  int fd_ = -1;
  std::string buffer_;
  void flush();
};

void write_file(const std::string& path, std::string_view text);  // AtomicFile in one call

// A directory being filled beside its final name: write files into path(), then commit() renames
// the whole. If the final name exists already it is replaced. Left-overs of earlier crashes are
// removed by remove_stale(parent).
class AtomicDirectory {
 public:
  explicit AtomicDirectory(std::string path);
  ~AtomicDirectory();
  AtomicDirectory(const AtomicDirectory&) = delete;
  AtomicDirectory& operator=(const AtomicDirectory&) = delete;

  const std::string& path() const { return temporary_; }  // where to write until commit()
  void commit();

  static void remove_stale(const std::string& parent);

 private:
  std::string path_, temporary_;
  bool committed_ = false;
};

void make_directories(const std::string& path);
void remove_all(const std::string& path);

}  // namespace refrain::io
