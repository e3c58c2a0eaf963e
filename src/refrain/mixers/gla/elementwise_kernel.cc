#include "refrain/mixers/gla/elementwise_kernel.h"

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/gla/elementwise_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void activate_columns(GlaActivation act, ActivationPrecision precision, Tensor x, int64_t first,
                      int64_t count) {
  if (act == GlaActivation::kIdentity) return;
  with_precision(precision, [&](auto f) HWY_ATTR {
    parallel_rows(x.rows(), count, [&](int64_t row) HWY_ATTR {
      float* to = x.row(row) + first;
      each(count, [&](auto at, int64_t i) HWY_ATTR {
        const FloatVec v = at.load(to + i);
        at.store(act == GlaActivation::kTanh ? f.tanh(v) : f.logistic(v).p, to + i);
      });
    });
  });
}

void swish_gate_forward(ActivationPrecision precision, ConstTensor n, ConstTensor x, int64_t first,
                        Tensor out) {
  with_precision(precision, [&](auto f) HWY_ATTR {
    parallel_rows(n.rows(), n.cols(), [&](int64_t row) HWY_ATTR {
      const float *from = n.row(row), *gate = x.row(row) + first;
      float* to = out.row(row);
      each(n.cols(), [&](auto at, int64_t i) HWY_ATTR {
        const FloatVec z = at.load(gate + i);
        at.store(hn::Mul(at.load(from + i), hn::Mul(z, f.logistic(z).p)), to + i);
      });
    });
  });
}

void swish_gate_backward(ActivationPrecision precision, ConstTensor n, ConstTensor dout, Tensor x,
                         int64_t first, Tensor dn) {
  with_precision(precision, [&](auto f) HWY_ATTR {
    parallel_rows(n.rows(), 2 * n.cols(), [&](int64_t row) HWY_ATTR {
      const float *from = n.row(row), *grad = dout.row(row);
      float *gate = x.row(row) + first, *to = dn.row(row);
      each(n.cols(), [&](auto at, int64_t i) HWY_ATTR {
        const FloatVec z = at.load(gate + i), d = at.load(grad + i);
        const Logistic s = f.logistic(z);
        const FloatVec slope = hn::Mul(s.p, hn::MulAdd(z, s.q, constant(1)));
        at.store(hn::Mul(hn::Mul(d, at.load(from + i)), slope), gate + i);
        at.store(hn::Mul(d, hn::Mul(z, s.p)), to + i);
      });
    });
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(activate_columns);
HWY_EXPORT(swish_gate_forward);
HWY_EXPORT(swish_gate_backward);

void activate_columns(GlaActivation act, ActivationPrecision precision, Tensor x, int64_t first,
                      int64_t count) {
  REFRAIN_CHECK(first >= 0 && first + count <= x.cols());
  HWY_DYNAMIC_DISPATCH(activate_columns)(act, precision, x, first, count);
}
void swish_gate_forward(ActivationPrecision precision, ConstTensor n, ConstTensor x, int64_t first,
                        Tensor out) {
  REFRAIN_CHECK(out.size() == n.size() && x.rows() == n.rows() && first + n.cols() <= x.cols());
  HWY_DYNAMIC_DISPATCH(swish_gate_forward)(precision, n, x, first, out);
}
void swish_gate_backward(ActivationPrecision precision, ConstTensor n, ConstTensor dout, Tensor x,
                         int64_t first, Tensor dn) {
  REFRAIN_CHECK(dn.size() == n.size() && dout.size() == n.size());
  REFRAIN_CHECK(x.rows() == n.rows() && first + n.cols() <= x.cols());
  HWY_DYNAMIC_DISPATCH(swish_gate_backward)(precision, n, dout, x, first, dn);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
