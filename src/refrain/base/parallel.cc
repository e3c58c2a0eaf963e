#include "refrain/base/parallel.h"

#include <omp.h>

namespace refrain {
namespace {
int configured = 0;
}

void set_threads(int n) { configured = n; }

int threads() {
  return configured > 0 ? configured : omp_get_num_procs();
}

void detail::run_tasks(int64_t tasks, void (*run)(void*, int64_t, int), void* self) {
  const int n = static_cast<int>(tasks < threads() ? tasks : threads());
  if (n <= 1 || omp_in_parallel()) {
    const int worker = omp_in_parallel() ? omp_get_thread_num() : 0;
    for (int64_t i = 0; i < tasks; ++i) run(self, i, worker);
    return;
  }
#pragma omp parallel for schedule(dynamic, 1) num_threads(n)
  for (int64_t i = 0; i < tasks; ++i) run(self, i, omp_get_thread_num());
}

}  // namespace refrain
