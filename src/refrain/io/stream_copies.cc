#include "refrain/io/stream_copies.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <string_view>

#include "refrain/io/disk_room.h"

namespace refrain::io {
namespace {

std::unique_ptr<Descriptor> copy(const std::string& input, const std::string& directory) {
  constexpr size_t kBuffer = size_t{1} << 17;
  const std::string name = input == "-" ? "standard input" : input;
  const Descriptor from =
      input == "-" ? Descriptor(dup(STDIN_FILENO), name) : Descriptor(input, O_RDONLY);
  std::string path = directory + "/refrain-XXXXXX";
  auto to = std::make_unique<Descriptor>(mkostemp(path.data(), O_CLOEXEC), path);
  const auto fail = [&] { throw_system_error("make a temporary file in", directory); };
  if (to->fd() < 0) fail();
  unlink(path.c_str());
  std::string buffer(kBuffer, '\0');
  size_t until_look = kBetweenLooks;
  while (const size_t got = from.read(buffer.data(), buffer.size())) {
    for (std::string_view left(buffer.data(), got); !left.empty();) {
      const ssize_t put = write(to->fd(), left.data(), left.size());
      if (put < 0 && errno != EINTR)
        throw_system_error(fmt::format("copy {} to a temporary file in", name), directory);
      if (put > 0) left.remove_prefix(static_cast<size_t>(put));
    }
    until_look -= std::min(until_look, got);
    if (until_look > 0) continue;
    require_disk_room(directory, name);
    until_look = kBetweenLooks;
  }
  return to;
}

}  // namespace

bool is_stream(const std::string& input) {
  if (input == "-") return true;
  struct stat status;
  return stat(input.c_str(), &status) == 0 &&
         (S_ISFIFO(status.st_mode) || S_ISCHR(status.st_mode) || S_ISSOCK(status.st_mode));
}

StreamCopies::StreamCopies(std::span<const std::string> inputs, const std::string& directory) {
  for (const std::string& input : inputs)
    if (is_stream(input) && !has(input)) copies_.emplace(input, copy(input, directory));
}

TextReader StreamCopies::open(const std::string& input, const StreamCopies* copies) {
  if (!copies || !copies->has(input)) return TextReader(input);
  return {fmt::format("/proc/self/fd/{}", copies->copies_.at(input)->fd()),
          input == "-" ? "standard input" : input};
}

}  // namespace refrain::io
