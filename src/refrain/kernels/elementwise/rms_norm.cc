#include "refrain/kernels/elementwise/rms_norm.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/rms_norm.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// r of a row from the sum of its squares in float32, made again in double where a square left its
// range. Finite for zeros, too, whatever eps is.
HWY_INLINE float inverse_rms(const float* x, double sum_of_squares, int64_t n, float eps) {
  constexpr double kHigh = 0x1p126, kLow = 0x1p-80;
  if (!(sum_of_squares < kHigh) || (sum_of_squares < kLow && double{eps} < kLow)) {
    sum_of_squares = 0;
    for (int64_t i = 0; i < n; ++i) sum_of_squares += double{x[i]} * double{x[i]};
  }
  const double r = 1 / std::sqrt(sum_of_squares / static_cast<double>(n) + eps);
  return static_cast<float>(std::min(r, double{std::numeric_limits<float>::max()}));
}

HWY_INLINE void scale_row(const float* x, const float* w, float r, int64_t n, float* y) {
  const auto scale = hn::Set(FloatTag(), r);
  each(n, [&](auto at, int64_t i) HWY_ATTR {
    at.store(hn::Mul(at.load(w + i), hn::Mul(at.load(x + i), scale)), y + i);
  });
}

void rms_norm_forward(ConstTensor x, const RmsNorm& norm, Tensor y, Tensor r) {
  const int64_t n = x.cols();
  parallel_rows(x.rows(), n, [&](int64_t row) HWY_ATTR {
    const float* in = x.row(row);
    const double sum = sum_each(n, [&](auto at, int64_t i, FloatVec acc) HWY_ATTR {
      const auto v = at.load(in + i);
      return hn::MulAdd(v, v, acc);
    });
    r.data[row] = inverse_rms(in, sum, n, norm.eps);
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

// In double, for rows whose squares float32 does not have.
template <bool kAdd>
void far_input_gradient(const float* x, const float* w, float r, const float* dy, int64_t n,
                        float* dx) {
  double dot = 0;
  for (int64_t i = 0; i < n; ++i) dot += double{w[i]} * double{dy[i]} * (double{x[i]} * r);
  const double back = dot / static_cast<double>(n);
  for (int64_t i = 0; i < n; ++i) {
    const double g = r * (double{w[i]} * double{dy[i]} - double{x[i]} * r * back);
    dx[i] = static_cast<float>(kAdd ? dx[i] + g : g);
  }
}

template <bool kAdd>
HWY_INLINE void input_gradient(const float* x, const float* w, float r, const float* dy, int64_t n,
                               float* dx) {
  constexpr float kHigh = 0x1p40f, kLow = 0x1p-40f;
  if (r > kHigh || r < kLow) return far_input_gradient<kAdd>(x, w, r, dy, n, dx);
  const double dot = sum_each(n, [&](auto at, int64_t i, FloatVec acc) HWY_ATTR {
    return hn::MulAdd(hn::Mul(at.load(w + i), at.load(dy + i)), at.load(x + i), acc);
  });
  const double s = r;
  const auto back =
      hn::Set(FloatTag(), static_cast<float>(dot * s * s * s / static_cast<double>(n)));
  const auto scale = hn::Set(FloatTag(), r);
  each(n, [&](auto at, int64_t i) HWY_ATTR {
    const auto through = hn::Mul(hn::Mul(at.load(w + i), at.load(dy + i)), scale);
    const auto g = hn::NegMulAdd(at.load(x + i), back, through);
    at.store(kAdd ? hn::Add(at.load(dx + i), g) : g, dx + i);
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
