// Parts that forward and backward of gla share: rows in padded buffers, gates, and the recurrence
// with tiles of the state in registers.
//
// Buffers of rows are padded to whole vectors, those of chunks to 16 rows. Padding rows and
// channels are zero, and gates of padding rows are one. So they change no sum and no product.
// Included once per SIMD target.
#if defined(REFRAIN_KERNELS_GLA_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_GLA_INL_H_
#undef REFRAIN_KERNELS_GLA_INL_H_
#else
#define REFRAIN_KERNELS_GLA_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/cache_control.h"
#include "hwy/highway.h"
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"
#include "refrain/mixers/gla/kernel.h"

#ifndef REFRAIN_KERNELS_GLA_ONCE
#define REFRAIN_KERNELS_GLA_ONCE
namespace refrain::kernels {
// Hands out memory from front to back.
struct Bump {
  float* at;
  float* operator()(int64_t n) {
    float* const taken = at;
    at += n;
    return taken;
  }
};
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

HWY_INLINE int64_t lane_width(int64_t n) { return round_up(n, float_lanes()); }

// to = factor * from, zero where there is nothing. to: dense, padded.
HWY_INLINE void copy_rows(MatrixView<const float> from, float factor, MatrixView<float> to) {
  const FloatVec by = constant(factor);
  for (int64_t i = 0; i < from.rows; ++i)
    each(from.cols, [&](auto at, int64_t j) HWY_ATTR {
      hn::StoreU(hn::Mul(at.load(from.row(i) + j), by), FloatTag(), to.row(i) + j);
    });
  std::fill(to.row(from.rows), to.row(to.rows), 0.0f);
}

// to = from, of which there may be more.
HWY_INLINE void give_rows(MatrixView<const float> from, MatrixView<float> to) {
  for (int64_t i = 0; i < to.rows; ++i)
    each(to.cols,
         [&](auto at, int64_t j) HWY_ATTR { at.store(at.load(from.row(i) + j), to.row(i) + j); });
}

// The same through the activation that made `value`: to = from f'(f⁻¹(value)).
HWY_INLINE void give_through(GlaActivation f, ActivationPrecision precision,
                             MatrixView<const float> value, MatrixView<const float> from,
                             MatrixView<float> to) {
  if (f == GlaActivation::kIdentity) return give_rows(from, to);
  with_precision(precision, [&](auto functions) HWY_ATTR {
    for (int64_t i = 0; i < to.rows; ++i)
      each(to.cols, [&](auto at, int64_t j) HWY_ATTR {
        const FloatVec y = at.load(value.row(i) + j);
        const FloatVec slope =
            f == GlaActivation::kTanh ? functions.tanh_slope_at(y) : hn::NegMulAdd(y, y, y);
        at.store(hn::Mul(slope, at.load(from.row(i) + j)), to.row(i) + j);
      });
  });
}

// Prefetches rows that will be read soon; their distance is too large for the processor's own
// prefetcher.
HWY_INLINE void prefetch_rows(MatrixView<const float> from) {
  constexpr int64_t kLine = 16;
  for (int64_t i = 0; i < from.rows; ++i)
    for (int64_t j = 0; j < from.cols; j += kLine) hwy::Prefetch(from.row(i) + j);
}

// e^x for x <= 0, at least 1e-38; NaN for NaN. It is vector_exp without the cases that other
// numbers need.
HWY_INLINE FloatVec exp_below_one(FloatVec x) {
  const FloatTag d;
  const hn::RebindToSigned<FloatTag> di;
  const FloatVec lowest = constant(-87.3f);
  const ReducedExp reduced = reduced_exp(hn::IfThenElse(hn::Lt(x, lowest), lowest, x));
  // n is in the low bits of `shifted`; it is added to the exponent of e^r.
  const auto power = hn::ShiftLeft<23>(hn::BitCast(di, reduced.shifted));
  return hn::BitCast(d, hn::Add(hn::BitCast(di, reduced.e_r), power));
}

// log(1 + e) for 0 <= e <= 1, minimax (relative error 3e-8).
HWY_INLINE FloatVec log_one_plus(FloatVec e) {
  FloatVec p = constant(0.00523269002747f);
  p = hn::MulAdd(p, e, constant(-0.0295052199192f));
  p = hn::MulAdd(p, e, constant(0.0782259175063f));
  p = hn::MulAdd(p, e, constant(-0.136632425023f));
  p = hn::MulAdd(p, e, constant(0.191060049944f));
  p = hn::MulAdd(p, e, constant(-0.24842981693f));
  p = hn::MulAdd(p, e, constant(0.333190967318f));
  p = hn::MulAdd(p, e, constant(-0.499994931366f));
  p = hn::MulAdd(p, e, constant(0.99999996988f));
  return hn::Mul(p, e);
}

// What depends on a gate's logit z: g = σ(z)^(1/divisor) and the slope of log g, σ(-z) / divisor.
// Without a root the divisor is 1.
struct Gate {
  FloatVec value, slope;
};
template <bool kRoot, bool kSlope>
HWY_INLINE Gate gate_of(FloatVec z, FloatVec inverse_divisor) {
  const FloatVec zero = hn::Zero(FloatTag()), one = constant(1);
  const auto negative = hn::Lt(z, zero);
  const FloatVec e = exp_below_one(hn::Neg(hn::Abs(z)));
  FloatVec open = zero, shut = zero;
  if constexpr (kSlope || !kRoot) {
    const FloatVec large = hn::Div(one, hn::Add(one, e)), small = hn::Mul(e, large);
    open = hn::IfThenElse(negative, small, large);
    shut = hn::IfThenElse(negative, large, small);
  }
  if constexpr (!kRoot) return {open, shut};
  const FloatVec log_open = hn::Sub(hn::IfThenElse(negative, z, zero), log_one_plus(e));
  return {exp_below_one(hn::Mul(log_open, inverse_divisor)), hn::Mul(shut, inverse_divisor)};
}

// Replaces `n` logits z, a number of whole vectors, by gates; `slope` gets their slopes.
template <bool kRoot, bool kSlope>
HWY_NOINLINE void open_gates(int64_t n, float divisor, float* z, float* slope) {
  const FloatTag d;
  const FloatVec inverse = constant(1 / divisor);
  for (int64_t i = 0; i < n; i += float_lanes()) {
    const Gate gate = gate_of<kRoot, kSlope>(hn::LoadU(d, z + i), inverse);
    hn::StoreU(gate.value, d, z + i);
    if constexpr (kSlope) hn::StoreU(gate.slope, d, slope + i);
  }
}

// Gates of rows of logits, and their slopes; one in padding rows. g: dense, padded.
template <bool kSlope>
HWY_INLINE void gate_rows(float divisor, MatrixView<const float> z, MatrixView<float> g,
                          float* slope) {
  copy_rows(z, 1, g.row_range(0, z.rows));
  const auto open = divisor == 1 ? open_gates<false, kSlope> : open_gates<true, kSlope>;
  open(z.rows * g.cols, divisor, g.data, slope);
  std::fill(g.row(z.rows), g.row(g.rows), 1.0f);
}

// Steps of the recurrence: packed rows, and for outputs q (times the scale) and where o goes.
struct GlaSteps {
  int64_t K, V, kw, vw, steps;
  float *k, *g, *v;  // [steps, kw], v [steps, vw]
  float* q = nullptr;
  MatrixView<float> o{};  // [steps, V]
};

// Rows of the state that stay in registers, by two vectors.
inline constexpr int kStateRows = kTileRows > 12 ? 8 : 4;

// kChannels by kVectors vectors of the state stay in registers through all steps. An element of C
// is g C + (k v), one of o a chain over the channels: the same bits in any tile.
template <int kChannels, int kVectors, class At>
HWY_NOINLINE void step_tile(const GlaSteps& s, At at, int64_t c, int64_t j, float* C) {
  const FloatTag d;
  const int64_t N = float_lanes();
  FloatVec state[kChannels][kVectors];
  REFRAIN_UNROLL
  for (int i = 0; i < kChannels; ++i) REFRAIN_UNROLL
  for (int m = 0; m < kVectors; ++m) state[i][m] = at.load(C + (c + i) * s.V + j + m * N);
  for (int64_t t = 0; t < s.steps; ++t) {
    const float *q = s.q + t * s.kw + c, *k = s.k + t * s.kw + c, *g = s.g + t * s.kw + c;
    float* to = s.o.row(t) + j;
    FloatVec v[kVectors], o[kVectors];
    REFRAIN_UNROLL
    for (int m = 0; m < kVectors; ++m) {
      v[m] = hn::LoadU(d, s.v + t * s.vw + j + m * N);
      o[m] = c == 0 ? hn::Zero(d) : at.load(to + m * N);
    }
    REFRAIN_UNROLL
    for (int i = 0; i < kChannels; ++i) {
      const FloatVec key = hn::Set(d, k[i]), gate = hn::Set(d, g[i]), query = hn::Set(d, q[i]);
      REFRAIN_UNROLL
      for (int m = 0; m < kVectors; ++m) {
        state[i][m] = hn::MulAdd(gate, state[i][m], hn::Mul(key, v[m]));
        o[m] = hn::MulAdd(query, state[i][m], o[m]);
      }
    }
    REFRAIN_UNROLL
    for (int m = 0; m < kVectors; ++m) at.store(o[m], to + m * N);
  }
  REFRAIN_UNROLL
  for (int i = 0; i < kChannels; ++i) REFRAIN_UNROLL
  for (int m = 0; m < kVectors; ++m) at.store(state[i][m], C + (c + i) * s.V + j + m * N);
}

template <int kVectors, class At>
HWY_INLINE void step_columns(const GlaSteps& s, At at, int64_t j, float* C) {
  int64_t c = 0;
  for (; c + kStateRows <= s.K; c += kStateRows) step_tile<kStateRows, kVectors>(s, at, c, j, C);
  for (; c < s.K; ++c) step_tile<1, kVectors>(s, at, c, j, C);
}
// C [K, V] goes through the steps.
HWY_INLINE void run_steps(const GlaSteps& s, float* C) {
  const int64_t N = float_lanes();
  int64_t j = 0;
  for (; j + 2 * N <= s.V; j += 2 * N) step_columns<2>(s, Whole(), j, C);
  for (; j + N <= s.V; j += N) step_columns<1>(s, Whole(), j, C);
  if (j < s.V) step_columns<1>(s, Part{s.V - j}, j, C);
}

// The same recurrence on the transpose: to [V, kw] = Cᵀ after the steps from Cᵀ [V, kw]. A tile
// begins at value channel j and key channel c.
template <int kRows, int kVectors>
HWY_NOINLINE void advance_tile(const GlaSteps& s, int64_t j, int64_t c, const float* C, float* to) {
  const FloatTag d;
  const int64_t N = float_lanes(), kw = s.kw, vw = s.vw;
  const float *k = s.k + c, *g = s.g + c, *v = s.v + j;
  C += j * kw + c;
  to += j * kw + c;
  FloatVec state[kRows][kVectors];
  REFRAIN_UNROLL
  for (int i = 0; i < kRows; ++i) REFRAIN_UNROLL
  for (int m = 0; m < kVectors; ++m) state[i][m] = hn::LoadU(d, C + i * kw + m * N);
  for (int64_t t = 0; t < s.steps; ++t) {
    REFRAIN_UNROLL
    for (int m = 0; m < kVectors; ++m) {
      const FloatVec key = hn::LoadU(d, k + t * kw + m * N);
      const FloatVec gate = hn::LoadU(d, g + t * kw + m * N);
      REFRAIN_UNROLL
      for (int i = 0; i < kRows; ++i)
        state[i][m] = hn::MulAdd(gate, state[i][m], hn::Mul(key, hn::Set(d, v[t * vw + i])));
    }
  }
  REFRAIN_UNROLL
  for (int i = 0; i < kRows; ++i) REFRAIN_UNROLL
  for (int m = 0; m < kVectors; ++m) hn::StoreU(state[i][m], d, to + i * kw + m * N);
}
HWY_INLINE void advance(const GlaSteps& s, const float* C, float* to) {
  const int64_t N = float_lanes();
  for (int64_t c = 0; c < s.kw;) {
    const bool two = c + 2 * N <= s.kw;
    const auto rows = two ? advance_tile<kStateRows, 2> : advance_tile<kStateRows, 1>;
    const auto row = two ? advance_tile<1, 2> : advance_tile<1, 1>;
    int64_t j = 0;
    for (; j + kStateRows <= s.V; j += kStateRows) rows(s, j, c, C, to);
    for (; j < s.V; ++j) row(s, j, c, C, to);
    c += two ? 2 * N : N;
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
