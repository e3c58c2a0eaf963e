#include "refrain/base/process.h"

#include <sys/resource.h>

namespace refrain {

size_t peak_memory_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<size_t>(usage.ru_maxrss) * 1024;
}

}  // namespace refrain
