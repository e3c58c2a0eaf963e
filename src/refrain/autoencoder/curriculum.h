// The length of windows, and how often the decoder is given the true word, as training proceeds.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace refrain {

inline constexpr int64_t kLongestWindow = 1 << 16;  // in words

struct Curriculum {
  std::string window = "20 35 50";
  std::string teacher_forcing = "0.9 0.7 0.3 0.1";
  int64_t min_window = 5;

  template <class V>
  void visit(V&& v) {
    v("window", window, "words of a window, stage after stage in equal shares of the steps");
    v("teacher_forcing", teacher_forcing,
      "chance that a step of the decoder is given the true word before it, likewise");
    v("min_window", min_window, "words that a window must have at least");
  }
};

// A parsed curriculum; an Error names what is out of range.
struct Stages {
  explicit Stages(const Curriculum&);
  std::vector<int64_t> window;
  std::vector<double> forcing;
  int64_t shortest;

  // Of step `step` (from 0) of `total`.
  int64_t window_at(int64_t step, int64_t total) const;
  double forcing_at(int64_t step, int64_t total) const;
  int64_t longest() const;
};

}  // namespace refrain
