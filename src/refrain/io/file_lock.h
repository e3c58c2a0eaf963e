// A lock on a file, for one process at a time. The kernel frees it when the process ends in any
// way. The file names the holder: "<process> <host>".
#pragma once
#include <string>

#include "refrain/base/notes.h"

namespace refrain::io {

class FileLock {
 public:
  // Creates the file `path` and locks it, without waiting. If another process has the lock: an
  // Error that begins with `what` and names the holder. If the file system has no locks, there is
  // none, and a note says so. There is another note if the last holder was on another host and did
  // not release the lock: on a file system that does not share locks between hosts, that process
  // may still be running.
  FileLock(std::string path, const std::string& what, const Notes& notes);
  ~FileLock();  // the file goes, too
  // Whether the file still has its name, so nobody has removed it or its folder. True if there are
  // no locks.
  bool is_in_place() const;
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  std::string path_;
  int fd_ = -1;  // -1: no locks here
};

}  // namespace refrain::io
