// silu(gate) up and its slopes, by the functions of a precision (precision-inl.h). Included once
// per SIMD target.
#if defined(REFRAIN_KERNELS_SWIGLU_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_SWIGLU_INL_H_
#undef REFRAIN_KERNELS_SWIGLU_INL_H_
#else
#define REFRAIN_KERNELS_SWIGLU_INL_H_
#endif

#include "refrain/kernels/elementwise/precision-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

template <class F>
HWY_INLINE FloatVec swiglu(FloatVec gate, FloatVec up) {
  return hn::Mul(hn::Mul(gate, F::logistic(gate).p), up);
}

// d up silu'(gate) and d silu(gate)
struct SwigluSlopes {
  FloatVec gate, up;
};
template <class F>
HWY_INLINE SwigluSlopes swiglu_slopes(FloatVec gate, FloatVec up, FloatVec d) {
  const Logistic s = F::logistic(gate);
  const auto slope = hn::Mul(s.p, hn::MulAdd(gate, s.q, constant(1)));
  return {hn::Mul(hn::Mul(d, up), slope), hn::Mul(d, hn::Mul(gate, s.p))};
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
