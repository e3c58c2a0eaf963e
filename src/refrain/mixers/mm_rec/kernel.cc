#include "refrain/mixers/mm_rec/kernel.h"

#include <algorithm>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/skinny_matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/mixers/mm_rec/kernel.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/sequence/time_loop-inl.h"

#ifndef REFRAIN_KERNELS_MM_REC_ONCE
#define REFRAIN_KERNELS_MM_REC_ONCE
namespace refrain::kernels {

// One call, either way. `edge` is what a step hands to the next, of all places, before and after
// it: h going forward, the gates' gradients going backward. Two steps must not share one, since a
// step reads every unit's while others are being written.
struct MmRecRun {
  std::span<const ActiveSequence> places;  // longest first
  int64_t D;
  float mu;
  const float* b;
  const float* panels;  // w, packed for the way; null: linear
  MmRecRows rows;
  float* edge[2];
  int64_t edge_row;
  ConstTensor dh;
  MatrixView<float> dz;
  float* carry;  // [places, D]: what of dL/dh goes by the factor of h[t-1]
  ActivationPrecision precision = ActivationPrecision::kAccurate;
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Columns of a linear recurrence that one task carries through time.
constexpr int64_t kSlice = 128;

HWY_INLINE FloatVec clamped(FloatVec product, float mu) {
  return clamp(product, constant(kMmRecLeastDecay), constant(mm_rec_most_decay(mu)));
}

void decay_forward(float mu, ConstTensor s, Tensor decay) {
  const int64_t D = decay.cols();
  parallel_rows(decay.rows(), 2 * D, [&](int64_t row) HWY_ATTR {
    const float *s1 = s.row(row), *s2 = s1 + D;
    float* to = decay.row(row);
    each(D, [&](auto at, int64_t j) HWY_ATTR {
      at.store(clamped(hn::Mul(at.load(s1 + j), at.load(s2 + j)), mu), to + j);
    });
  });
}

void decay_backward(float mu, Tensor s, ConstTensor ddecay) {
  const int64_t D = ddecay.cols();
  parallel_rows(ddecay.rows(), 2 * D, [&](int64_t row) HWY_ATTR {
    float *s1 = s.row(row), *s2 = s1 + D;
    const float* d = ddecay.row(row);
    each(D, [&](auto at, int64_t j) HWY_ATTR {
      const auto a = at.load(s1 + j), b = at.load(s2 + j), product = hn::Mul(a, b);
      const auto free = hn::And(hn::Ge(product, constant(kMmRecLeastDecay)),
                                hn::Le(product, constant(mm_rec_most_decay(mu))));
      const auto slope = hn::IfThenElseZero(free, hn::Mul(at.load(d + j), product));
      at.store(hn::NegMulAdd(slope, a, slope), s1 + j);
      at.store(hn::NegMulAdd(slope, b, slope), s2 + j);
    });
  });
}

HWY_INLINE const float* before(const MmRecRun& run, const ActiveSequence& place, int64_t t) {
  return t > 0 ? run.rows.h.row(place.first + t - 1) : place.initial_state;
}

// What h[t-1] gives to the gates r and p by wᵀ; null: nothing.
struct GateProducts {
  const float *r = nullptr, *p = nullptr;
};

// One place's units u .. u + n at step t.
HWY_INLINE void forward_units(const MmRecRun& run, int64_t t, int64_t i, int64_t u, int64_t n,
                              GateProducts products) {
  const ActiveSequence& place = run.places[static_cast<size_t>(i)];
  const int64_t row = place.first + t, D = run.D;
  const float *b = run.b + u, *z = run.rows.z.row(row) + u, *decay = run.rows.decay.row(row) + u;
  const float* h_before = before(run, place, t) + u;
  float *gates = run.rows.gates.row(row) + u, *h = run.rows.h.row(row) + u;
  float* next = products.p ? run.edge[(t + 1) & 1] + i * run.edge_row + u : nullptr;
  const auto mu = constant(run.mu), one_mu = constant(1 + run.mu);
  const auto unit = [&](auto f, auto at, int64_t j) HWY_ATTR {
    auto of_r = at.load(b + j), of_p = at.load(b + D + j);
    if (products.p) {
      of_r = hn::Add(at.load(products.r + j), of_r);
      of_p = hn::Add(at.load(products.p + j), of_p);
    } else {
      of_p = hn::Add(at.load(gates + D + j), of_p);
    }
    const Logistic r = f.logistic(hn::Add(at.load(gates + j), of_r));
    const auto write = f.logistic(of_p).p;
    const auto factor = hn::MulAdd(at.load(decay + j), one_mu, hn::Mul(mu, r.q));
    const auto value = hn::MulAdd(factor, at.load(h_before + j),
                                  hn::Mul(at.load(z + j), hn::MulAdd(mu, r.p, write)));
    at.store(r.p, gates + j);
    at.store(write, gates + D + j);
    at.store(value, h + j);
    if (next) at.store(value, next + j);
  };
  with_precision(run.precision, [&](auto f) HWY_ATTR {
    each(n, [&](auto at, int64_t j) HWY_ATTR { unit(f, at, j); });
  });
}

// One row against a panel of each gate at a time: a single panel's two chains of additions would
// leave the multipliers waiting.
HWY_INLINE void two_panels(const float* HWY_RESTRICT a, const float* HWY_RESTRICT b0,
                           const float* HWY_RESTRICT b1, int64_t K, float* HWY_RESTRICT c) {
  const FloatTag d;
  const int64_t N = float_lanes();
  auto c00 = hn::Zero(d), c01 = c00, c10 = c00, c11 = c00;
  for (int64_t k = 0; k < K; ++k, b0 += kWeightPanel, b1 += kWeightPanel) {
    const auto ak = hn::Set(d, a[k]);
    c00 = hn::MulAdd(ak, hn::LoadU(d, b0), c00);
    c01 = hn::MulAdd(ak, hn::LoadU(d, b0 + N), c01);
    c10 = hn::MulAdd(ak, hn::LoadU(d, b1), c10);
    c11 = hn::MulAdd(ak, hn::LoadU(d, b1 + N), c11);
  }
  hn::StoreU(c00, d, c);
  hn::StoreU(c01, d, c + N);
  hn::StoreU(c10, d, c + 2 * N);
  hn::StoreU(c11, d, c + 3 * N);
}

void forward_steps(const MmRecRun& run) {
  const int64_t D = run.D, NR = tile_cols();
  time_loop(
      {.places = run.places, .gates = 2, .H = D, .forward = true},
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel) HWY_ATTR {
        const int64_t u = panel * NR, n = std::min(NR, D - u);
        const float* of_r = run.panels + u / kWeightPanel * D * kWeightPanel + u % kWeightPanel;
        const float* of_p = of_r + packed_size(D, D);
        each_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
          HWY_ALIGN float p[kTileRows * 2 * kMaxPanel];
          const float* from = run.edge[t & 1] + first * run.edge_row;
          if (count == 1) {
            two_panels(from, of_r, of_p, D, p);
          } else {
            const MatrixView<const float> edge(from, count, D, run.edge_row);
            tile_of<Rows::kApart>(edge, {of_r, D, NR, kWeightPanel}, {p, count, NR, 2 * NR}, false);
            tile_of<Rows::kApart>(edge, {of_p, D, NR, kWeightPanel}, {p + NR, count, NR, 2 * NR},
                                  false);
          }
          for (int64_t k = 0; k < count; ++k)
            forward_units(run, t, first + k, u, n, {p + k * 2 * NR, p + (k * 2 + 1) * NR});
        });
      });
}

