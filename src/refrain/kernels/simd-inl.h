// Parts that the elementwise and row kernels share, on one instruction set: a loop over an array
// that treats the last, incomplete vector with the same arithmetic as the others; sums in a fixed
// order; ways to divide rows and columns between threads; and e^x, σ and tanh.
//
// The result of an element has the same bits at any place in a vector, so a loop over independent
// elements may be cut anywhere. Included once per SIMD target by the kernel files.
#if defined(REFRAIN_KERNELS_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_SIMD_INL_H_
#undef REFRAIN_KERNELS_SIMD_INL_H_
#else
#define REFRAIN_KERNELS_SIMD_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/bf16.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using FloatTag = hn::ScalableTag<float>;
using FloatVec = hn::Vec<FloatTag>;

// Elements that are worth a task of their own.
inline constexpr int64_t kTaskElements = 16384;

inline int64_t float_lanes() { return static_cast<int64_t>(hn::Lanes(FloatTag())); }

// bfloat16 as vectors of float32; what is stored has only those values.
using Bf16Tag = hn::Rebind<uint16_t, FloatTag>;
HWY_INLINE FloatVec to_float(hn::Vec<Bf16Tag> v) {
  const hn::Repartition<uint32_t, FloatTag> d32;
  return hn::BitCast(FloatTag(), hn::ShiftLeft<16>(hn::PromoteTo(d32, v)));
}
HWY_INLINE hn::Vec<Bf16Tag> to_bf16(FloatVec v) {
  const hn::Repartition<uint32_t, FloatTag> d32;
  return hn::TruncateTo(Bf16Tag(), hn::ShiftRight<16>(hn::BitCast(d32, v)));
}

// All lanes of a vector ...
struct Whole {
  HWY_INLINE FloatVec load(const float* from) const { return hn::LoadU(FloatTag(), from); }
  HWY_INLINE void store(FloatVec v, float* to) const { hn::StoreU(v, FloatTag(), to); }
  HWY_INLINE FloatVec load(const BFloat16* from) const {
    return to_float(hn::LoadU(Bf16Tag(), &from->bits));
  }
  HWY_INLINE void store(FloatVec v, BFloat16* to) const {
    hn::StoreU(to_bf16(v), Bf16Tag(), &to->bits);
  }
  // v in the lanes that exist, `beyond` in the others.
  HWY_INLINE FloatVec fill(FloatVec v, FloatVec) const { return v; }
};

// ... or only the first `count`: nothing else is read or written, and loads fill up with zeros.
struct Part {
  int64_t count;

#if HWY_TARGET <= HWY_AVX2
  HWY_INLINE FloatVec load(const float* from) const {
    return hn::MaskedLoad(mask(), FloatTag(), from);
  }
  HWY_INLINE void store(FloatVec v, float* to) const {
    hn::BlendedStore(v, mask(), FloatTag(), to);
  }
#else  // masked loads of other targets may touch the whole vector
  HWY_INLINE FloatVec load(const float* from) const {
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = from[i];
    return hn::Load(FloatTag(), lanes);
  }
  HWY_INLINE void store(FloatVec v, float* to) const {
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
    hn::Store(v, FloatTag(), lanes);
    for (int64_t i = 0; i < count; ++i) to[i] = lanes[i];
  }
#endif
  HWY_INLINE FloatVec load(const BFloat16* from) const {
    HWY_ALIGN uint16_t lanes[HWY_MAX_BYTES / sizeof(float)] = {};
    for (int64_t i = 0; i < count; ++i) lanes[i] = from[i].bits;
    return to_float(hn::Load(Bf16Tag(), lanes));
  }
  HWY_INLINE void store(FloatVec v, BFloat16* to) const {
    HWY_ALIGN uint16_t lanes[HWY_MAX_BYTES / sizeof(float)];
    hn::Store(to_bf16(v), Bf16Tag(), lanes);
    for (int64_t i = 0; i < count; ++i) to[i].bits = lanes[i];
  }
  HWY_INLINE FloatVec fill(FloatVec v, FloatVec beyond) const {
    return hn::IfThenElse(mask(), v, beyond);
  }
  HWY_INLINE hn::Mask<FloatTag> mask() const {
    return hn::FirstN(FloatTag(), static_cast<size_t>(count));
  }
};

