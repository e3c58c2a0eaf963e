// What benchmarks share: medians, work in a process of its own, so that its peak memory is its, and
// what that work is held to.
//
// Every benchmark takes `plant=weights` or `plant=state` as a last argument: an error is planted in
// what is about to be timed, and every row must be refused. A guard that has never been seen to
// refuse is none.
#pragma once
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
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

// Numbers that a child leaves to its parent and to the children after it.
class SharedNumbers {
 public:
  explicit SharedNumbers(size_t n) : n_(n) {
    void* at = mmap(nullptr, bytes(), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED) std::abort();
    data_ = static_cast<float*>(at);
  }
  ~SharedNumbers() { munmap(data_, bytes()); }
  SharedNumbers(const SharedNumbers&) = delete;
  SharedNumbers& operator=(const SharedNumbers&) = delete;

  std::span<float> span() const { return {data_, n_}; }

 private:
  size_t bytes() const { return n_ * sizeof(float) + 1; }
  size_t n_;
  float* data_;
};

// Whether every number is within `allowed` of the largest in `want`; says what is not.
inline bool agree(std::string_view row, std::string_view what, std::span<const float> got,
                  std::span<const float> want, double allowed) {
  double largest = 0, worst = 0;
  size_t at = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const double off = std::abs(static_cast<double>(got[i]) - static_cast<double>(want[i]));
    largest = std::max(largest, std::abs(static_cast<double>(want[i])));
    if (off <= worst) continue;
    worst = std::isnan(off) ? INFINITY : off;
    at = i;
  }
  if (got.size() == want.size() && worst <= allowed * largest) return true;
  std::fprintf(stderr, "%.*s: %.*s %zu differs by %.3g of the largest: refused\n",
               static_cast<int>(row.size()), row.data(), static_cast<int>(what.size()), what.data(),
               at, worst / largest);
  return false;
}

// Takes `plant=...` off the arguments: what to plant, or nothing.
inline std::string take_plant(int& argc, char** argv) {
  constexpr std::string_view kPrefix = "plant=";
  if (argc < 2 || !std::string_view(argv[argc - 1]).starts_with(kPrefix)) return {};
  const std::string what(std::string_view(argv[--argc]).substr(kPrefix.size()));
  if (what != "weights" && what != "state") {
    std::fprintf(stderr, "plant: expected weights or state, found '%s'\n", what.c_str());
    std::exit(2);
  }
  return what;
}

// Another model of the same size.
inline void plant_in(std::span<float> weights) {
  for (size_t i = 0; i + 1 < weights.size(); i += 2) std::swap(weights[i], weights[i + 1]);
}

constexpr double kRefused = -1;  // instead of seconds

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
