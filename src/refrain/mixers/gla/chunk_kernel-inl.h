// The parts of backward of a chunk (kGlaChunk = 16 rows): small matrix products, the scores A by
// pairs of rows, and the gradients by key channels. Included once per SIMD target.
#if defined(REFRAIN_KERNELS_GLA_CHUNK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_GLA_CHUNK_INL_H_
#undef REFRAIN_KERNELS_GLA_CHUNK_INL_H_
#else
#define REFRAIN_KERNELS_GLA_CHUNK_INL_H_
#endif

#include <algorithm>
#include <cstdint>

#include "hwy/highway.h"
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/matmul/tile-inl.h"
#include "refrain/mixers/gla/kernel.h"

#ifndef REFRAIN_KERNELS_GLA_CHUNK_ONCE
#define REFRAIN_KERNELS_GLA_CHUNK_ONCE
namespace refrain::kernels {
// Short chunks are worked on as eight rows.
inline constexpr int64_t kGlaHalf = kGlaChunk / 2;
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// For products with at most as many columns as a vector has lanes: a tile of one vector and more
// rows.
inline constexpr int64_t kSlimRows = kTileRows > 12 ? 16 : 12;

template <int MR, Rows kRows>
HWY_NOINLINE void slim_tile(const MatrixView<const float>& left,
                            const MatrixView<const float>& right, const MatrixView<float>& out,
                            bool add) {
  const FloatTag d;
  const float *HWY_RESTRICT a = left.data, *HWY_RESTRICT b = right.data;
  float* HWY_RESTRICT c = out.data;
  const int64_t a_step = kRows == Rows::kApart ? left.row_stride : left.col_stride, K = left.cols;
  const int64_t b_row = right.row_stride, c_row = out.row_stride, n = out.cols;
  const bool whole = n == float_lanes();
  const Part part{n};
  FloatVec acc[MR];
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    const float* from = c + m * c_row;
    acc[m] = hn::Zero(d);
    if (add) acc[m] = whole ? hn::LoadU(d, from) : part.load(from);
  }
  constexpr int kGroups = (MR + 2) / 3;  // as in tile()
  constexpr bool kApart = kRows == Rows::kApart;
  const float* rows[kGroups];
  REFRAIN_UNROLL
  for (int i = 0; i < kGroups; ++i) rows[i] = a + 3 * i * (kApart ? a_step : 1);
  for (int64_t k = 0; k < K; ++k, b += b_row) {
    const FloatVec bk = hn::LoadU(d, b);
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m)
      acc[m] = hn::MulAdd(hn::Set(d, kApart ? rows[m / 3][(m % 3) * a_step] : a[m]), bk, acc[m]);
    if constexpr (kApart) {
      REFRAIN_UNROLL
      for (int i = 0; i < kGroups; ++i) ++rows[i];
    } else {
      a += a_step;
    }
  }
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    if (whole)
      hn::StoreU(acc[m], d, c + m * c_row);
    else
      part.store(acc[m], c + m * c_row);
  }
}

template <Rows kRows, int MR = kSlimRows>
HWY_INLINE void slim_tile_of(const MatrixView<const float>& a, const MatrixView<const float>& b,
                             const MatrixView<float>& c, bool add) {
  if (c.rows == MR) return slim_tile<MR, kRows>(a, b, c, add);
  if constexpr (MR > 1) slim_tile_of<kRows, MR - 1>(a, b, c, add);
}