// All units of the places that step t runs, of the products p [places, 2 D].
void finish_step(const MmRecRun& run, int64_t t, ConstTensor p) {
  constexpr int64_t kOperations = 64;  // of a unit's gate
  parallel_for(
      p.rows(),
      [&](int64_t i) HWY_ATTR {
        forward_units(run, t, i, 0, run.D, {p.row(i), p.row(i) + run.D});
      },
      kOperations * p.size());
}

// f(place, first column, columns) for slices of the places: of a linear recurrence nothing goes
// from one column to another.
template <class F>
void each_slice(const MmRecRun& run, F&& f) {
  const int64_t slices = (run.D + kSlice - 1) / kSlice;
  int64_t rows = 0;
  for (const ActiveSequence& place : run.places) rows += place.length;
  parallel_for(
      static_cast<int64_t>(run.places.size()) * slices,
      [&](int64_t task) {
        const int64_t u = task % slices * kSlice;
        f(task / slices, u, std::min(kSlice, run.D - u));
      },
      64 * rows * run.D);
}

void forward_loop(const MmRecRun& run) {
  if (run.panels) return forward_steps(run);
  each_slice(run, [&](int64_t i, int64_t u, int64_t n) HWY_ATTR {
    for (int64_t t = 0; t < run.places[static_cast<size_t>(i)].length; ++t)
      forward_units(run, t, i, u, n, {});
  });
}

