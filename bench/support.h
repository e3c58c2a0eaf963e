// What benchmarks share: medians, and work in a process of its own, so that its peak memory is its.
#pragma once
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace refrain::bench {

inline double median(std::vector<double> v) {
  std::nth_element(v.begin(), v.begin() + static_cast<long>(v.size() / 2), v.end());
  return v[v.size() / 2];
}

template <class F>
double seconds(F&& f) {
  const auto begin = std::chrono::steady_clock::now();
  f();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

// The median of `repetitions` runs after one that does not count.
template <class F>
double median_seconds(int repetitions, F&& f) {
  f();
  std::vector<double> all;
  for (int i = 0; i < repetitions; ++i) all.push_back(seconds(f));
  return median(std::move(all));
}

struct Measured {
  double value = 0;           // what the work returned
  double peak_mebibytes = 0;  // of its process
};

// Runs `work` (which returns a double) in a child. The caller must not have started threads.
template <class F>
Measured in_child(F&& work) {
  int pipe_ends[2];
  if (pipe(pipe_ends) != 0) std::abort();
  std::fflush(stdout);
  const pid_t child = fork();
  if (child == 0) {
    const double value = work();
    const bool told = write(pipe_ends[1], &value, sizeof(value)) == sizeof(value);
    std::fflush(stdout);
    _exit(told ? 0 : 1);
  }
  close(pipe_ends[1]);
  Measured measured;
  const bool heard =
      read(pipe_ends[0], &measured.value, sizeof(measured.value)) == sizeof(measured.value);
  close(pipe_ends[0]);
  int status = 0;
  rusage usage{};
  wait4(child, &status, 0, &usage);
  if (!heard || status != 0) {
    std::fprintf(stderr, "a measurement failed\n");
    std::exit(1);
  }
  measured.peak_mebibytes = static_cast<double>(usage.ru_maxrss) / 1024;
  return measured;
}

}  // namespace refrain::bench
