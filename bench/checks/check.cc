#include "bench/checks/check.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/error.h"

namespace refrain::bench {

void Check::near(const std::string& what, double got, double want, double allowed) {
  if (passed() && !(std::abs(got - want) <= allowed))
    reason_ =
        fmt::format("{}: expected {:.9g} within {:.1e}, found {:.9g}", what, want, allowed, got);
}

void Check::that(const std::string& what, bool holds) {
  if (passed() && !holds) reason_ = what;
}

void Check::finite(const std::string& what, ConstTensor values) {
  for (int64_t i = 0; passed() && i < values.size(); ++i)
    if (!std::isfinite(values.data[i]))
      reason_ = fmt::format("{}: number {} is {}", what, i, values.data[i]);
}

void check_product(Check& check, MatrixView<const float> a, MatrixView<const float> b,
                   ConstTensor c, double rounding) {
  constexpr int64_t kElements = 127;
  sample(c.size(), kElements, [&](int64_t at) {
    const int64_t i = at / c.cols(), j = at % c.cols();
    double sum = 0, squares = 0, terms = 1;
    for (int64_t k = 0; k < a.cols; ++k) {
      const double term = static_cast<double>(a.at(i, k)) * static_cast<double>(b.at(k, j));
      sum += term;
      squares += sum * sum;
      terms += term * term;
    }
    // Every addition rounds its sum by up to half an ulp, every product that is not fused its
    // term, this way or that: sixteen standard deviations of such a walk. The bound that no walk
    // can pass is hundreds of times as wide in long sums, wider than the sums themselves.
    constexpr double kDeviations = 16;
    const double allowed =
        kDeviations * (0x1p-24 * std::sqrt(squares + terms) + rounding * std::sqrt(terms));
    check.near(fmt::format("element ({}, {})", i, j), static_cast<double>(c.data[at]), sum,
               allowed);
  });
}

}  // namespace refrain::bench
