#include "refrain/kernels/elementwise/rms_norm.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/rms_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/rms_norm-inl.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void rms_norm_forward(ConstTensor x, const RmsNorm& norm, Tensor y, Tensor r) {
  const int64_t n = x.cols();
  parallel_rows(x.rows(), n, [&](int64_t row) HWY_ATTR {
    const float* in = x.row(row);
    r.data[row] = inverse_rms(in, n, norm.eps);
    scale_row(in, norm.w.data, r.data[row], n, y.row(row));
  });
}

void residual_rms_norm_forward(ConstTensor x, ConstTensor delta, const RmsNorm& norm, Tensor total,
                               Tensor y, Tensor r) {
  const int64_t n = x.cols();
  parallel_rows(x.rows(), n, [&](int64_t row) HWY_ATTR {
    const float *a = x.row(row), *b = delta.row(row);
    float* out = total.row(row);
    const double sum = sum_each(n, [&](auto at, int64_t i, FloatVec acc) HWY_ATTR {
      const auto v = hn::Add(at.load(a + i), at.load(b + i));
      at.store(v, out + i);
      return hn::MulAdd(v, v, acc);
    });
    r.data[row] = inverse_rms(out, sum, n, norm.eps);
    scale_row(out, norm.w.data, r.data[row], n, y.row(row));
  });
}

void rms_norm_apply(ConstTensor x, ConstTensor w, ConstTensor r, Tensor y) {
  parallel_rows(x.rows(), x.cols(), [&](int64_t row) HWY_ATTR {
    scale_row(x.row(row), w.data, r.data[row], x.cols(), y.row(row));
  });
}

void rms_norm_backward(ConstTensor x, ConstTensor w, ConstTensor r, ConstTensor dy,
                       const RmsNormGradients& gradients) {
  const Tensor dx = gradients.dx, dw = gradients.dw;
  const int64_t n = x.cols(), rows = x.rows();
  // dx is shared by rows and dw by columns; in blocks of rows, so that the second pass finds x and
  // dy in the cache. No result depends on the blocks.
  const int64_t block = std::max<int64_t>(1, 4 * kTaskElements * threads() / n);
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t last = std::min(rows, first + block);
    parallel_rows(last - first, n, [&](int64_t i) HWY_ATTR {
      const int64_t row = first + i;
      if (gradients.add)
        input_gradient<true>(x.row(row), w.data, r.data[row], dy.row(row), n, dx.row(row));
      else
        input_gradient<false>(x.row(row), w.data, r.data[row], dy.row(row), n, dx.row(row));
    });
    if (!dw) continue;
    parallel_columns(last - first, n, [&](int64_t begin, int64_t end) HWY_ATTR {
      chain_rows(first, last, begin, end, dw.data,
                 [&](auto at, int64_t row, int64_t j, FloatVec acc) HWY_ATTR {
                   const auto xr =
                       hn::Mul(at.load(x.row(row) + j), hn::Set(FloatTag(), r.data[row]));
                   return hn::MulAdd(at.load(dy.row(row) + j), xr, acc);
                 });
    });
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(rms_norm_forward);
HWY_EXPORT(residual_rms_norm_forward);
HWY_EXPORT(rms_norm_apply);
HWY_EXPORT(rms_norm_backward);

void rms_norm_forward(ConstTensor x, const RmsNorm& norm, Tensor y, Tensor r) {
  REFRAIN_CHECK(norm.w.size() == x.cols() && y.size() == x.size() && r.size() == x.rows());
  HWY_DYNAMIC_DISPATCH(rms_norm_forward)(x, norm, y, r);
}
void residual_rms_norm_forward(ConstTensor x, ConstTensor delta, const RmsNorm& norm, Tensor sum,
                               Tensor y, Tensor r) {
  REFRAIN_CHECK(norm.w.size() == x.cols() && y.size() == x.size() && r.size() == x.rows());
  REFRAIN_CHECK(delta.size() == x.size() && sum.size() == x.size());
  HWY_DYNAMIC_DISPATCH(residual_rms_norm_forward)(x, delta, norm, sum, y, r);
}
void rms_norm_apply(ConstTensor x, ConstTensor w, ConstTensor r, Tensor y) {
  REFRAIN_CHECK(w.size() == x.cols() && y.size() == x.size() && r.size() == x.rows());
  HWY_DYNAMIC_DISPATCH(rms_norm_apply)(x, w, r, y);
}
void rms_norm_backward(ConstTensor x, ConstTensor w, ConstTensor r, ConstTensor dy,
                       const RmsNormGradients& gradients) {
  REFRAIN_CHECK(w.size() == x.cols() && r.size() == x.rows());
  REFRAIN_CHECK(!gradients.dw || gradients.dw.size() == x.cols());
  REFRAIN_CHECK(dy.size() == x.size() && gradients.dx.size() == x.size());
  HWY_DYNAMIC_DISPATCH(rms_norm_backward)(x, w, r, dy, gradients);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
