#include "refrain/base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

namespace refrain {
namespace {

// A thread that waits looks again and again for this long, then sleeps: loops follow one another
// within microseconds, but a machine that others use as well must not be kept busy by waiting.
constexpr auto kSpin = std::chrono::microseconds(50);

// Tells the core that this thread waits.
void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns once `value`, an atomic, is not `old`.
template <class Atomic, class T>
void wait_while(Atomic& value, T old) {
  const auto give_up = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      pause();
    }
  } while (std::chrono::steady_clock::now() < give_up);
  value.wait(old, std::memory_order_acquire);
}

thread_local ThreadPool* current_pool = nullptr;  // that is in scope, or whose worker this is
thread_local int current_worker = -1;             // -1: not inside a task

// What a task that waits for another gets in its place when a task has thrown: nobody sees it.
struct Abandoned {};
constexpr int32_t kAbandoned = INT32_MAX;  // what its mark is raised to

// How many forks lie between this process and the one that started: its threads are not here.
std::atomic<uint32_t> forks = 0;

uint32_t count_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] { ++forks; });
  return registered == 0 ? forks.load(std::memory_order_relaxed) : 0;
}

int cores() {
  cpu_set_t allowed;
  const int n = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return n > 0 ? n : 1;
}

}  // namespace

// Workers 1 .. n-1; the caller of run() is worker 0. One loop at a time.
class ThreadPool::Workers {
 public:
  // As many of the workers as the system makes.
  Workers(ThreadPool& pool, int n) : waits_(static_cast<size_t>(n)) {
    workers_.reserve(static_cast<size_t>(n - 1));
    try {
      for (int i = 1; i < n; ++i)
        workers_.emplace_back([this, &pool, i] {
          current_pool = &pool;
          work(i);
        });
    } catch (const std::system_error& error) {
      add_note(pool.notes_, "threads: the system makes {} of {} ({}): going on with those",
               workers_.size() + 1, n, error.code().message());
    }
  }
  ~Workers() {
    stop_ = true;
    announce();
    for (std::thread& t : workers_) t.join();
  }

  // A task that throws is the last one that is started, and those that wait for others end. Tasks
  // are started in their order, so that the first of those that throw is the same with any threads.
  void run(int64_t tasks, void (*run)(void*, int64_t, int), void* self) {
    run_ = run;
    self_ = self;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    busy_.store(static_cast<int>(workers_.size()), std::memory_order_relaxed);
    announce();
    take_tasks(0);
    for (int left = busy_.load(std::memory_order_acquire); left != 0;
         left = busy_.load(std::memory_order_acquire))
      wait_while(busy_, left);
    if (failed_) [[unlikely]] {
      failed_ = false;
      std::rethrow_exception(std::exchange(error_, nullptr));
    }
  }

  // Until the mark is high enough; it ends by Abandoned once a task has thrown.
  void wait_for(int32_t& mark, int32_t at_least) {
    const std::atomic_ref<int32_t> value(mark);
    std::atomic<int32_t*>& waits = waits_[static_cast<size_t>(current_worker)];
    waits = &mark;  // before it looks at failed_, which fail() sets before it looks here
    if (failed_) value.store(kAbandoned);
    int32_t now;
    while ((now = value.load(std::memory_order_acquire)) < at_least) wait_while(value, now);
    waits = nullptr;
    if (now == kAbandoned && failed_) throw Abandoned();
  }

 private:
  void announce() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }
  void take_tasks(int worker) {
    current_worker = worker;
    int64_t i = tasks_;
    try {
      while ((i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_) run_(self_, i, worker);
    } catch (const Abandoned&) {
      end_waits();  // for this one
    } catch (...) {
      fail(i);
    }
    current_worker = -1;
  }
  void fail(int64_t task) {
    next_.store(tasks_, std::memory_order_relaxed);
    {
      const std::lock_guard lock(mutex_);
      if (!error_ || task < failed_task_) {
        error_ = std::current_exception();
        failed_task_ = task;
      }
    }
    failed_ = true;
    end_waits();
  }
  void end_waits() {
    for (std::atomic<int32_t*>& waits : waits_)
      if (int32_t* mark = waits) signal(*mark, kAbandoned);
  }
  void work(int worker) {
    for (uint32_t seen = 0;;) {
      wait_while(round_, seen);
      seen = round_.load(std::memory_order_acquire);
      if (stop_) return;
      take_tasks(worker);
      if (busy_.fetch_sub(1, std::memory_order_acq_rel) == 1) busy_.notify_one();
    }
  }

  std::vector<std::thread> workers_;
  std::atomic<uint32_t> round_ = 0;
  std::atomic<int> busy_ = 0;
  std::atomic<int64_t> next_ = 0;
  std::atomic<bool> stop_ = false;
  std::vector<std::atomic<int32_t*>> waits_;  // by worker: the mark that its task waits for
  std::atomic<bool> failed_ = false;
  std::mutex mutex_;  // over what follows
  std::exception_ptr error_;
  int64_t failed_task_ = 0;

  int64_t tasks_ = 0;
  void (*run_)(void*, int64_t, int) = nullptr;
  void* self_ = nullptr;
};

// What loops may do with a pool.
struct LoopAccess {
  static ThreadPool::Workers& workers(ThreadPool& pool) {
    pool.leave_to_parent();
    if (!pool.workers_) pool.workers_ = std::make_unique<ThreadPool::Workers>(pool, pool.size_);
    return *pool.workers_;
  }
  // Held by the thread whose loop runs on the pool.
  static std::mutex& mutex(ThreadPool& pool) { return pool.mutex_; }
};

ThreadPool::ThreadPool(int threads, Notes notes)
    : size_(threads > 0 ? threads : cores()), notes_(std::move(notes)), forks_(count_forks()) {}
ThreadPool::~ThreadPool() {
  REFRAIN_CHECK(current_pool != this);
  leave_to_parent();
}

void ThreadPool::leave_to_parent() {
  if (std::exchange(forks_, count_forks()) != count_forks()) (void)workers_.release();
}

ThreadPool::Scope::Scope(ThreadPool& pool) : outer_(current_pool) {
  REFRAIN_CHECK(current_worker < 0);
  current_pool = &pool;
}
ThreadPool::Scope::~Scope() { current_pool = outer_; }

int threads() { return current_pool ? current_pool->size() : 1; }

void signal(int32_t& mark, int32_t to) {
  const std::atomic_ref<int32_t> value(mark);
  value.store(to, std::memory_order_release);
  value.notify_all();
}

void wait_for(int32_t& mark, int32_t at_least) {
  const std::atomic_ref<int32_t> value(mark);
  if (value.load(std::memory_order_acquire) >= at_least) return;
  REFRAIN_CHECK(current_pool && current_worker >= 0);
  LoopAccess::workers(*current_pool).wait_for(mark, at_least);
}

void detail::run_tasks(int64_t tasks, void (*run)(void*, int64_t, int), void* self, bool share) {
  REFRAIN_CHECK(tasks <= INT64_MAX / 2);  // every worker counts one further
  if (share && tasks > 1 && threads() > 1 && current_worker < 0) {
    const std::unique_lock at_work(LoopAccess::mutex(*current_pool), std::try_to_lock);
    if (at_work) return LoopAccess::workers(*current_pool).run(tasks, run, self);
  }
  const int worker = current_worker < 0 ? 0 : current_worker;
  for (int64_t i = 0; i < tasks; ++i) run(self, i, worker);
}

}  // namespace refrain
