#include "refrain/base/parallel.h"

#include <immintrin.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/parallel_notes.h"

namespace refrain {
namespace {

// A thread that waits looks again and again for this long, then sleeps: loops follow one another
// within microseconds, but a machine that others use as well must not be kept busy by waiting.
constexpr auto kSpin = std::chrono::microseconds(50);

// Returns once `value`, an atomic, is not `old`.
template <class Atomic, class T>
void wait_while(Atomic& value, T old) {
  const auto give_up = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 64; ++i) {
      if (value.load(std::memory_order_acquire) != old) return;
      _mm_pause();
    }
  } while (std::chrono::steady_clock::now() < give_up);
  value.wait(old, std::memory_order_acquire);
}

thread_local int current_worker = -1;  // -1: not inside a task

Notes notes;

// Workers 1 .. n-1; the caller of run() is worker 0. One loop at a time.
class Pool {
 public:
  // As many of the workers as the system makes.
  explicit Pool(int n) {
    workers_.reserve(static_cast<size_t>(n - 1));
    try {
      for (int i = 1; i < n; ++i) workers_.emplace_back([this, i] { work(i); });
    } catch (const std::system_error& error) {
      add_note(notes, "threads: the system makes {} of {} ({}): going on with those",
               workers_.size() + 1, n, error.code().message());
    }
  }
  ~Pool() {
    stop_ = true;
    announce();
    for (std::thread& t : workers_) t.join();
  }

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
  }

 private:
  void announce() {
    round_.fetch_add(1, std::memory_order_release);
    round_.notify_all();
  }
  void take_tasks(int worker) {
    current_worker = worker;
    for (int64_t i; (i = next_.fetch_add(1, std::memory_order_relaxed)) < tasks_;)
      run_(self_, i, worker);
    current_worker = -1;
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
  int64_t tasks_ = 0;
  void (*run_)(void*, int64_t, int) = nullptr;
  void* self_ = nullptr;
};

int cores() {
  cpu_set_t allowed;
  const int n = sched_getaffinity(0, sizeof(allowed), &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
  return n > 0 ? n : 1;
}

int configured = 0;
std::unique_ptr<Pool> pool;

}  // namespace

void set_parallel_notes(Notes to) { notes = std::move(to); }

void set_threads(int n) {
  REFRAIN_CHECK(current_worker < 0);
  if (n == configured) return;
  configured = n;
  pool.reset();
}

int threads() {
  static const int all = cores();
  return configured > 0 ? configured : all;
}

void raise_mark(int32_t& mark, int32_t to) {
  const std::atomic_ref<int32_t> value(mark);
  value.store(to, std::memory_order_release);
  value.notify_all();
}

void wait_for_mark(int32_t& mark, int32_t at_least) {
  const std::atomic_ref<int32_t> value(mark);
  for (int32_t now = value.load(std::memory_order_acquire); now < at_least;
       now = value.load(std::memory_order_acquire))
    wait_while(value, now);
}

void detail::run_tasks(int64_t tasks, void (*run)(void*, int64_t, int), void* self, bool share) {
  if (!share || tasks <= 1 || threads() == 1 || current_worker >= 0) {
    const int worker = current_worker < 0 ? 0 : current_worker;
    for (int64_t i = 0; i < tasks; ++i) run(self, i, worker);
    return;
  }
  if (!pool) pool = std::make_unique<Pool>(threads());
  pool->run(tasks, run, self);
}

}  // namespace refrain
