// σ and tanh of both precisions (activation.h), for kernels that are templates on them:
//
//   with_precision(precision, [&](auto f) HWY_ATTR { ... f.tanh(x) ... });
//
// Included once per SIMD target.
#if defined(REFRAIN_KERNELS_PRECISION_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_PRECISION_INL_H_
#undef REFRAIN_KERNELS_PRECISION_INL_H_
#else
#define REFRAIN_KERNELS_PRECISION_INL_H_
#endif

#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

struct AccurateFunctions {
  static HWY_INLINE Logistic logistic(FloatVec x) { return HWY_NAMESPACE::logistic(x); }
  static HWY_INLINE FloatVec tanh(FloatVec x) { return vector_tanh(x); }
  // tanh'(x) = 1 - tanh(x)^2 = 4 σ(2x) (1 - σ(2x))
  static HWY_INLINE FloatVec tanh_slope(FloatVec x) {
    const Logistic s = logistic(hn::Add(x, x));
    return hn::Mul(constant(4), hn::Mul(s.p, s.q));
  }
  // The same of y = tanh(x).
  static HWY_INLINE FloatVec tanh_slope_at(FloatVec y) { return hn::NegMulAdd(y, y, constant(1)); }
};

// e^x of x between -88 and 88, beyond them as there. As vector_exp, but with one power of 2, which
// is 0 below -87.7.
HWY_INLINE FloatVec clamped_exp(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const ReducedExp reduced = reduced_exp(clamp(x, constant(-88), constant(88)));
  const auto power = hn::ShiftLeft<23>(hn::Add(exponent_of(reduced), hn::Set(di, 127)));
  return hn::Mul(reduced.e_r, hn::BitCast(d, power));
}

struct FastFunctions {
  static HWY_INLINE Logistic logistic(FloatVec x) {
    const auto one = constant(1);
    const auto p = hn::Div(one, hn::Add(one, clamped_exp(hn::Neg(x))));
    return {p, hn::Sub(one, p)};
  }
  static HWY_INLINE FloatVec tanh(FloatVec x) {
    x = clamp(x, constant(-3), constant(3));
    const auto square = hn::Mul(x, x);
    return hn::Div(hn::Mul(x, hn::Add(constant(27), square)),
                   hn::MulAdd(constant(9), square, constant(27)));
  }
  // ((9 - x^2) / (9 + 3 x^2))^2
  static HWY_INLINE FloatVec tanh_slope(FloatVec x) {
    x = clamp(x, constant(-3), constant(3));
    const auto square = hn::Mul(x, x);
    const auto root =
        hn::Div(hn::Sub(constant(9), square), hn::MulAdd(constant(3), square, constant(9)));
    return hn::Mul(root, root);
  }
  // 1 ± y = (3 ± x)^3 / (27 + 9 x^2), so x has a closed form in y. With w = (1 - y^2)^(1/3) and s
  // the largest root of s^3 = 3 w s + 2, the slope is (w s / 2)^2. s / 2 is a polynomial of w
  // (1e-7); w is v r^2, with r = v^(-1/3) by two steps of third order from 4 %.
  static HWY_INLINE FloatVec tanh_slope_at(FloatVec y) {
    const FloatTag d;
    const hn::RebindToSigned<FloatTag> di;
    const auto one = constant(1), size = hn::Abs(y);
    const auto v = hn::Mul(hn::Max(hn::Sub(one, size), hn::Zero(d)), hn::Add(one, size));
    const auto third = hn::Mul(hn::ConvertTo(d, hn::BitCast(di, v)), constant(-1.0f / 3));
    auto r = hn::BitCast(d, hn::ConvertTo(di, hn::Add(third, constant(1419900000.0f))));
    for (int step = 0; step < 2; ++step) {
      const auto rest = hn::NegMulAdd(hn::Mul(v, r), hn::Mul(r, r), one);
      const auto more = hn::MulAdd(rest, constant(2.0f / 9), constant(1.0f / 3));
      r = hn::MulAdd(hn::Mul(r, rest), more, r);
    }
    const auto w = hn::Mul(v, hn::Mul(r, r));
    auto s = hn::MulAdd(w, constant(0.0025122799f), constant(-0.0150629543f));
    for (float c : {0.0396957211f, -0.0541582033f, 0.0002130289f, 0.3968394995f, 0.6299605966f})
      s = hn::MulAdd(s, w, constant(c));
    const auto root = hn::Mul(w, s);
    return hn::IfThenElse(hn::IsNaN(y), y, hn::Mul(root, root));
  }
};

template <class F>
HWY_INLINE void with_precision(ActivationPrecision precision, F&& f) {
  if (precision == ActivationPrecision::kFast) return f(FastFunctions());
  f(AccurateFunctions());
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
