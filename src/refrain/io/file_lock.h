// One process at a time: a lock on a file, which the kernel frees when the process ends in whatever
// way. Who holds it is written in the file: "<process> <host>".
#pragma once
#include <string>

#include "refrain/base/notes.h"

namespace refrain::io {

class FileLock {
 public:
  // Makes the file `path` and locks it, without waiting. An Error that begins with `what` and names
  // the holder when another has it. Where the file system knows no locks a note says so, and there
  // is none; another note when the last holder was on another host and did not let go of it: on a
  // file system that does not share locks between hosts it may be at work still.
  FileLock(std::string path, const std::string& what, const Notes& notes);
  ~FileLock();  // the file goes, too
  // The file still has its name: nobody has removed it, with its folder perhaps. True where there
  // are no locks.
  bool is_in_place() const;
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  std::string path_;
  int fd_ = -1;  // -1: no locks here
};

}  // namespace refrain::io
