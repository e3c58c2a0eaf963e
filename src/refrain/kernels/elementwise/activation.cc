#include "refrain/kernels/elementwise/activation.h"

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/activation.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/elementwise/swiglu-inl.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Distribution and density of the standard normal. Φ(-a) = e^(-a^2/2) P(1 / (1 + a/4)) for a >= 0,
// with P minimax for the relative error (4e-9) up to a = 14.5, where Φ(-a) leaves float's range.
struct Normal {
  FloatVec distribution, density;
};
HWY_INLINE Normal normal(FloatVec x) {
  const auto one = constant(1);
  const auto limit = constant(15);
  auto a = hn::Abs(x);
  a = hn::IfThenElse(hn::Gt(a, limit), limit, a);
  // What rounding the square loses would be magnified by the exponential.
  const auto square = hn::Mul(a, a), lost = hn::MulSub(a, a, square);
  const auto half = constant(0.5f);
  const auto e =
      hn::Mul(vector_exp(hn::Neg(hn::Mul(half, square))), hn::NegMulAdd(half, lost, one));
  const auto t = hn::Div(one, hn::MulAdd(constant(0.25f), a, one));
  auto tail = hn::MulAdd(t, constant(0.01166418606f), constant(-0.03367972715f));
  for (float c : {-0.0240809391f, 0.1422146915f, -0.09644405082f, 0.1564278925f, 0.04194887278f,
                  0.1041175122f, 0.09792781518f, 0.09991116847f, -7.419463743e-6f})
    tail = hn::MulAdd(tail, t, constant(c));
  tail = hn::Mul(tail, e);
  return {hn::IfThenElse(hn::Lt(x, hn::Zero(FloatTag())), tail, hn::Sub(one, tail)),
          hn::Mul(e, constant(0.3989422804f))};
}

// Each f(x) and f'(x) by the σ and tanh of F, or by neither.
template <class F>
struct Silu {
  static HWY_INLINE FloatVec value(FloatVec x) { return hn::Mul(x, F::logistic(x).p); }
  static HWY_INLINE FloatVec slope(FloatVec x) {
    const Logistic s = F::logistic(x);
    return hn::Mul(s.p, hn::MulAdd(x, s.q, constant(1)));
  }
};
struct Gelu {
  static HWY_INLINE FloatVec value(FloatVec x) { return hn::Mul(x, normal(x).distribution); }
  static HWY_INLINE FloatVec slope(FloatVec x) {
    const Normal n = normal(x);
    // The density is 0 long before x is infinite.
    return hn::MulAdd(clamp(x, constant(-20), constant(20)), n.density, n.distribution);
  }
};
template <class F>
struct GeluTanh {
  static constexpr float kScale = 1.5957691216f;    // 2 sqrt(2/π)
  static constexpr float kCubic = 0.071354816272f;  // 0.044715 times that
  // Wide enough for σ(2u) to reach 0 and 1, and no square overflows.
  static HWY_INLINE FloatVec bounded(FloatVec x) { return clamp(x, constant(-20), constant(20)); }
  static HWY_INLINE Logistic gate(FloatVec x) {
    return F::logistic(hn::Mul(x, hn::MulAdd(constant(kCubic), hn::Mul(x, x), constant(kScale))));
  }
  static HWY_INLINE FloatVec value(FloatVec x) { return hn::Mul(x, gate(bounded(x)).p); }
  static HWY_INLINE FloatVec slope(FloatVec x) {
    x = bounded(x);
    const Logistic s = gate(x);
    const auto du = hn::MulAdd(constant(3 * kCubic), hn::Mul(x, x), constant(kScale));
    return hn::Mul(s.p, hn::MulAdd(hn::Mul(x, du), s.q, constant(1)));
  }
};
template <class F>
struct Sigmoid {
  static HWY_INLINE FloatVec value(FloatVec x) { return F::logistic(x).p; }
  static HWY_INLINE FloatVec slope(FloatVec x) {
    const Logistic s = F::logistic(x);
    return hn::Mul(s.p, s.q);
  }
};
template <class F>
struct Tanh {
  static HWY_INLINE FloatVec value(FloatVec x) { return F::tanh(x); }
  static HWY_INLINE FloatVec slope(FloatVec x) { return F::tanh_slope(x); }
};