// f(at, i) for the vectors that cover [0, n), `at` being Whole or Part.
template <class F>
HWY_INLINE void each(int64_t n, F&& f) {
  const int64_t N = float_lanes();
  int64_t i = 0;
  for (; i + N <= n; i += N) f(Whole(), i);
  if (i < n) f(Part{n - i}, i);
}

// The sum of what acc = f(at, i, acc) accumulates over [0, n). Four chains of vectors, in blocks
// that are added up in double; the order depends on n alone. Lanes beyond a Part must add nothing.
template <class F>
HWY_INLINE double sum_each(int64_t n, F&& f) {
  constexpr int64_t kBlock = 4096;
  const FloatTag d;
  const int64_t N = float_lanes();
  double total = 0;
  for (int64_t i = 0; i < n;) {
    const int64_t end = std::min(n, i + kBlock);
    FloatVec acc[4] = {hn::Zero(d), hn::Zero(d), hn::Zero(d), hn::Zero(d)};
    for (; i + 4 * N <= end; i += 4 * N) {
#pragma GCC unroll 4
      for (int64_t k = 0; k < 4; ++k) acc[k] = f(Whole(), i + k * N, acc[k]);
    }
    for (; i + N <= end; i += N) acc[0] = f(Whole(), i, acc[0]);
    if (i < end) acc[1] = f(Part{end - i}, i, acc[1]);
    i = end;
    total += static_cast<double>(
        hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(acc[0], acc[1]), hn::Add(acc[2], acc[3])))));
  }
  return total;
}

// f(row) for every row of a [rows, cols] matrix.
template <class F>
HWY_INLINE void parallel_rows(int64_t rows, int64_t cols, F&& f) {
  const int64_t grain = std::max<int64_t>(1, kTaskElements / std::max<int64_t>(1, cols));
  parallel_ranges(rows, grain, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (int64_t row = begin; row < end; ++row) f(row);
  });
}

// f(begin, end) over slices of the columns, for sums over the rows of a [rows, cols] matrix: every
// element of the sum has one owner, who takes the rows in ascending order.
template <class F>
HWY_INLINE void parallel_columns(int64_t rows, int64_t cols, F&& f) {
  constexpr int64_t kLine = 16;  // floats; slices share no cache line
  const int64_t lines = (cols + kLine - 1) / kLine;
  const int64_t most = std::max<int64_t>(1, rows * cols / kTaskElements);
  const int64_t slices = std::min<int64_t>({threads(), lines, most});
  parallel_for(slices, [&](int64_t s) HWY_ATTR {
    f(lines * s / slices * kLine, std::min(cols, lines * (s + 1) / slices * kLine));
  });
}

// to[j] = f(at, last, j, ... f(at, first, j, to[j])) for the columns [begin, end): one chain in
// ascending row order. Rows are taken four at a time to save trips through memory, nothing else.
template <class F>
HWY_INLINE void chain_rows(int64_t first, int64_t last, int64_t begin, int64_t end, float* to,
                           F&& f) {
  constexpr int64_t kRows = 4;
  int64_t row = first;
  for (; row + kRows <= last; row += kRows) {
    each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
      const int64_t j = begin + i;
      FloatVec acc = at.load(to + j);
#pragma GCC unroll 4
      for (int64_t k = 0; k < kRows; ++k) acc = f(at, row + k, j, acc);
      at.store(acc, to + j);
    });
  }
  for (; row < last; ++row) {
    each(end - begin, [&](auto at, int64_t i) HWY_ATTR {
      const int64_t j = begin + i;
      at.store(f(at, row, j, at.load(to + j)), to + j);
    });
  }
}

// The nearest value that bfloat16 has (kernels/matmul/bf16.h).
HWY_INLINE FloatVec rounded_to_bf16(FloatVec v) {
  const FloatTag d;
  const hn::Repartition<uint32_t, FloatTag> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const auto rounded = hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu)));
  const auto nan = hn::Or(bits, hn::Set(du, 0x400000u));
  const FloatVec any = hn::IfThenElse(hn::IsNaN(v), hn::BitCast(d, nan), hn::BitCast(d, rounded));
  return hn::And(any, hn::BitCast(d, hn::Set(du, 0xffff0000u)));
}

