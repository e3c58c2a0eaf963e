#include "bench/checks/timing.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <numeric>

#include "refrain/base/error.h"

namespace refrain::bench {

Timing Timing::per(int64_t parts) const {
  const double by = 1.0 / static_cast<double>(parts);
  return {repeats, mean * by, deviation * by, median * by};
}

Timing summary(std::vector<double> seconds) {
  REFRAIN_CHECK(!seconds.empty());
  const size_t n = seconds.size();
  Timing timing;
  timing.repeats = static_cast<int64_t>(n);
  timing.mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) / static_cast<double>(n);
  double squares = 0;
  for (const double s : seconds) squares += (s - timing.mean) * (s - timing.mean);
  if (n > 1) timing.deviation = std::sqrt(squares / static_cast<double>(n - 1));
  std::sort(seconds.begin(), seconds.end());
  timing.median = (seconds[(n - 1) / 2] + seconds[n / 2]) / 2;
  return timing;
}

std::vector<Timing> time_in_turns(const Repetitions& repetitions, const std::vector<Work>& works) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<double>> seconds(works.size());
  for (int64_t round = -repetitions.warm_up; round < repetitions.repeats; ++round) {
    for (size_t i = 0; i < works.size(); ++i) {
      const auto begin = Clock::now();
      works[i]();
      const std::chrono::duration<double> took = Clock::now() - begin;
      if (round >= 0) seconds[i].push_back(took.count());
    }
  }
  std::vector<Timing> timings;
  for (auto& each : seconds) timings.push_back(summary(std::move(each)));
  return timings;
}

Timing time_of(const Repetitions& repetitions, const Work& work) {
  return time_in_turns(repetitions, {work})[0];
}

}  // namespace refrain::bench
