#include "refrain/mixers/gla/elementwise_kernel.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/gla/elementwise_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/elementwise/rms_norm-inl.h"
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

// silu(z) and its slope.
struct SwishGate {
  FloatVec value, slope;
};
template <class F>
HWY_INLINE SwishGate swish_of(F f, FloatVec z) {
  const Logistic s = f.logistic(z);
  return {hn::Mul(z, s.p), hn::Mul(s.p, hn::MulAdd(z, s.q, constant(1)))};
}

void read_forward(const GlaReadout& readout, ConstTensor o, ConstTensor x, Tensor out) {
  const int64_t V = readout.value_dim, H = o.cols() / V;
  const float* w = readout.norm.w.data;
  with_precision(readout.precision, [&](auto f) HWY_ATTR {
    parallel_rows(o.rows(), o.cols(), [&](int64_t row) HWY_ATTR {
      const float* z = readout.gate >= 0 ? x.row(row) + readout.gate : nullptr;
      for (int64_t h = 0; h < H; ++h) {
        const float* from = o.row(row) + h * V;
        float* to = out.row(row) + h * V;
        const FloatVec r = constant(w ? inverse_rms(from, V, readout.norm.eps) : 1);
        each(V, [&](auto at, int64_t i) HWY_ATTR {
          FloatVec n = at.load(from + i);
          if (w) n = hn::Mul(at.load(w + i), hn::Mul(n, r));
          if (z) n = hn::Mul(n, swish_of(f, at.load(z + h * V + i)).value);
          at.store(n, to + i);
        });
      }
    });
  });
}

// One head of a row, `at_head` floats from the beginning: out again, and from d, the gradient of
// out, those of z, of the norm (in d's place) and of o. Returns r.
template <class F>
HWY_INLINE float read_back(F f, const GlaReadout& readout, const float* o, float* z,
                           const GlaReadoutGradients& to, int64_t at_head) {
  const int64_t V = readout.value_dim;
  const float* w = readout.norm.w.data;
  float *d = to.d.data + at_head, *out = to.out.data + at_head;
  const float r = w ? inverse_rms(o, V, readout.norm.eps) : 1;
  const FloatVec scale = constant(r);
  each(V, [&](auto at, int64_t i) HWY_ATTR {
    FloatVec n = at.load(o + i);
    if (w) n = hn::Mul(at.load(w + i), hn::Mul(n, scale));
    if (z) {
      const FloatVec grad = at.load(d + i);
      const SwishGate gate = swish_of(f, at.load(z + i));
      at.store(hn::Mul(hn::Mul(grad, n), gate.slope), z + i);
      at.store(hn::Mul(grad, gate.value), d + i);
      n = hn::Mul(n, gate.value);
    }
    at.store(n, out + i);
  });
  if (w) input_gradient<false>(o, w, r, d, V, to.d_o.data + at_head);
  return r;
}

void read_backward(const GlaReadout& readout, ConstTensor o, Tensor x,
                   const GlaReadoutGradients& to) {
  const int64_t V = readout.value_dim, N = o.cols(), H = N / V, rows = o.rows();
  // In blocks of rows, as rms_norm_backward has them.
  const int64_t block = std::max<int64_t>(1, 4 * kTaskElements * threads() / N);
  for (int64_t first = 0; first < rows; first += block) {
    const int64_t last = std::min(rows, first + block);
    with_precision(readout.precision, [&](auto f) HWY_ATTR {
      parallel_rows(last - first, 2 * N, [&](int64_t i) HWY_ATTR {
        const int64_t row = first + i;
        float* z = readout.gate >= 0 ? x.row(row) + readout.gate : nullptr;
        for (int64_t h = 0; h < H; ++h) {
          const int64_t at = row * N + h * V;
          to.r.data[row * H + h] =
              read_back(f, readout, o.data + at, z ? z + h * V : nullptr, to, at);
        }
      });
    });
    if (!to.dw) continue;
    parallel_columns((last - first) * H, V, [&](int64_t begin, int64_t end) HWY_ATTR {
      chain_rows(first * H, last * H, begin, end, to.dw.data,
                 [&](auto at, int64_t i, int64_t j, FloatVec acc) HWY_ATTR {
                   const FloatVec r = hn::Set(FloatTag(), to.r.data[i]);
                   const FloatVec normed = hn::Mul(at.load(o.data + i * V + j), r);
                   return hn::MulAdd(at.load(to.d.data + i * V + j), normed, acc);
                 });
    });
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(activate_columns);
HWY_EXPORT(read_forward);
HWY_EXPORT(read_backward);

namespace {
void check(const GlaReadout& readout, ConstTensor o, ConstTensor x) {
  REFRAIN_CHECK(x.rows() == o.rows() && o.cols() % readout.value_dim == 0);
  REFRAIN_CHECK(!readout.norm.w || readout.norm.w.size() == readout.value_dim);
  REFRAIN_CHECK(readout.gate < 0 || readout.gate + o.cols() <= x.cols());
}
}  // namespace

void activate_columns(GlaActivation act, ActivationPrecision precision, Tensor x, int64_t first,
                      int64_t count) {
  REFRAIN_CHECK(first >= 0 && first + count <= x.cols());
  HWY_DYNAMIC_DISPATCH(activate_columns)(act, precision, x, first, count);
}
void gla_read_forward(const GlaReadout& readout, ConstTensor o, ConstTensor x, Tensor out) {
  check(readout, o, x);
  REFRAIN_CHECK(out.size() == o.size());
  HWY_DYNAMIC_DISPATCH(read_forward)(readout, o, x, out);
}
void gla_read_backward(const GlaReadout& readout, ConstTensor o, Tensor x,
                       const GlaReadoutGradients& gradients) {
  check(readout, o, x);
  REFRAIN_CHECK(gradients.out.size() == o.size() && gradients.d.size() == o.size());
  REFRAIN_CHECK(gradients.d_o.size() == o.size());
  REFRAIN_CHECK(gradients.r.size() * readout.value_dim == o.size());
  REFRAIN_CHECK(!gradients.dw || gradients.dw.size() == readout.value_dim);
  HWY_DYNAMIC_DISPATCH(read_backward)(readout, o, x, gradients);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
