#include "refrain/mixers/attention/head_norm_kernel.h"

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/attention/head_norm_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/rms_norm-inl.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

void head_norm_forward(MatrixView<const float> x, const RmsNorm& norm, MatrixView<float> y,
                       Tensor r) {
  const int64_t d = norm.w.size(), heads = x.cols / d;
  parallel_rows(x.rows, x.cols, [&](int64_t row) HWY_ATTR {
    for (int64_t h = 0; h < heads; ++h) {
      const float* in = x.row(row) + h * d;
      r.row(row)[h] = inverse_rms(in, d, norm.eps);
      scale_row(in, norm.w.data, r.row(row)[h], d, y.row(row) + h * d);
    }
  });
}

void head_norm_backward(MatrixView<const float> x, ConstTensor w, ConstTensor r,
                        MatrixView<float> dx, Tensor dw) {
  const int64_t d = w.size(), heads = x.cols / d;
  if (dw)
    parallel_columns(x.rows * heads, d, [&](int64_t begin, int64_t end) HWY_ATTR {
      for (int64_t row = 0; row < x.rows; ++row) {
        const float *in = x.row(row), *dy = dx.row(row), *scale = r.row(row);
        chain_rows(0, heads, begin, end, dw.data,
                   [&](auto at, int64_t h, int64_t j, FloatVec acc) HWY_ATTR {
                     const auto xr =
                         hn::Mul(at.load(in + h * d + j), hn::Set(FloatTag(), scale[h]));
                     return hn::MulAdd(at.load(dy + h * d + j), xr, acc);
                   });
      }
    });
  parallel_rows(x.rows, x.cols, [&](int64_t row) HWY_ATTR {
    for (int64_t h = 0; h < heads; ++h) {
      float* at = dx.row(row) + h * d;
      input_gradient<false>(x.row(row) + h * d, w.data, r.row(row)[h], at, d, at);
    }
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(head_norm_forward);
HWY_EXPORT(head_norm_backward);

void head_norm_forward(MatrixView<const float> x, const RmsNorm& norm, MatrixView<float> y,
                       Tensor r) {
  REFRAIN_CHECK(norm.w.size() > 0 && x.cols % norm.w.size() == 0);
  REFRAIN_CHECK(y.rows == x.rows && y.cols == x.cols);
  REFRAIN_CHECK(r.rows() == x.rows && r.cols() == x.cols / norm.w.size());
  HWY_DYNAMIC_DISPATCH(head_norm_forward)(x, norm, y, r);
}
void head_norm_backward(MatrixView<const float> x, ConstTensor w, ConstTensor r,
                        MatrixView<float> d, Tensor dw) {
  REFRAIN_CHECK(w.size() > 0 && x.cols % w.size() == 0);
  REFRAIN_CHECK(d.rows == x.rows && d.cols == x.cols);
  REFRAIN_CHECK(r.rows() == x.rows && r.cols() == x.cols / w.size());
  REFRAIN_CHECK(!dw || dw.size() == w.size());
  HWY_DYNAMIC_DISPATCH(head_norm_backward)(x, w, r, d, dw);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