struct Relu {
  static HWY_INLINE FloatVec value(FloatVec x) {
    return hn::IfThenElse(hn::Lt(x, hn::Zero(FloatTag())), hn::Zero(FloatTag()), x);
  }
  static HWY_INLINE FloatVec slope(FloatVec x) {
    const auto positive = hn::IfThenElseZero(hn::Gt(x, hn::Zero(FloatTag())), constant(1));
    return hn::IfThenElse(hn::IsNaN(x), x, positive);
  }
};

template <class F>
void forward_elements(ConstTensor x, Tensor y) {
  parallel_ranges(x.size(), kTaskElements, [&](int64_t begin, int64_t end) HWY_ATTR {
    each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
      at.store(F::value(at.load(x.data + begin + i)), y.data + begin + i);
    });
  });
}

template <class F>
void backward_elements(ConstTensor x, ConstTensor dy, Tensor dx) {
  parallel_ranges(x.size(), kTaskElements, [&](int64_t begin, int64_t end) HWY_ATTR {
    each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
      const auto slope = F::slope(at.load(x.data + begin + i));
      at.store(hn::Mul(at.load(dy.data + begin + i), slope), dx.data + begin + i);
    });
  });
}

// g(Silu<F>()) and so on.
template <class F, class G>
HWY_INLINE void with_activation(Activation f, G&& g) {
  switch (f) {
    case Activation::kSilu:
      return g(Silu<F>());
    case Activation::kGelu:
      return g(Gelu());
    case Activation::kGeluTanh:
      return g(GeluTanh<F>());
    case Activation::kSigmoid:
      return g(Sigmoid<F>());
    case Activation::kTanh:
      return g(Tanh<F>());
    case Activation::kRelu:
      return g(Relu());
  }
}

void activation_forward(Activation f, ConstTensor x, Tensor y, ActivationPrecision precision) {
  with_precision(precision, [&](auto functions) HWY_ATTR {
    with_activation<decltype(functions)>(
        f, [&](auto g) HWY_ATTR { forward_elements<decltype(g)>(x, y); });
  });
}

void activation_backward(Activation f, ConstTensor x, ConstTensor dy, Tensor dx,
                         ActivationPrecision precision) {
  with_precision(precision, [&](auto functions) HWY_ATTR {
    with_activation<decltype(functions)>(
        f, [&](auto g) HWY_ATTR { backward_elements<decltype(g)>(x, dy, dx); });
  });
}

template <class F, class T>
void swiglu_forward(F, TensorOf<const T> gate_up, Tensor out) {
  const int64_t n = out.cols();
  parallel_rows(out.rows(), 2 * n, [&](int64_t row) HWY_ATTR {
    const T *gate = gate_up.row(row), *up = gate + n;
    float* to = out.row(row);
    each(n, [&](auto at, int64_t i)
                HWY_ATTR { at.store(swiglu<F>(at.load(gate + i), at.load(up + i)), to + i); });
  });
}
template <class F>
void swiglu_forward_rounded(F, ConstTensor gate_up, TensorOf<BFloat16> bf16, Tensor out) {
  const int64_t n = out.cols();
  parallel_rows(out.rows(), 2 * n, [&](int64_t row) HWY_ATTR {
    const float *gate = gate_up.row(row), *up = gate + n;
    BFloat16 *to_gate = bf16.row(row), *to_up = to_gate + n;
    float* to = out.row(row);
    each(n, [&](auto at, int64_t i) HWY_ATTR {
      const FloatVec x = rounded_to_bf16(at.load(gate + i)), u = rounded_to_bf16(at.load(up + i));
      at.store(x, to_gate + i);
      at.store(u, to_up + i);
      at.store(swiglu<F>(x, u), to + i);
    });
  });
}

template <class F, class T>
void swiglu_backward(F, TensorOf<const T> gate_up, ConstTensor dout, Tensor dgate_up) {
  const int64_t n = dout.cols();
  parallel_rows(dout.rows(), 2 * n, [&](int64_t row) HWY_ATTR {
    const T *gate = gate_up.row(row), *up = gate + n;
    const float* d = dout.row(row);
    float *dgate = dgate_up.row(row), *dup = dgate + n;
    each(n, [&](auto at, int64_t i) HWY_ATTR {
      const SwigluSlopes slopes =
          swiglu_slopes<F>(at.load(gate + i), at.load(up + i), at.load(d + i));
      at.store(slopes.gate, dgate + i);
      at.store(slopes.up, dup + i);
    });
  });
}

