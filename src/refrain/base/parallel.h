// Parallel loops, on the pool in scope (thread_pool.h). The data decides how work is cut into
// tasks, not the threads. A task owns its outputs, so the numbers do not depend on the number of
// threads or on which thread ran which task.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace refrain {

// The threads of the pool in scope; 1 without one.
int threads();

namespace detail {
void run_tasks(int64_t tasks, void (*run)(void*, int64_t task, int worker), void* self, bool share);
}

// With less work than this, in floating-point operations, sharing takes longer than computing.
inline constexpr int64_t kMinParallelWork = 1'000'000;

// f(task) or f(task, worker) for every task in [0, tasks). Tasks start in ascending order and end
// in any order. `worker` is in [0, threads()) and differs between tasks that run at the same time
// (for scratch per thread). Nested calls run on the calling thread. So does the whole loop if
// `operations`, an estimate for all tasks together, is below kMinParallelWork. If tasks throw, this
// throws the exception of the first of them.
template <class F>
void parallel_for(int64_t tasks, F&& f, int64_t operations = kMinParallelWork) {
  using Fn = std::remove_reference_t<F>;
  const auto run = [](void* self, int64_t task, [[maybe_unused]] int worker) {
    if constexpr (std::is_invocable_v<Fn&, int64_t, int>)
      (*static_cast<Fn*>(self))(task, worker);
    else
      (*static_cast<Fn*>(self))(task);
  };
  void* self = const_cast<void*>(static_cast<const void*>(std::addressof(f)));
  detail::run_tasks(tasks, run, self, operations >= kMinParallelWork);
}

// A task may wait for a task that was started before it. That task signals its progress by raising
// a mark, which is 0 at first.
void signal(int32_t& mark, int32_t to);
void wait_for(int32_t& mark, int32_t at_least);

// f(begin, end) over [0, n) in ranges of `grain` (the last may be shorter).
template <class F>
void parallel_ranges(int64_t n, int64_t grain, F&& f) {
  parallel_for((n + grain - 1) / grain,
               [&](int64_t i) { f(i * grain, i * grain + grain < n ? i * grain + grain : n); });
}

}  // namespace refrain
