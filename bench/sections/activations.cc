// tanh, sigmoid and silu of both precisions (docs/activations.md), over an array that the caches
// hold: what they cost, and how far the fast ones are from the functions that they stand for.
#include <cmath>
#include <complex>

#include "bench/sections/sections.h"
#include "refrain/kernels/elementwise/activation_ref.h"

namespace refrain::bench {
namespace {

using kernels::Activation;
using kernels::ActivationPrecision;
using Complex = std::complex<double>;

constexpr int64_t kElements = 8192;  // and as many results: 64 KiB
constexpr int64_t kTimes = 64;       // in a measurement
constexpr double kStep = 1e-30;      // of the complex step
constexpr double kTolerance = 2e-6;

struct Function {
  const char* name;
  Activation f;
};
constexpr Function kFunctions[] = {
    {"tanh", Activation::kTanh}, {"sigmoid", Activation::kSigmoid}, {"silu", Activation::kSilu}};

// One way of one function: accurate, then fast.
class Rows {
 public:
  Rows(const Setup& setup, Report& report, const Function& function, bool backward)
      : setup_(setup), report_(report), function_(function), backward_(backward) {
    for (float& value : x_.span()) value *= 6;
    std::ranges::fill(dy_.span(), 1.0f);
  }

  void time() {
    std::vector<Work> works;
    Check checks[2];
    double errors[2] = {};
    for (const size_t i : {size_t{0}, size_t{1}}) {
      const auto precision = static_cast<ActivationPrecision>(i);
      errors[i] = check(precision, checks[i]);
      if (checks[i].passed())
        works.emplace_back([this, precision] {
          for (int64_t k = 0; k < kTimes; ++k) run(precision);
        });
    }
    const std::vector<Timing> timings =
        works.empty() ? std::vector<Timing>() : time_in_turns(setup_.repetitions, works);
    size_t at = 0;
    for (const size_t i : {size_t{0}, size_t{1}}) {
      Row row{
          .section = "activations",
          .name = fmt::format("{}, {}", function_.name, kernels::kActivationPrecisions[i]),
          .shape = fmt::format("{}, {} elements", backward_ ? "backward" : "forward", kElements)};
      if (checks[i].passed()) {
        row.timing = timings[at++].per(kTimes);
        row.rate = static_cast<double>(kElements) / row.timing.median / 1e9;
        row.unit = "G/s";
        row.largest_error = errors[i];
        if (checks[0].passed()) row.ratio = timings[0].per(kTimes).median / row.timing.median;
      }
      report_.add(row, checks[i]);
    }
  }

 private:
  void run(ActivationPrecision precision) {
    const ConstTensor x(x_.data(), {kElements}), dy(dy_.data(), {kElements});
    const Tensor y(y_.data(), {kElements});
    if (backward_)
      kernels::activation_backward(function_.f, x, dy, y, precision);
    else
      kernels::activation_forward(function_.f, x, y, precision);
  }

  // The value or slope in float64.
  double exact(int64_t i, ActivationPrecision precision) const {
    const Complex x(static_cast<double>(x_[static_cast<size_t>(i)]), kStep);
    const Complex y = kernels::activation_ref(function_.f, x, precision);
    return backward_ ? y.imag() / kStep : y.real();
  }

  // Against what this precision computes; the largest error against the accurate function.
  double check(ActivationPrecision precision, Check& check) {
    run(precision);
    setup_.planted.in_output(y_.span());
    double largest = 0;
    for (int64_t i = 0; i < kElements; ++i) {
      const auto got = static_cast<double>(y_[static_cast<size_t>(i)]);
      const double want = exact(i, precision);
      check.near(fmt::format("{} of {}", function_.name, x_[static_cast<size_t>(i)]), got, want,
                 kTolerance * std::max(1.0, std::abs(want)));
      largest = std::max(largest, std::abs(got - exact(i, ActivationPrecision::kAccurate)));
    }
    return largest;
  }

  const Setup& setup_;
  Report& report_;
  const Function& function_;
  bool backward_;
  Buffer<float> x_ = uniform(kElements, 1), dy_ = uniform(kElements, 2);
  Buffer<float> y_ = uniform(kElements, 3);
};

}  // namespace

void time_activations(const Setup& setup, Report& report) {
  for (const Function& function : kFunctions)
    for (const bool backward : {false, true}) Rows(setup, report, function, backward).time();
  report.end_section();
}

}  // namespace refrain::bench
