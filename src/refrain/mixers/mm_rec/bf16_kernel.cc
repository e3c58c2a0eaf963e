#include "refrain/mixers/mm_rec/bf16_kernel.h"

#include <algorithm>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/mm_rec/bf16_kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/sequence/time_loop-inl.h"

#ifndef REFRAIN_KERNELS_MM_REC_BF16_KERNEL_ONCE
#define REFRAIN_KERNELS_MM_REC_BF16_KERNEL_ONCE
namespace refrain::kernels {

// As MmRecRun in kernel.cc.
struct MmRecBf16Run {
  std::span<const ActiveSequence> places;
  int64_t D;
  float mu;
  const float* b;
  ConstTensor w;     // [2D, D]
  float* panels[2];  // of r's and of p's half of w
  MmRecBf16Rows rows;
  ConstTensor a_r;
  float* edge[2];
  int64_t edge_row;
  ConstTensor dh;
  MatrixView<float> dz;
  float* carry;
  ActivationPrecision precision = ActivationPrecision::kAccurate;
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

using BitsTag = hn::RebindToUnsigned<FloatTag>;

HWY_INLINE void store_rounded(auto at, FloatVec v, BFloat16* to) {
  at.store(rounded_to_bf16(v), to);
}

// A panel of two vectors of columns: for every k a vector of pairs, of column j in the lower half
// and of column j + N in the upper one, N being the lanes of a vector. b [K, n].
void pack_pairs_panel(MatrixView<const float> b, float* to) {
  constexpr int64_t kRows = 64;
  const FloatTag d;
  const BitsTag bits;
  const int64_t N = float_lanes(), NR = tile_cols();
  HWY_ALIGN float rows[kRows * kMaxPanel];
  for (int64_t first = 0; first < b.rows; first += kRows) {
    const int64_t n = std::min(kRows, b.rows - first);
    pack_panel(b.row_range(first, n), rows, NR);
    for (int64_t k = 0; k < n; ++k, to += N) {
      const auto low = hn::BitCast(bits, rounded_to_bf16(hn::LoadU(d, rows + k * NR)));
      const auto high = hn::BitCast(bits, rounded_to_bf16(hn::LoadU(d, rows + k * NR + N)));
      hn::StoreU(hn::BitCast(d, hn::Or(hn::ShiftRight<16>(low), high)), d, to);
    }
  }
}

// All panels of b [K, n], and where panel `i` begins.
int64_t panel_size(int64_t K) { return K * float_lanes(); }
void pack_all(MatrixView<const float> b, float* to) {
  const int64_t NR = tile_cols(), panels = (b.cols + NR - 1) / NR;
  parallel_for(
      panels,
      [&](int64_t i) HWY_ATTR {
        const int64_t u = i * NR;
        pack_pairs_panel(b.col_range(u, std::min(NR, b.cols - u)), to + i * panel_size(b.rows));
      },
      kPackingCost * b.rows * b.cols);
}

struct Pair {
  FloatVec low, high;
};
HWY_INLINE Pair pair_at(const float* from) {
  const FloatTag d;
  const BitsTag bits;
  const auto v = hn::BitCast(bits, hn::LoadU(d, from));
  return {hn::BitCast(d, hn::ShiftLeft<16>(v)),
          hn::BitCast(d, hn::And(v, hn::Set(bits, 0xffff0000u)))};
}

// c [MR, 2 panels] = a [MR, K] of each panel: a's row m is at a0 + m row for the first and at a1 +
// m row for the second. What each gives is NR floats, the second's behind the first's.
struct TwoPanels {
  const float *a0, *a1;
  int64_t row;
  const float *b0, *b1;
  int64_t K;
};
template <int MR>
HWY_NOINLINE void two_panels(const TwoPanels& x, float* HWY_RESTRICT c) {
  const FloatTag d;
  const int64_t N = float_lanes();
  FloatVec acc[MR][4];
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) acc[m][0] = acc[m][1] = acc[m][2] = acc[m][3] = hn::Zero(d);
  const float *HWY_RESTRICT b0 = x.b0, *HWY_RESTRICT b1 = x.b1;
  for (int64_t k = 0; k < x.K; ++k, b0 += N, b1 += N) {
    const Pair p0 = pair_at(b0), p1 = pair_at(b1);
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      const auto a0 = hn::Set(d, x.a0[m * x.row + k]), a1 = hn::Set(d, x.a1[m * x.row + k]);
      acc[m][0] = hn::MulAdd(a0, p0.low, acc[m][0]);
      acc[m][1] = hn::MulAdd(a0, p0.high, acc[m][1]);
      acc[m][2] = hn::MulAdd(a1, p1.low, acc[m][2]);
      acc[m][3] = hn::MulAdd(a1, p1.high, acc[m][3]);
    }
  }
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    REFRAIN_UNROLL
    for (int v = 0; v < 4; ++v) hn::StoreU(acc[m][v], d, c + (m * 4 + v) * N);
  }
}

