#include "refrain/io/temporary_directory.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "refrain/io/descriptor.h"

namespace refrain::io {
namespace {

// Paths of those that there are. One that finds no place is not removed at once.
std::array<std::atomic<const char*>, 16> all;

void replace(const char* from, const char* to) {
  for (auto& place : all) {
    const char* expected = from;
    if (place.compare_exchange_strong(expected, to)) return;
  }
}

// By system calls alone: the functions around them may wait for what the signal has interrupted.
void remove_files(int folder) {
  alignas(dirent64) std::array<char, 4096> entries;
  for (;;) {
    const long size = syscall(SYS_getdents64, folder, entries.data(), entries.size());
    if (size <= 0) return;
    for (long at = 0; at < size;) {
      const auto* entry = reinterpret_cast<const dirent64*>(entries.data() + at);
      unlinkat(folder, entry->d_name, 0);
      at += entry->d_reclen;
    }
  }
}

}  // namespace

TemporaryDirectory::TemporaryDirectory(const std::string& parent)
    : path_(parent + "/refrain-XXXXXX") {
  // Before there is one: no signal shall come in between.
  replace(nullptr, path_.c_str());
  if (mkdtemp(path_.data())) return;
  const int reason = errno;
  replace(path_.c_str(), nullptr);
  errno = reason;
  throw_system_error("make a temporary directory in", parent);
}

TemporaryDirectory::~TemporaryDirectory() {
  replace(path_.c_str(), nullptr);
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void TemporaryDirectory::remove_all_at_once() {
  for (auto& place : all) {
    const char* path = place.exchange(nullptr);
    if (!path) continue;
    const int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (folder >= 0) remove_files(folder);
    rmdir(path);
  }
}

}  // namespace refrain::io