// One place's units u .. u + n at step t. later: dL/dh by the gates of the step after; null:
// nothing.
HWY_INLINE void backward_units(const MmRecRun& run, int64_t t, int64_t i, int64_t u, int64_t n,
                               const float* later) {
  const ActiveSequence& place = run.places[static_cast<size_t>(i)];
  const int64_t row = place.first + t, D = run.D;
  const float *dh_read = run.dh.row(row) + u, *z = run.rows.z.row(row) + u;
  const float* h_before = before(run, place, t) + u;
  float *gates = run.rows.gates.row(row) + u, *decay = run.rows.decay.row(row) + u;
  float *dz = run.dz.row(row) + u, *carry = run.carry + i * D + u;
  float* edge = run.panels ? run.edge[t & 1] + i * run.edge_row + u : nullptr;
  const auto mu = constant(run.mu), one_mu = constant(1 + run.mu);
  each(n, [&](auto at, int64_t j) HWY_ATTR {
    auto dh = hn::Add(at.load(dh_read + j), at.load(carry + j));
    if (later) dh = hn::Add(dh, at.load(later + j));
    const auto r = at.load(gates + j), write = at.load(gates + D + j);
    const auto past = at.load(h_before + j), in = at.load(z + j);
    const auto factor = hn::MulAdd(at.load(decay + j), one_mu, hn::NegMulAdd(mu, r, mu));
    // σ' = σ (1 - σ)
    const auto dr = hn::Mul(hn::Mul(hn::Mul(mu, dh), hn::Sub(in, past)), hn::NegMulAdd(r, r, r));
    const auto dp = hn::Mul(hn::Mul(dh, in), hn::NegMulAdd(write, write, write));
    at.store(hn::Mul(dh, hn::MulAdd(mu, r, write)), dz + j);
    at.store(hn::Mul(hn::Mul(one_mu, dh), past), decay + j);
    at.store(hn::Mul(dh, factor), carry + j);
    at.store(dr, gates + j);
    at.store(dp, gates + D + j);
    if (!edge) return;
    at.store(dr, edge + j);
    at.store(dp, edge + D + j);
  });
}

// What a chunk starts with at its last step, and what is left of it before its first.
HWY_INLINE void begin_units(const MmRecRun& run, int64_t i, int64_t u, int64_t n) {
  const float* dstate = run.places[static_cast<size_t>(i)].dstate;
  float* carry = run.carry + i * run.D + u;
  if (dstate)
    std::copy_n(dstate + u, n, carry);
  else
    std::fill_n(carry, n, 0.0f);
}
HWY_INLINE void end_units(const MmRecRun& run, int64_t i, int64_t u, int64_t n,
                          const float* later) {
  float* dstate = run.places[static_cast<size_t>(i)].dstate + u;
  const float* carry = run.carry + i * run.D + u;
  for (int64_t j = 0; j < n; ++j) dstate[j] = later ? later[j] + carry[j] : carry[j];
}

// dL/dh[t] by the gates of the step after is dgates[t+1] w. With dstate there is a step -1, which
// only takes it.
void backward_steps(const MmRecRun& run) {
  const int64_t D = run.D, NR = tile_cols(), last = run.places[0].dstate ? -1 : 0;
  time_loop(
      {.places = run.places, .gates = 2, .H = D, .forward = false, .last = last},
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel) HWY_ATTR {
        const int64_t u = panel * NR, n = std::min(NR, D - u);
        const float* columns =
            run.panels + u / kWeightPanel * 2 * D * kWeightPanel + u % kWeightPanel;
        each_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
          HWY_ALIGN float later[kTileRows * kMaxPanel];
          int64_t running = 0;  // since the step after
          while (running < count && run.places[static_cast<size_t>(first + running)].length > t + 1)
            ++running;
          if (running > 0)
            tile_of<Rows::kApart>(
                {run.edge[(t + 1) & 1] + first * run.edge_row, running, 2 * D, run.edge_row},
                {columns, 2 * D, NR, kWeightPanel}, {later, running, NR}, false);
          for (int64_t k = 0; k < count; ++k) {
            const float* from_later = k < running ? later + k * NR : nullptr;
            if (k >= running) begin_units(run, first + k, u, n);
            if (t < 0)
              end_units(run, first + k, u, n, from_later);
            else
              backward_units(run, t, first + k, u, n, from_later);
          }
        });
      });
}