// c (+)= a b. The rows of a lie as in tile(); those of b are padded to whole vectors.
template <Rows kRows>
HWY_NOINLINE void product(const MatrixView<const float>& a, const MatrixView<const float>& b,
                          const MatrixView<float>& c, bool add) {
  const int64_t N = float_lanes();
  for (int64_t j = 0; j < c.cols; j += 2 * N) {
    const int64_t cols = std::min(2 * N, c.cols - j);
    const bool slim = cols <= N;
    const int64_t most = slim ? kSlimRows : kTileRows, count = (c.rows + most - 1) / most;
    const MatrixView<const float> panel = b.col_range(j, cols);
    for (int64_t t = 0; t < count; ++t) {
      const int64_t i0 = c.rows * t / count, mr = c.rows * (t + 1) / count - i0;
      const MatrixView<const float> rows = a.row_range(i0, mr);
      const MatrixView<float> to = c.row_range(i0, mr).col_range(j, cols);
      if (slim)
        slim_tile_of<kRows>(rows, panel, to, add);
      else
        tile_of<kRows>(rows, panel, to, add);
    }
  }
}

// Backward of a chunk: its rows, and where it works.
struct GlaChunk {
  int64_t K, V, kw, vw, rows;
  float *q, *k, *g, *slope;  // [16, kw]; slope: of log g by its logit
  float *v, *d_o;            // [16, vw]; d_o times the scale
  float *u, *w;              // [16, kw]: d_o Cᵀ and v dCᵀ, then times G and D
  float* qg;                 // [16, kw]: q ⊙ G
  float* kt;                 // [K, 16]: kᵀ, then (k ⊙ D)ᵀ
  float *a, *da;             // [16, 16]: A and its gradient, of which only i >= j counts
  float *vt, *dvt;           // [V, 16]
  float *dq, *dk, *dz;       // [16, kw]
  float* pairs;              // [120, lanes]: k_j ⊙ E_ij of every pair i > j, by i
};

// A by its rows: a [i][j]. Lanes are rows j. i goes up, and k_j is multiplied by the gate of every
// row after it. kt [K][16], the transpose of k, becomes that of k ⊙ D.
HWY_INLINE void scores_by_query(const GlaChunk& chunk) {
  constexpr int64_t R = kGlaChunk, kBlock = kGlaHalf;
  const FloatTag d;
  const int64_t K = chunk.K, width = chunk.kw, rows = chunk.rows, N = float_lanes();
  const float *q = chunk.q, *g = chunk.g;
  float *kt = chunk.kt, *a = chunk.a;
  std::fill(a, a + R * R, 0.0f);
  for (int64_t j0 = 0; j0 < rows; j0 += N)
    for (int64_t i0 = j0 / kBlock * kBlock; i0 < rows; i0 += kBlock) {
      hn::Mask<FloatTag> before[kBlock], seen[kBlock];  // lanes of rows before i, and up to it
      FloatVec acc[kBlock];
      REFRAIN_UNROLL
      for (int64_t b = 0; b < kBlock; ++b) {
        const auto lanes = [&](int64_t row) {
          return static_cast<size_t>(std::clamp<int64_t>(row - j0, 0, N));
        };
        before[b] = hn::FirstN(d, lanes(i0 + b));
        seen[b] = hn::FirstN(d, lanes(i0 + b + 1));
        acc[b] = hn::Zero(d);
      }
      for (int64_t c = 0; c < K; ++c) {
        FloatVec p = hn::LoadU(d, kt + c * R + j0);
        REFRAIN_UNROLL
        for (int64_t b = 0; b < kBlock; ++b) {
          const int64_t i = (i0 + b) * width + c;
          p = hn::IfThenElse(before[b], hn::Mul(p, hn::Set(d, g[i])), p);
          acc[b] = hn::MulAdd(p, hn::Set(d, q[i]), acc[b]);
        }
        hn::StoreU(p, d, kt + c * R + j0);
      }
      REFRAIN_UNROLL
      for (int64_t b = 0; b < kBlock; ++b)
        hn::StoreU(hn::IfThenElseZero(seen[b], acc[b]), d, a + (i0 + b) * R + j0);
    }
}

