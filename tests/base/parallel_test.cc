#include "refrain/base/parallel.h"

#include <gtest/gtest.h>

#include <atomic>
#include <vector>

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

TEST(Parallel, NestedLoopsRunOnTheCaller) {
  std::atomic<int> sum = 0;
  parallel_for(8, [&](int64_t) { parallel_for(8, [&](int64_t) { ++sum; }); });
  EXPECT_EQ(sum, 64);
}

}  // namespace
}  // namespace refrain