// Rows of a tile of four vectors; the registers also hold two pairs and their halves.
constexpr int kPairRows = HWY_TARGET <= HWY_AVX3 ? 6 : 2;
template <int MR = kPairRows>
HWY_INLINE void two_panels_of(int64_t rows, const TwoPanels& x, float* c) {
  if (rows == MR) return two_panels<MR>(x, c);
  if constexpr (MR > 1) two_panels_of<MR - 1>(rows, x, c);
}
// f(first, count) for the tiles of the places i0 .. i1.
template <class F>
HWY_INLINE void each_pair_tile(int64_t i0, int64_t i1, F&& f) {
  for (; i0 < i1; i0 += kPairRows) f(i0, std::min<int64_t>(kPairRows, i1 - i0));
}

// One place's units u .. u + n at step t; `products`: what h[t-1] gives to r, and NR behind it to
// p.
HWY_INLINE void forward_units(const MmRecBf16Run& run, int64_t t, int64_t i, int64_t u, int64_t n,
                              const float* products) {
  const ActiveSequence& place = run.places[static_cast<size_t>(i)];
  const int64_t row = place.first + t, NR = tile_cols(), D = run.D;
  const float *b = run.b + u, *a_r = run.a_r.row(row) + u;
  const BFloat16* z = run.rows.z.row(row) + u;
  const float* h_before = (t > 0 ? run.rows.decay.row(row - 1) : place.initial_state) + u;
  BFloat16 *r_row = run.rows.r.row(row) + u, *p_row = run.rows.p.row(row) + u;
  float *h = run.rows.decay.row(row) + u, *next = run.edge[(t + 1) & 1] + i * run.edge_row + u;
  const auto mu = constant(run.mu), one_mu = constant(1 + run.mu);
  const auto unit = [&](auto f, auto at, int64_t j) HWY_ATTR {
    const auto of_r = hn::Add(at.load(products + j), at.load(b + j));
    const Logistic r = f.logistic(hn::Add(at.load(a_r + j), of_r));
    const auto write = f.logistic(hn::Add(at.load(products + NR + j), at.load(b + D + j))).p;
    const auto factor = hn::MulAdd(at.load(h + j), one_mu, hn::Mul(mu, r.q));
    const auto value = hn::MulAdd(factor, at.load(h_before + j),
                                  hn::Mul(at.load(z + j), hn::MulAdd(mu, r.p, write)));
    store_rounded(at, r.p, r_row + j);
    store_rounded(at, write, p_row + j);
    at.store(value, h + j);
    at.store(value, next + j);
  };
  with_precision(run.precision, [&](auto f) HWY_ATTR {
    each(n, [&](auto at, int64_t j) HWY_ATTR { unit(f, at, j); });
  });
}

void forward_loop(const MmRecBf16Run& run) {
  const int64_t D = run.D, NR = tile_cols();
  for (int64_t g = 0; g < 2; ++g)
    pack_all(MatrixView<const float>(run.w.slice(g * D, D)).transposed(), run.panels[g]);
  time_loop({.places = run.places, .gates = 2, .H = D, .forward = true, .weight_bytes = 2},
            [&](int64_t t, int64_t i0, int64_t i1, int64_t panel) HWY_ATTR {
              const int64_t u = panel * NR, n = std::min(NR, D - u), at = panel * panel_size(D);
              each_pair_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
                HWY_ALIGN float products[kPairRows * 2 * kMaxPanel];
                const float* from = run.edge[t & 1] + first * run.edge_row;
                two_panels_of(count,
                              {from, from, run.edge_row, run.panels[0] + at, run.panels[1] + at, D},
                              products);
                for (int64_t k = 0; k < count; ++k)
                  forward_units(run, t, first + k, u, n, products + k * 2 * NR);
              });
            });
}