// For the channels of one vector, with p_ij = k_j ⊙ E_ij and its gradient from the queries i and
// later, r_ij = dA_ij q_i + g_{i+1} ⊙ r_{i+1,j}:
//
//   dq_i = u_i ⊙ G_i + Σ_{j<=i} dA_ij p_ij        dk_j = w_j ⊙ D_j + r_jj
//   dlog g_i = `through` + Σ_{j<i} k_j w_j D_j + Σ_{l>=i} q_l u_l G_l + Σ_{j<i} r_ij ⊙ p_ij
//
// Every sum has only the terms that pass through the gate: nothing cancels.
template <int kRows>
class KeyGradients {
 public:
  HWY_INLINE KeyGradients(const GlaChunk& c, int64_t at) : c_(c), at_(at) {}

  HWY_INLINE void run(FloatVec through) {
    FloatVec after = constant(1);
    REFRAIN_UNROLL
    for (int j = kRows - 1; j >= 0; --j) {
      store(hn::Mul(load(c_.w, j), after), c_.w, j);
      after = hn::Mul(after, load(c_.g, j));
    }
    FloatVec upto = constant(1);
    REFRAIN_UNROLL
    for (int i = 0; i < kRows; ++i) {
      const FloatVec q = load(c_.q, i);
      upto = hn::Mul(upto, load(c_.g, i));
      store(hn::Mul(load(c_.u, i), upto), c_.u, i);
      store(hn::Mul(q, upto), c_.qg, i);
      store(through, c_.dz, i);
      through = hn::MulAdd(load(c_.k, i), load(c_.w, i), through);
    }
    FloatVec p[kRows], r[kRows];
    ascend<0>(p);
    descend<kRows - 1>(r, hn::Zero(FloatTag()));
  }

 private:
  template <int I>
  HWY_INLINE void ascend(FloatVec (&p)[kRows]) const {
    const FloatTag d;
    const FloatVec g = load(c_.g, I);
    FloatVec dq = load(c_.u, I);
    REFRAIN_UNROLL
    for (int j = 0; j < I; ++j) {
      p[j] = hn::Mul(p[j], g);
      hn::StoreU(p[j], d, pair(I, j));
      dq = hn::MulAdd(hn::Set(d, c_.da[I * kGlaChunk + j]), p[j], dq);
    }
    p[I] = load(c_.k, I);
    store(hn::MulAdd(hn::Set(d, c_.da[I * kGlaChunk + I]), p[I], dq), c_.dq, I);
    if constexpr (I + 1 < kRows) ascend<I + 1>(p);
  }

  // `later`: Σ_{l>I} q_l u_l.
  template <int I>
  HWY_INLINE void descend(FloatVec (&r)[kRows], FloatVec later) const {
    const FloatTag d;
    const FloatVec q = load(c_.q, I);
    later = hn::MulAdd(q, load(c_.u, I), later);
    FloatVec dlog = hn::Add(load(c_.dz, I), later);
    REFRAIN_UNROLL
    for (int j = 0; j <= I; ++j) {
      const FloatVec da = hn::Set(d, c_.da[I * kGlaChunk + j]);
      if constexpr (I + 1 < kRows)
        r[j] = hn::MulAdd(load(c_.g, I + 1), r[j], hn::Mul(da, q));
      else
        r[j] = hn::Mul(da, q);
      if (j < I) dlog = hn::MulAdd(r[j], hn::LoadU(d, pair(I, j)), dlog);
    }
    store(hn::Add(load(c_.w, I), r[I]), c_.dk, I);
    store(hn::Mul(dlog, load(c_.slope, I)), c_.dz, I);
    if constexpr (I > 0) descend<I - 1>(r, later);
  }

  HWY_INLINE FloatVec load(const float* rows, int i) const {
    return hn::LoadU(FloatTag(), rows + i * c_.kw + at_);
  }
  HWY_INLINE void store(FloatVec v, float* rows, int i) const {
    hn::StoreU(v, FloatTag(), rows + i * c_.kw + at_);
  }
  HWY_INLINE float* pair(int i, int j) const {
    return c_.pairs + (i * (i - 1) / 2 + j) * float_lanes();
  }

  const GlaChunk& c_;
  int64_t at_;
};

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
