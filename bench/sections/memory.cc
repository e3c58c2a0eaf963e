#include "bench/sections/memory.h"

#include <fstream>
#include <string>

namespace refrain::bench {

// 5 makes Linux forget the peak (man 5 proc).
ResidentPeak::ResidentPeak() {
  begun_ = !!(std::ofstream("/proc/self/clear_refs") << 5 << std::flush);
}

std::optional<double> ResidentPeak::mebibytes() const {
  std::ifstream status("/proc/self/status");
  double kibibytes = 0;
  for (std::string word; begun_ && status >> word;)
    if (word == "VmHWM:" && status >> kibibytes) return kibibytes / 1024;
  return {};
}

}  // namespace refrain::bench