// One place's units u .. u + n at step t. later: dL/dh by the gates of the step after, from r and
// NR behind it from p; null: nothing.
HWY_INLINE void backward_units(const MmRecBf16Run& run, int64_t t, int64_t i, int64_t u, int64_t n,
                               const float* later) {
  const ActiveSequence& place = run.places[static_cast<size_t>(i)];
  const int64_t row = place.first + t, NR = tile_cols(), D = run.D;
  const float* dh_read = run.dh.row(row) + u;
  const BFloat16* z = run.rows.z.row(row) + u;
  BFloat16 *r_row = run.rows.r.row(row) + u, *p_row = run.rows.p.row(row) + u;
  float *decay = run.rows.decay.row(row) + u, *dz = run.dz.row(row) + u;
  float *carry = run.carry + i * D + u, *edge = run.edge[t & 1] + i * run.edge_row + u;
  const auto mu = constant(run.mu), one_mu = constant(1 + run.mu);
  const auto units = [&](const auto* h_before) HWY_ATTR {
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      auto dh = hn::Add(at.load(dh_read + j), at.load(carry + j));
      if (later) dh = hn::Add(dh, hn::Add(at.load(later + j), at.load(later + NR + j)));
      const auto r = at.load(r_row + j), write = at.load(p_row + j);
      const auto past = at.load(h_before + j), in = at.load(z + j);
      const auto factor = hn::MulAdd(at.load(decay + j), one_mu, hn::NegMulAdd(mu, r, mu));
      const auto dr = hn::Mul(hn::Mul(hn::Mul(mu, dh), hn::Sub(in, past)), hn::NegMulAdd(r, r, r));
      const auto dp = hn::Mul(hn::Mul(dh, in), hn::NegMulAdd(write, write, write));
      at.store(hn::Mul(dh, hn::MulAdd(mu, r, write)), dz + j);
      at.store(hn::Mul(hn::Mul(one_mu, dh), past), decay + j);
      at.store(hn::Mul(dh, factor), carry + j);
      store_rounded(at, dr, r_row + j);
      store_rounded(at, dp, p_row + j);
      at.store(dr, edge + j);
      at.store(dp, edge + D + j);
    });
  };
  if (t > 0)
    units(run.rows.h.row(row - 1) + u);
  else
    units(place.initial_state + u);
}

HWY_INLINE void begin_units(const MmRecBf16Run& run, int64_t i, int64_t u, int64_t n) {
  const float* dstate = run.places[static_cast<size_t>(i)].dstate;
  float* carry = run.carry + i * run.D + u;
  if (dstate)
    std::copy_n(dstate + u, n, carry);
  else
    std::fill_n(carry, n, 0.0f);
}
HWY_INLINE void end_units(const MmRecBf16Run& run, int64_t i, int64_t u, int64_t n,
                          const float* later) {
  float* dstate = run.places[static_cast<size_t>(i)].dstate + u;
  const float* carry = run.carry + i * run.D + u;
  const int64_t NR = tile_cols();
  for (int64_t j = 0; j < n; ++j)
    dstate[j] = later ? later[j] + later[NR + j] + carry[j] : carry[j];
}

void backward_loop(const MmRecBf16Run& run) {
  const int64_t D = run.D, NR = tile_cols(), last = run.places[0].dstate ? -1 : 0;
  for (int64_t g = 0; g < 2; ++g) pack_all(run.w.slice(g * D, D), run.panels[g]);
  time_loop(
      {.places = run.places, .gates = 2, .H = D, .forward = false, .last = last, .weight_bytes = 2},
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel) HWY_ATTR {
        const int64_t u = panel * NR, n = std::min(NR, D - u), at = panel * panel_size(D);
        each_pair_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
          HWY_ALIGN float later[kPairRows * 2 * kMaxPanel];
          int64_t running = 0;  // since the step after
          while (running < count && run.places[static_cast<size_t>(first + running)].length > t + 1)
            ++running;
          const float* from = run.edge[(t + 1) & 1] + first * run.edge_row;
          if (running > 0)
            two_panels_of(running,
                          {from, from + D, run.edge_row, run.panels[0] + at, run.panels[1] + at, D},
                          later);
          for (int64_t k = 0; k < count; ++k) {
            const float* from_later = k < running ? later + k * 2 * NR : nullptr;
            if (k >= running) begin_units(run, first + k, u, n);
            if (t < 0)
              end_units(run, first + k, u, n, from_later);
            else
              backward_units(run, t, first + k, u, n, from_later);
          }
        });
      });
}

HWY_INLINE FloatVec clamped(FloatVec product, float mu) {
  return clamp(product, constant(kMmRecLeastDecay), constant(mm_rec_most_decay(mu)));
}

