#include "refrain/io/disk_room.h"

#include <sys/statvfs.h>

#include <algorithm>

#include "refrain/base/bytes.h"
#include "refrain/base/error.h"

namespace refrain::io {

void require_disk_room(const std::string& directory, const std::string& what) {
  constexpr size_t kShare = 20, kEnough = size_t{2} << 30;
  struct statvfs system;
  if (statvfs(directory.c_str(), &system) != 0) return;  // whatever is wrong, writing says it
  const size_t all = size_t{system.f_frsize} * system.f_blocks;
  const size_t left = size_t{system.f_frsize} * system.f_bavail;
  const size_t least = std::min(all / kShare, kEnough);
  if (left < least)
    throw_error("{}: fills the disk: {} are left of the {} that {} is on, expected {} or more",
                what, bytes_text(left), bytes_text(all), directory, bytes_text(least));
}

}  // namespace refrain::io