void backward_loop(const MmRecRun& run) {
  if (run.panels) return backward_steps(run);
  each_slice(run, [&](int64_t i, int64_t u, int64_t n) HWY_ATTR {
    const ActiveSequence& place = run.places[static_cast<size_t>(i)];
    begin_units(run, i, u, n);
    for (int64_t t = place.length - 1; t >= 0; --t) backward_units(run, t, i, u, n, nullptr);
    if (place.dstate) end_units(run, i, u, n, nullptr);
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(decay_forward);
HWY_EXPORT(decay_backward);
HWY_EXPORT(forward_loop);
HWY_EXPORT(finish_step);
HWY_EXPORT(backward_loop);

void mm_rec_decay_forward(float mu, ConstTensor s, Tensor decay) {
  REFRAIN_CHECK(s.size() == 2 * decay.size());
  HWY_DYNAMIC_DISPATCH(decay_forward)(mu, s, decay);
}
void mm_rec_decay_backward(float mu, Tensor s, ConstTensor ddecay) {
  REFRAIN_CHECK(s.size() == 2 * ddecay.size());
  HWY_DYNAMIC_DISPATCH(decay_backward)(mu, s, ddecay);
}

void mm_rec_forward(const MmRecCell& cell, std::span<const RecurrentChunk> chunks,
                    const MmRecRows& rows, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t D = rows.h.cols();
  const bool full = cell.w.rank > 0;
  REFRAIN_CHECK(rows.gates.cols() == 2 * D && cell.b.size() == 2 * D);
  const std::vector<ActiveSequence> places = in_order(chunks, {});
  const auto B = static_cast<int64_t>(places.size());
  // Each gate's panels by themselves. Where gates end with a panel, that is w's packed form.
  const float* packed = full && D % kWeightPanel == 0 ? cell.packed.floats() : nullptr;
  const bool is_stored = full && cell.packed.type != Storage::kFloat32;  // a product a step
  Tensor panels, edges[2];
  if (full && !packed && !is_stored) panels = scratch.take({2, packed_size(D, D)});
  for (Tensor& edge : edges)
    if (full) edge = scratch.take({B, apart(D)});
  const Tensor products = scratch.take({is_stored ? B : 0, 2 * D});
  const MmRecRun run{.places = places,
                     .D = D,
                     .mu = cell.mu,
                     .b = cell.b.data,
                     .panels = panels ? panels.data : packed,
                     .rows = rows,
                     .edge = {edges[0].data, edges[1].data},
                     .edge_row = apart(D),
                     .dh = {},
                     .dz = {},
                     .carry = nullptr,
                     .precision = cell.precision};
  const auto step_by_step = [&] {
    time_loop_of_products(places, {{edges[0].data, edges[1].data}, apart(D), D}, cell.packed,
                          products, scratch, [&](int64_t t, ConstTensor p) {
                            HWY_DYNAMIC_DISPATCH(finish_step)(run, t, p);
                          });
  };
  if (scratch.planning() && is_stored) return step_by_step();
  if (scratch.planning() || B == 0) return;
  for (int64_t g = 0; g < 2 && panels; ++g) pack_weight(cell.w.slice(g * D, D), panels.row(g));
  for (int64_t i = 0; i < B && full; ++i)
    std::copy_n(places[static_cast<size_t>(i)].initial_state, D, edges[0].row(i));
  if (is_stored) return step_by_step();
  HWY_DYNAMIC_DISPATCH(forward_loop)(run);
}

void mm_rec_backward(const MmRecCell& cell, std::span<const RecurrentChunk> chunks,
                     const MmRecRows& rows, const MmRecGradients& gradients, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t D = rows.h.cols();
  const bool full = cell.w.rank > 0;
  REFRAIN_CHECK(gradients.dstate.empty() || gradients.dstate.size() == chunks.size());
  const std::vector<ActiveSequence> places = in_order(chunks, gradients.dstate);
  const auto B = static_cast<int64_t>(places.size());
  Tensor panels, edges[2];
  if (full) panels = scratch.take({packed_size(D, 2 * D)});
  for (Tensor& edge : edges)
    if (full) edge = scratch.take({B, apart(2 * D)});
  const Tensor carry = scratch.take({B, D});
  if (scratch.planning() || B == 0) return;
  if (full) pack_columns(cell.w, panels.data);
  HWY_DYNAMIC_DISPATCH(backward_loop)
  ({.places = places,
    .D = D,
    .mu = cell.mu,
    .b = cell.b.data,
    .panels = panels.data,
    .rows = rows,
    .edge = {edges[0].data, edges[1].data},
    .edge_row = apart(2 * D),
    .dh = gradients.dh,
    .dz = gradients.dz,
    .carry = carry.data});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