void decay_product(float mu, ConstTensor s1, ConstTensor s2, Tensor decay) {
  parallel_ranges(decay.size(), kTaskElements, [&](int64_t begin, int64_t end) HWY_ATTR {
    each(end - begin, [&](auto at, int64_t j) HWY_ATTR {
      const auto product = hn::Mul(at.load(s1.data + begin + j), at.load(s2.data + begin + j));
      at.store(clamped(product, mu), decay.data + begin + j);
    });
  });
}

void decay_product_backward(float mu, Tensor s1, Tensor s2, ConstTensor ddecay) {
  parallel_ranges(ddecay.size(), kTaskElements, [&](int64_t begin, int64_t end) HWY_ATTR {
    each(end - begin, [&](auto at, int64_t j) HWY_ATTR {
      const auto a = at.load(s1.data + begin + j), b = at.load(s2.data + begin + j);
      const auto product = hn::Mul(a, b);
      const auto free = hn::And(hn::Ge(product, constant(kMmRecLeastDecay)),
                                hn::Le(product, constant(mm_rec_most_decay(mu))));
      const auto slope =
          hn::IfThenElseZero(free, hn::Mul(at.load(ddecay.data + begin + j), product));
      at.store(hn::NegMulAdd(slope, a, slope), s1.data + begin + j);
      at.store(hn::NegMulAdd(slope, b, slope), s2.data + begin + j);
    });
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(forward_loop);
HWY_EXPORT(backward_loop);
HWY_EXPORT(decay_product);
HWY_EXPORT(decay_product_backward);
namespace {

// Of one half of w, of any target.
int64_t pairs_size(int64_t D) { return packed_size(D, D) / 2; }

}  // namespace

void mm_rec_decay_forward(float mu, ConstTensor s1, ConstTensor s2, Tensor decay) {
  REFRAIN_CHECK(s1.size() == decay.size() && s2.size() == decay.size());
  HWY_DYNAMIC_DISPATCH(decay_product)(mu, s1, s2, decay);
}
void mm_rec_decay_backward(float mu, Tensor s1, Tensor s2, ConstTensor ddecay) {
  REFRAIN_CHECK(s1.size() == ddecay.size() && s2.size() == ddecay.size());
  HWY_DYNAMIC_DISPATCH(decay_product_backward)(mu, s1, s2, ddecay);
}

void mm_rec_forward_bf16(const MmRecCell& cell, std::span<const RecurrentChunk> chunks,
                         const MmRecBf16Rows& rows, ConstTensor a_r, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t D = rows.decay.cols();
  const std::vector<ActiveSequence> places = in_order(chunks, {});
  const auto B = static_cast<int64_t>(places.size());
  const Tensor panels = scratch.take({2, pairs_size(D)});
  const Tensor edges[2] = {scratch.take({B, apart(D)}), scratch.take({B, apart(D)})};
  if (scratch.planning() || B == 0) return;
  for (int64_t i = 0; i < B; ++i)
    std::copy_n(places[static_cast<size_t>(i)].initial_state, D, edges[0].row(i));
  HWY_DYNAMIC_DISPATCH(forward_loop)
  ({.places = places,
    .D = D,
    .mu = cell.mu,
    .b = cell.b.data,
    .w = cell.w,
    .panels = {panels.row(0), panels.row(1)},
    .rows = rows,
    .a_r = a_r,
    .edge = {edges[0].data, edges[1].data},
    .edge_row = apart(D),
    .dh = {},
    .dz = {},
    .carry = nullptr,
    .precision = cell.precision});
}

void mm_rec_backward_bf16(const MmRecCell& cell, std::span<const RecurrentChunk> chunks,
                          const MmRecBf16Rows& rows, const MmRecGradients& gradients,
                          Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t D = rows.decay.cols();
  REFRAIN_CHECK(gradients.dstate.empty() || gradients.dstate.size() == chunks.size());
  const std::vector<ActiveSequence> places = in_order(chunks, gradients.dstate);
  const auto B = static_cast<int64_t>(places.size());
  const Tensor panels = scratch.take({2, pairs_size(D)});
  const Tensor edges[2] = {scratch.take({B, apart(2 * D)}), scratch.take({B, apart(2 * D)})};
  const Tensor carry = scratch.take({B, D});
  if (scratch.planning() || B == 0) return;
  HWY_DYNAMIC_DISPATCH(backward_loop)
  ({.places = places,
    .D = D,
    .mu = cell.mu,
    .b = cell.b.data,
    .w = cell.w,
    .panels = {panels.row(0), panels.row(1)},
    .rows = rows,
    .a_r = {},
    .edge = {edges[0].data, edges[1].data},
    .edge_row = apart(2 * D),
    .dh = gradients.dh,
    .dz = gradients.dz,
    .carry = carry.data});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
