#include "refrain/base/process.h"

#include <link.h>
#include <malloc.h>
#include <unistd.h>

#include <cstdio>

namespace refrain {
namespace {

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

// Reads what lies between variables as well.
__attribute__((no_sanitize("address"))) int touch_pages(dl_phdr_info* info, size_t, void*) {
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    const auto& segment = info->dlpi_phdr[i];
    const bool readable = (segment.p_flags & PF_R) != 0, writable = (segment.p_flags & PF_W) != 0;
    if (segment.p_type != PT_LOAD || !readable || writable) continue;
    const auto* bytes = reinterpret_cast<const volatile char*>(info->dlpi_addr + segment.p_vaddr);
    for (size_t at = 0; at < segment.p_filesz; at += page_bytes()) (void)bytes[at];
  }
  return 0;
}

// A line of /proc/self/status, in kibibytes there. (What getrusage has counts the program that
// started this one, too.)
size_t status_bytes(const char* format) {
  size_t kibibytes = 0;
  if (std::FILE* file = std::fopen("/proc/self/status", "r")) {
    char line[256];
    while (std::fgets(line, sizeof line, file))
      if (std::sscanf(line, format, &kibibytes) == 1) break;
    std::fclose(file);
  }
  return kibibytes * 1024;
}

}  // namespace

size_t peak_memory_bytes() { return status_bytes("VmHWM: %zu"); }
size_t resident_bytes() { return status_bytes("VmRSS: %zu"); }

size_t machine_bytes() { return static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * page_bytes(); }

void settle_memory() {
  malloc_trim(0);
  dl_iterate_phdr(touch_pages, nullptr);
}

}  // namespace refrain
