// Parallel loops, on the pool in scope (thread_pool.h). Work is cut by the data, never by who runs
// it: a task owns its outputs, so the numbers do not depend on the thread count or on which thread
// took which task.
#pragma once
#include <cstdint>
#include <memory>
#include <type_traits>

namespace refrain {

// Of the pool that is in scope; 1 without one.
int threads();

namespace detail {
void run_tasks(int64_t tasks, void (*run)(void*, int64_t task, int worker), void* self, bool share);
}

// Less work than this, in floating-point operations, is done sooner than it is shared.
inline constexpr int64_t kMinParallelWork = 1'000'000;

// f(task) or f(task, worker) for every task in [0, tasks), started in ascending order and ended in
// any; worker is in [0, threads()) and tells apart tasks that run at the same time (for per-thread
// scratch). Nested calls run on the calling thread, and so does all of it when `operations`, an
// estimate for all tasks together, is not worth sharing. What the first task throws, this throws.
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

// A task may wait for one that was started before it, which raises a mark, at first 0, as it goes.
void signal(int32_t& mark, int32_t to);
void wait_for(int32_t& mark, int32_t at_least);

// f(begin, end) over [0, n) in pieces of `grain` (the last may be shorter).
template <class F>
void parallel_ranges(int64_t n, int64_t grain, F&& f) {
  parallel_for((n + grain - 1) / grain,
               [&](int64_t i) { f(i * grain, i * grain + grain < n ? i * grain + grain : n); });
}

}  // namespace refrain
