// How long repeated work takes.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

namespace refrain::bench {

using Work = std::function<void()>;

struct Repetitions {
  int64_t warm_up = 1, repeats = 5;
};

struct Timing {
  int64_t repeats = 0;
  double mean = 0, deviation = 0, median = 0;  // seconds; the deviation is that of a sample

  // Of one of `parts` equal parts of the work.
  Timing per(int64_t parts) const;
};

Timing summary(std::vector<double> seconds);

// The works take turns, so that what slows the machine down for a while slows all of them down.
// Rounds of warm-up do not count.
std::vector<Timing> time_in_turns(const Repetitions&, const std::vector<Work>&);
Timing time_of(const Repetitions&, const Work&);

}  // namespace refrain::bench
