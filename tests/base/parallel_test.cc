#include "refrain/base/parallel.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/thread_pool.h"
#include "support/threads.h"

namespace refrain {
namespace {

TEST(Parallel, RunsEveryTaskOnceWithWorkersInRange) {
  for (int n : {1, 2, 4, 7}) {
    set_threads(n);
    std::vector<std::atomic<int>> runs(1000);
    std::atomic<bool> in_range = true;
    parallel_for(1000, [&](int64_t i, int worker) {
      ++runs[static_cast<size_t>(i)];
      if (worker < 0 || worker >= n) in_range = false;
    });
    for (auto& r : runs) EXPECT_EQ(r, 1);
    EXPECT_TRUE(in_range);
  }
  set_threads(0);
  EXPECT_GE(threads(), 1);
}

TEST(Parallel, RangesCoverWithoutOverlap) {
  for (int64_t n : {0, 1, 9, 10, 11, 100}) {
    std::vector<std::atomic<int>> runs(static_cast<size_t>(n));
    parallel_ranges(n, 10, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) ++runs[static_cast<size_t>(i)];
    });
    for (auto& r : runs) EXPECT_EQ(r, 1);
  }
}

// What `work` throws.
template <class F>
std::string thrown_by(F&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "nothing";
}

TEST(Parallel, TheCallerGetsWhatTheFirstTaskThrows) {
  for (int n : {1, 2, 4, 7}) {
    set_threads(n);
    for (int again = 0; again < 50; ++again) {
      EXPECT_EQ(thrown_by([] {
                  parallel_for(500, [](int64_t i) {
                    if (i % 7 == 3) throw_error("task {}", i);
                  });
                }),
                "task 3");
      // Out of a loop in a loop too; and what comes after it is whole.
      EXPECT_EQ(thrown_by([] {
                  parallel_for(8, [](int64_t i) {
                    parallel_for(8, [&](int64_t j) {
                      if (i + j == 9) throw_error("tasks {} {}", i, j);
                    });
                  });
                }),
                "tasks 2 7");
      std::atomic<int> sum = 0;
      parallel_for(100, [&](int64_t) { ++sum; });
      EXPECT_EQ(sum, 100);
    }
  }
  set_threads(0);
}

// Each task waits for the one before it: those behind one that throws must not wait for ever.
TEST(Parallel, NoTaskWaitsForOneThatHasThrown) {
  for (int n : {1, 2, 4, 7}) {
    set_threads(n);
    for (int64_t bad = 0; bad < 40; ++bad) {
      std::vector<int32_t> marks(40);
      const auto work = [&](int64_t i) {
        for (int32_t round = 1; round <= 20; ++round) {
          if (i > 0) wait_for(marks[static_cast<size_t>(i) - 1], round);
          if (i == bad && round == 10) throw_error("task {}", i);
          signal(marks[static_cast<size_t>(i)], round);
        }
      };
      EXPECT_EQ(thrown_by([&] { parallel_for(40, work); }), fmt::format("task {}", bad));
    }
  }
  set_threads(0);
}

TEST(Parallel, NestedLoopsRunOnTheCaller) {
  std::atomic<int> sum = 0;
  parallel_for(8, [&](int64_t) { parallel_for(8, [&](int64_t) { ++sum; }); });
  EXPECT_EQ(sum, 64);
}

// Which threads a loop of many long tasks runs on.
std::set<std::thread::id> threads_of_a_loop() {
  std::mutex mutex;
  std::set<std::thread::id> ids;
  parallel_for(threads(), [&](int64_t) {
    const std::lock_guard lock(mutex);
    ids.insert(std::this_thread::get_id());
  });
  return ids;
}

TEST(ThreadPool, LoopsRunOnThePoolInScope) {
  std::thread([] {  // which has none
    EXPECT_EQ(threads(), 1);
    EXPECT_EQ(threads_of_a_loop(), std::set{std::this_thread::get_id()});
    ThreadPool three(3), two(2);
    {
      const ThreadPool::Scope scope(three);
      EXPECT_EQ(threads(), 3);
      {
        const ThreadPool::Scope inner(two);
        EXPECT_EQ(threads(), 2);
        EXPECT_LE(threads_of_a_loop().size(), 2u);
      }
      EXPECT_EQ(threads(), 3);
      // Tasks know it as well.
      parallel_for(8, [](int64_t) { EXPECT_EQ(threads(), 3); });
    }
    EXPECT_EQ(threads(), 1);
  })
      .join();
}

// Sums that several threads form at the same time are whole, on one pool and on one each; what one
// of them throws the others do not see.
// Threads do not go through a fork; the child's pool makes its own, and leaves its parent's alone.
TEST(ThreadPool, AForkedProcessHasThreadsOfItsOwn) {
  auto pool = std::make_unique<ThreadPool>(3);
  const ThreadPool::Scope scope(*pool);
  const auto count = [] {
    std::atomic<int> runs = 0;
    parallel_for(100, [&](int64_t, int) { ++runs; });
    return runs.load();
  };
  EXPECT_EQ(count(), 100);
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    alarm(20);
    const bool right = count() == 100 && count() == 100;
    { ThreadPool own(2); }
    _exit(right ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << status;
  EXPECT_EQ(count(), 100);
}

TEST(ThreadPool, ManyThreadsStartLoopsAtTheSameTime) {
  ThreadPool shared(3);
  std::vector<std::thread> callers;
  std::atomic<int> right = 0;
  constexpr int kCallers = 4, kLoops = 300;
  for (int caller = 0; caller < kCallers; ++caller)
    callers.emplace_back([&, caller] {
      ThreadPool own(2);
      const ThreadPool::Scope scope(caller % 2 == 0 ? shared : own);
      for (int loop = 0; loop < kLoops; ++loop) {
        std::vector<int32_t> marks(50);
        std::atomic<int64_t> sum = 0;
        const bool throws = loop % 10 == caller;
        const std::string said = thrown_by([&] {
          parallel_for(50, [&](int64_t i) {
            if (i > 0) wait_for(marks[static_cast<size_t>(i) - 1], 1);
            if (throws && i == 30) throw_error("caller {}", caller);
            sum += i;
            signal(marks[static_cast<size_t>(i)], 1);
          });
        });
        right += throws ? said == fmt::format("caller {}", caller) : sum == 49 * 50 / 2;
      }
    });
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(right, kCallers * kLoops);
}

}  // namespace
}  // namespace refrain