// What is exported has one signature a name.
void swiglu_forward_float(ConstTensor gate_up, Tensor out, ActivationPrecision precision) {
  with_precision(precision, [&](auto f) HWY_ATTR { swiglu_forward(f, gate_up, out); });
}
void swiglu_forward_bf16(TensorOf<const BFloat16> gate_up, Tensor out,
                         ActivationPrecision precision) {
  with_precision(precision, [&](auto f) HWY_ATTR { swiglu_forward(f, gate_up, out); });
}
void swiglu_forward_both(ConstTensor gate_up, TensorOf<BFloat16> bf16, Tensor out,
                         ActivationPrecision precision) {
  with_precision(precision,
                 [&](auto f) HWY_ATTR { swiglu_forward_rounded(f, gate_up, bf16, out); });
}
void swiglu_backward_float(ConstTensor gate_up, ConstTensor dout, Tensor dgate_up,
                           ActivationPrecision precision) {
  with_precision(precision, [&](auto f) HWY_ATTR { swiglu_backward(f, gate_up, dout, dgate_up); });
}
void swiglu_backward_bf16(TensorOf<const BFloat16> gate_up, ConstTensor dout, Tensor dgate_up,
                          ActivationPrecision precision) {
  with_precision(precision, [&](auto f) HWY_ATTR { swiglu_backward(f, gate_up, dout, dgate_up); });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(activation_forward);
HWY_EXPORT(activation_backward);
HWY_EXPORT(swiglu_forward_float);
HWY_EXPORT(swiglu_forward_bf16);
HWY_EXPORT(swiglu_forward_both);
HWY_EXPORT(swiglu_backward_float);
HWY_EXPORT(swiglu_backward_bf16);

void activation_forward(Activation f, ConstTensor x, Tensor y, ActivationPrecision precision) {
  REFRAIN_CHECK(y.size() == x.size());
  HWY_DYNAMIC_DISPATCH(activation_forward)(f, x, y, precision);
}
void activation_backward(Activation f, ConstTensor x, ConstTensor dy, Tensor dx,
                         ActivationPrecision precision) {
  REFRAIN_CHECK(dy.size() == x.size() && dx.size() == x.size());
  HWY_DYNAMIC_DISPATCH(activation_backward)(f, x, dy, dx, precision);
}
void swiglu_forward(ConstTensor gate_up, Tensor out, ActivationPrecision precision) {
  REFRAIN_CHECK(gate_up.cols() == 2 * out.cols() && gate_up.rows() == out.rows());
  HWY_DYNAMIC_DISPATCH(swiglu_forward_float)(gate_up, out, precision);
}
void swiglu_forward(TensorOf<const BFloat16> gate_up, Tensor out, ActivationPrecision precision) {
  REFRAIN_CHECK(gate_up.cols() == 2 * out.cols() && gate_up.rows() == out.rows());
  HWY_DYNAMIC_DISPATCH(swiglu_forward_bf16)(gate_up, out, precision);
}
void swiglu_forward_rounded(ConstTensor gate_up, TensorOf<BFloat16> bf16, Tensor out,
                            ActivationPrecision precision) {
  REFRAIN_CHECK(gate_up.cols() == 2 * out.cols() && gate_up.rows() == out.rows());
  REFRAIN_CHECK(bf16.cols() == gate_up.cols() && bf16.rows() == gate_up.rows());
  HWY_DYNAMIC_DISPATCH(swiglu_forward_both)(gate_up, bf16, out, precision);
}
void swiglu_backward(ConstTensor gate_up, ConstTensor dout, Tensor dgate_up,
                     ActivationPrecision precision) {
  REFRAIN_CHECK(gate_up.cols() == 2 * dout.cols() && gate_up.rows() == dout.rows());
  REFRAIN_CHECK(dgate_up.size() == gate_up.size());
  HWY_DYNAMIC_DISPATCH(swiglu_backward_float)(gate_up, dout, dgate_up, precision);
}
void swiglu_backward(TensorOf<const BFloat16> gate_up, ConstTensor dout, Tensor dgate_up,
                     ActivationPrecision precision) {
  REFRAIN_CHECK(gate_up.cols() == 2 * dout.cols() && gate_up.rows() == dout.rows());
  REFRAIN_CHECK(dgate_up.size() == gate_up.size());
  HWY_DYNAMIC_DISPATCH(swiglu_backward_bf16)(gate_up, dout, dgate_up, precision);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