// min(max(v, low), high), but NaN stays NaN.
HWY_INLINE FloatVec clamp(FloatVec v, FloatVec low, FloatVec high) {
  v = hn::IfThenElse(hn::Lt(v, low), low, v);
  return hn::IfThenElse(hn::Gt(v, high), high, v);
}

// e^x = e^r 2^n of x = n ln 2 + r, |r| <= ln 2 / 2; e^r = 1 + r + r^2 q(r) with q minimax of degree
// 4 (error 3e-9).
struct ReducedExp {
  FloatVec e_r;
  FloatVec shifted;  // kExpShift + n: n is in the low bits
};
constexpr float kExpShift = 0x1.8p23f;  // adding it rounds to an integer
HWY_INLINE ReducedExp reduced_exp(FloatVec x) {
  const FloatTag d;
  const auto shift = hn::Set(d, kExpShift);
  const auto shifted = hn::MulAdd(x, hn::Set(d, 1.44269504f), shift);
  const auto n = hn::Sub(shifted, shift);
  auto r = hn::NegMulAdd(n, hn::Set(d, 0.693359375f), x);
  r = hn::NegMulAdd(n, hn::Set(d, -2.12194440e-4f), r);
  auto q = hn::MulAdd(r, hn::Set(d, 0.001381446572f), hn::Set(d, 0.008368780446f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.04166839424f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.1666652011f));
  q = hn::MulAdd(q, r, hn::Set(d, 0.4999999341f));
  return {hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, 1.0f)), shifted};
}
// n as an integer.
HWY_INLINE auto exponent_of(const ReducedExp& x) {
  const hn::RebindToSigned<FloatTag> di;
  return hn::Sub(hn::BitCast(di, x.shifted), hn::BitCast(di, hn::Set(FloatTag(), kExpShift)));
}

// e^x within 1.1 ulp: 0 far below, infinity far above, NaN of NaN. 2^n is multiplied with in two
// steps, so that denormal results come out.
HWY_INLINE FloatVec vector_exp(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const ReducedExp reduced = reduced_exp(clamp(x, hn::Set(d, -105.0f), hn::Set(d, 90.0f)));
  const auto ni = exponent_of(reduced);
  const auto half = hn::ShiftRight<1>(ni);
  const auto bias = hn::Set(di, 127);
  const auto low = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(half, bias)));
  const auto high = hn::BitCast(d, hn::ShiftLeft<23>(hn::Add(hn::Sub(ni, half), bias)));
  return hn::Mul(hn::Mul(reduced.e_r, low), high);
}

HWY_INLINE FloatVec constant(float c) { return hn::Set(FloatTag(), c); }

// σ(x) and 1 - σ(x), neither by subtraction from 1.
struct Logistic {
  FloatVec p, q;
};
HWY_INLINE Logistic logistic(FloatVec x) {
  const auto one = constant(1);
  const auto e = vector_exp(hn::Neg(hn::Abs(x)));
  const auto large = hn::Div(one, hn::Add(one, e)), small = hn::Mul(e, large);
  const auto negative = hn::Lt(x, hn::Zero(FloatTag()));
  return {hn::IfThenElse(negative, small, large), hn::IfThenElse(negative, large, small)};
}

// tanh(x) within a few ulp: (1 - e) / (1 + e) with e = e^(-2 |x|); below 1/2, where that subtracts
// like from like, x + x^3 P(x^2) with P minimax (4e-10).
HWY_INLINE FloatVec vector_tanh(FloatVec x) {
  const auto one = constant(1);
  const auto a = hn::Abs(x), e = vector_exp(hn::Mul(constant(-2), a));
  const auto far = hn::Div(hn::Sub(one, e), hn::Add(one, e));
  const auto square = hn::Mul(x, x);
  auto p = hn::MulAdd(square, constant(-0.006647486842f), constant(0.02129799063f));
  for (float c : {-0.05389919041f, 0.1333296426f, -0.3333332688f})
    p = hn::MulAdd(p, square, constant(c));
  const auto near = hn::MulAdd(hn::Mul(x, square), p, x);
  return hn::IfThenElse(hn::Lt(a, constant(0.5f)), near, hn::CopySign(far, x));
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
