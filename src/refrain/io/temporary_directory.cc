#include "refrain/io/temporary_directory.h"

#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "refrain/io/descriptor.h"

namespace refrain::io {

TemporaryDirectory::TemporaryDirectory(const std::string& parent)
    : path_(parent + "/refrain-XXXXXX") {
  if (!mkdtemp(path_.data())) throw_system_error("make a temporary directory in", parent);
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

}  // namespace refrain::io
