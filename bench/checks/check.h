// What must be right before it may be timed.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>

#include "refrain/base/tensor.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain::bench {

class Check {
 public:
  // |got - want| <= allowed; what is not a number is never near.
  void near(const std::string& what, double got, double want, double allowed);
  void that(const std::string& what, bool holds);
  void finite(const std::string& what, ConstTensor values);

  bool passed() const { return reason_.empty(); }
  const std::string& reason() const { return reason_; }  // what was found wrong first

 private:
  std::string reason_;
};

// Elements of c = a b, spread over it, against sums in float64; `depth` is the length of a sum.
// rounding: what else a term errs by, as a share of it: that of its operands.
void check_product(Check&, MatrixView<const float> a, MatrixView<const float> b, ConstTensor c,
                   double rounding = 0);

// f(i) for up to `count` of the indices [0, n), the first and the last among them.
template <class F>
void sample(int64_t n, int64_t count, F&& f) {
  const int64_t used = std::min(n, count);
  for (int64_t i = 0; i < used; ++i) f(used == 1 ? 0 : (n - 1) * i / (used - 1));
}

}  // namespace refrain::bench
