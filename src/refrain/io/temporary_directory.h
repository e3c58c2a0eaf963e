// A directory of this process's own, gone with all that is in it at the end of its scope.
#pragma once
#include <string>

namespace refrain::io {

class TemporaryDirectory {
 public:
  // "refrain-XXXXXX" in `parent`; an Error with the reason if there can be none.
  explicit TemporaryDirectory(const std::string& parent);
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  const std::string& path() const { return path_; }

  // Removes those that there are and the files in them, for a process that a signal ends: may be
  // called from its handler.
  static void remove_all_at_once();

 private:
  std::string path_;
};

}  // namespace refrain::io
