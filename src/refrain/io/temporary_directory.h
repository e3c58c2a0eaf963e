// A temporary directory of this process. It is removed with everything in it at the end of its
// scope.
#pragma once
#include <string>

namespace refrain::io {

class TemporaryDirectory {
 public:
  // "refrain-XXXXXX" in `parent`; an Error with the reason if it cannot be created.
  explicit TemporaryDirectory(const std::string& parent);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }

  // Removes all temporary directories and the files in them, when a signal ends the process. A
  // signal handler may call it.
  static void remove_all_at_once();

 private:
  std::string path_;
};

}  // namespace refrain::io
