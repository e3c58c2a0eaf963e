// Free space on a disk, for copies of inputs that may never end.
#pragma once
#include <cstddef>
#include <string>

namespace refrain::io {

// An Error, "<what>: ...", if less of the file system of `directory` is free than a twentieth of
// it, or than 2 GiB where that is less. Other programs need some space.
void require_disk_room(const std::string& directory, const std::string& what);

// Bytes that may be written between two checks.
inline constexpr size_t kBetweenLooks = size_t{1} << 20;

}  // namespace refrain::io
