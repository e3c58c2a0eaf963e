// What was measured, a row a measurement, as Markdown, CSV or JSON.
#pragma once
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/checks/check.h"
#include "bench/checks/timing.h"
#include "refrain/io/json.h"

namespace refrain::bench {

struct Row {
  std::string section{}, name{}, shape{};
  Timing timing{};
  std::optional<double> rate{};  // in `unit`, by the median
  std::string unit{};
  std::optional<double> ceiling{};   // what the rate could be at most, in the same unit
  std::optional<double> mfu{};       // model operations a second over the product ceiling
  std::optional<double> ratio{};     // how many times as fast as the first row of its group
  std::optional<double> peak_mib{};  // planned: weights, gradients, moments, arenas, states
  // Mean and largest, absolute; mean, as a share of what is right.
  std::optional<double> mean_error{}, largest_error{}, relative_error{};
  std::optional<size_t> state_bytes{};   // of a sequence
  std::optional<double> resident_mib{};  // of the process, as the system saw it
  std::string refused{};                 // why it was not timed
};

// The fields by name, in their order; what does not apply is null.
io::Json to_json(const Row&, int threads);

class Report {
 public:
  using Print = std::function<void(std::string_view)>;

  // `format`: md, csv or json. CSV is printed row by row, Markdown section by section, each
  // without the columns that it leaves empty, JSON at the end.
  Report(std::string format, int threads, Print print);

  // Times nothing itself: `row` as it was measured if the check was passed, and refused otherwise.
  void add(Row row, const Check&);
  void end_section();
  void end();

  bool all_passed() const { return all_passed_; }

 private:
  void print_table() const;

  std::string format_;
  int threads_;
  Print print_;
  std::vector<io::Json> rows_;  // not printed yet
  bool all_passed_ = true, begun_ = false;
};

}  // namespace refrain::bench
