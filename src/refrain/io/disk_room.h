// Room on a disk, for what is written of inputs that may never end.
#pragma once
#include <cstddef>
#include <string>

namespace refrain::io {

// An Error, "<what>: ...", when less is left of the file system of `directory` than a twentieth of
// it, or than 2 GiB where that is less: other programs need some of it.
void require_disk_room(const std::string& directory, const std::string& what);

// How much may be written between two looks at it.
inline constexpr size_t kBetweenLooks = size_t{1} << 20;

}  // namespace refrain::io
