#include "refrain/kernels/sequence/recurrent.h"

#include <algorithm>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/skinny_matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/sequence/recurrent.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/sequence/recurrent_rounded-inl.h"
#include "refrain/kernels/sequence/time_loop-inl.h"

#ifndef REFRAIN_KERNELS_RECURRENT_ONCE
#define REFRAIN_KERNELS_RECURRENT_ONCE
namespace refrain::kernels {

// One call, either way. `edge` is what a step hands to the next, of all places, before and after
// it: h going forward, dp going backward. Two steps must not share one, since a step reads every
// unit's while others are being written.
struct RecurrentRun {
  std::span<const ActiveSequence> places;  // longest first
  int64_t H;
  const float* panels;  // w_hh, packed for the way
  RecurrentRows rows;
  const float* b_hh;
  float* edge[2];
  int64_t edge_row;
  ConstTensor dh;
  Tensor dp;
  float* carry;            // [places, H]: lstm: dL/dc, gru: z ⊙ dL/dh
  RoundedToInt16 int16{};  // in place of `panels`, or
  RoundedToBf16 bf16{};
  ActivationPrecision precision = ActivationPrecision::kAccurate;
  int64_t weight_bytes() const { return int16 || bf16 ? 2 : sizeof(float); }
};

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// One place's units u .. u + n at step t, of a panel of so many.
struct PlaceUnits {
  int64_t t, i, u, n, panel;
};
// Units of a panel.
int64_t panel_of(const RecurrentRun& run) { return run.bf16 ? kBf16Block : tile_cols(); }

// p: the product, a gate's units after another's, a panel apart.
template <Cell kCell, class F>
HWY_INLINE void forward_units(F f, const RecurrentRun& run, PlaceUnits units, const float* p) {
  const auto [t, i, u, n, NR] = units;
  const ActiveSequence& place = run.places[static_cast<size_t>(i)];
  const int64_t H = run.H, row = place.first + t;
  const float* b = run.b_hh + u;
  float *gates = run.rows.gates.row(row) + u, *h = run.rows.h.row(row) + u;
  float* next = run.edge[(t + 1) & 1] + i * run.edge_row + u;
  const auto done = [&](auto at, int64_t j, FloatVec value) HWY_ATTR {
    at.store(value, h + j);
    at.store(value, next + j);
  };
  const auto from_past = [&](auto at, int64_t g, int64_t j) HWY_ATTR {
    return hn::Add(at.load(p + g * NR + j), at.load(b + g * H + j));
  };
  const auto sum = [&](auto at, int64_t g, int64_t j) HWY_ATTR {
    return hn::Add(at.load(gates + g * H + j), from_past(at, g, j));
  };
  if constexpr (kCell == Cell::kRnn) {
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      const auto value = f.tanh(sum(at, 0, j));
      at.store(value, gates + j);
      done(at, j, value);
    });
  } else if constexpr (kCell == Cell::kLstm) {
    float* c = run.rows.extra.row(row) + u;
    const float* c_before = t > 0 ? c - H : place.initial_state + H + u;
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      const auto in = f.logistic(sum(at, 0, j)).p, forget = f.logistic(sum(at, 1, j)).p;
      const auto g = f.tanh(sum(at, 2, j)), out = f.logistic(sum(at, 3, j)).p;
      const auto c_now = hn::MulAdd(forget, at.load(c_before + j), hn::Mul(in, g));
      at.store(in, gates + j);
      at.store(forget, gates + H + j);
      at.store(g, gates + 2 * H + j);
      at.store(out, gates + 3 * H + j);
      at.store(c_now, c + j);
      done(at, j, hn::Mul(out, f.tanh(c_now)));
    });
  } else {
    float* p_n = run.rows.extra.row(row) + u;
    const float* h_before = run.edge[t & 1] + i * run.edge_row + u;
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      const auto r = f.logistic(sum(at, 0, j)).p, z = f.logistic(sum(at, 1, j)).p;
      const auto past = from_past(at, 2, j);
      const auto new_h = f.tanh(hn::MulAdd(r, past, at.load(gates + 2 * H + j)));
      at.store(r, gates + j);
      at.store(z, gates + H + j);
      at.store(new_h, gates + 2 * H + j);
      at.store(past, p_n + j);
      done(at, j, hn::MulAdd(z, hn::Sub(at.load(h_before + j), new_h), new_h));
    });
  }
}

// Rounds what step t finds of the places i0 .. i1, of which `n` have it, for a worker.
void round_found(const RecurrentRun& run, int64_t t, Places places, int64_t n, int worker) {
  const RecurrentEdge edge{run.edge[t & 1], run.edge_row};
  if (run.int16) round_edge(run.int16, edge, places, n, worker);
  if (run.bf16) round_edge(run.bf16, edge, places, n, worker);
}

template <Cell kCell>
void forward_steps(const RecurrentRun& run) {
  constexpr int64_t G = gates_of(kCell);
  const int64_t H = run.H, NR = panel_of(run), panels = blocks_of(H, NR);
  for (int64_t g = 0; run.int16 && g < G; ++g)
    pack_int16_units(run.int16, run.int16.w_hh.slice(g * H, H), g * panels);
  for (int64_t g = 0; run.bf16 && g < G; ++g)
    pack_bf16_units(run.bf16, run.bf16.w_hh.slice(g * H, H), g * panels);
  time_loop(
      {run.places, G, H, true, 0, run.weight_bytes(), NR},
      [&](int64_t t, int64_t i0, int64_t i1, int worker) {
        round_found(run, t, {i0, i1}, i1 - i0, worker);
      },
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel, int worker) HWY_ATTR {
        const int64_t u = panel * NR, n = std::min(NR, H - u);
        const auto finish = [&](int64_t first, int64_t count, const float* p) HWY_ATTR {
          with_precision(run.precision, [&](auto f) HWY_ATTR {
            for (int64_t k = 0; k < count; ++k)
              forward_units<kCell>(f, run, {t, first + k, u, n, NR}, p + k * G * NR);
          });
        };
        if (run.bf16)
          return each_bf16_block({i0, i1},
                                 [&](int64_t first, int64_t count, int64_t block) HWY_ATTR {
                                   HWY_ALIGN float p[kBf16Block * G * kBf16Block];
                                   for (int64_t g = 0; g < G; ++g)
                                     bf16_step(run.bf16, run.bf16.edge_block(worker, block),
                                               g * panels + panel, count, p + g * NR, G * NR);
                                   finish(first, count, p);
                                 });
        const bool int16{run.int16};
        const float* units =
            int16 ? nullptr : run.panels + u / kWeightPanel * H * kWeightPanel + u % kWeightPanel;
        int64_t tile = 0;
        each_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
          HWY_ALIGN float p[kTileRows * G * kMaxPanel];
          for (int64_t g = 0; int16 && g < G; ++g)
            int16_step(run.int16, tile, first - i0, g * panels + panel,
                       {p + g * NR, count, NR, G * NR}, worker);
          ++tile;
          for (int64_t g = 0; !int16 && g < G; ++g)
            tile_of<Rows::kApart>({run.edge[t & 1] + first * run.edge_row, count, H, run.edge_row},
                                  {units + g * packed_size(H, H), H, NR, kWeightPanel},
                                  {p + g * NR, count, NR, G * NR}, false);
          finish(first, count, p);
        });
      });
}

// All units of the places that step t runs, of the products p [places, G H].
template <Cell kCell>
void forward_places(const RecurrentRun& run, int64_t t, ConstTensor p) {
  constexpr int64_t kOperations = 64;  // of a unit's gate
  parallel_for(
      p.rows(),
      [&](int64_t i) {
        with_precision(run.precision, [&](auto f) HWY_ATTR {
          forward_units<kCell>(f, run, {t, i, 0, run.H, run.H}, p.row(i));
        });
      },
      kOperations * p.size());
}

// later: dL/dh by the step after, but for the part of a gru's that `carry` has.
template <Cell kCell, class F>
HWY_INLINE void backward_units(F f, const RecurrentRun& run, PlaceUnits units, const float* later) {
  const auto [t, i, u, n, panel] = units;
  const ActiveSequence& place = run.places[static_cast<size_t>(i)];
  const int64_t H = run.H, row = place.first + t;
  const float* dh_read = run.dh.row(row) + u;
  float *gates = run.rows.gates.row(row) + u, *carry = run.carry + i * H + u;
  float* edge = run.edge[t & 1] + i * run.edge_row + u;
  const auto put = [&](auto at, int64_t g, int64_t j, FloatVec value) HWY_ATTR {
    at.store(value, gates + g * H + j);
    at.store(value, edge + g * H + j);
  };
  if constexpr (kCell == Cell::kRnn) {
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      const auto dh = hn::Add(at.load(dh_read + j), at.load(later + j));
      const auto h = at.load(gates + j);
      put(at, 0, j, hn::Mul(dh, f.tanh_slope_at(h)));
    });
  } else if constexpr (kCell == Cell::kLstm) {
    const float* c = run.rows.extra.row(row) + u;
    const float* c_before = t > 0 ? c - H : place.initial_state + H + u;
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      const auto dh = hn::Add(at.load(dh_read + j), at.load(later + j));
      const auto in = at.load(gates + j), forget = at.load(gates + H + j);
      const auto g = at.load(gates + 2 * H + j), out = at.load(gates + 3 * H + j);
      const auto tanh_c = f.tanh(at.load(c + j));
      const auto dc = hn::MulAdd(hn::Mul(dh, out), f.tanh_slope_at(tanh_c), at.load(carry + j));
      // σ' = σ (1 - σ)
      put(at, 0, j, hn::Mul(hn::Mul(dc, g), hn::NegMulAdd(in, in, in)));
      put(at, 1, j,
          hn::Mul(hn::Mul(dc, at.load(c_before + j)), hn::NegMulAdd(forget, forget, forget)));
      put(at, 2, j, hn::Mul(hn::Mul(dc, in), f.tanh_slope_at(g)));
      put(at, 3, j, hn::Mul(hn::Mul(dh, tanh_c), hn::NegMulAdd(out, out, out)));
      at.store(hn::Mul(dc, forget), carry + j);
    });
  } else {
    const float* p_n = run.rows.extra.row(row) + u;
    const float* h_before = t > 0 ? run.rows.h.row(row - 1) + u : place.initial_state + u;
    float* dp = run.dp.row(row) + u;
    const auto put_past = [&](auto at, int64_t g, int64_t j, FloatVec value) HWY_ATTR {
      at.store(value, dp + g * H + j);
      at.store(value, edge + g * H + j);
    };
    each(n, [&](auto at, int64_t j) HWY_ATTR {
      const auto from_later = hn::Add(at.load(later + j), at.load(carry + j));
      const auto dh = hn::Add(at.load(dh_read + j), from_later);
      const auto r = at.load(gates + j), z = at.load(gates + H + j);
      const auto new_h = at.load(gates + 2 * H + j), past = at.load(p_n + j);
      const auto dn = hn::Mul(hn::NegMulAdd(dh, z, dh), f.tanh_slope_at(new_h));
      const auto dr = hn::Mul(hn::Mul(dn, past), hn::NegMulAdd(r, r, r));
      const auto dz =
          hn::Mul(hn::Mul(dh, hn::Sub(at.load(h_before + j), new_h)), hn::NegMulAdd(z, z, z));
      at.store(dr, gates + j);
      at.store(dz, gates + H + j);
      at.store(dn, gates + 2 * H + j);
      put_past(at, 0, j, dr);
      put_past(at, 1, j, dz);
      put_past(at, 2, j, hn::Mul(dn, r));
      at.store(hn::Mul(dh, z), carry + j);
    });
  }
}

// What a chunk starts with at its last step, and what is left of it before its first.
template <Cell kCell>
HWY_INLINE void begin_units(const RecurrentRun& run, int64_t i, int64_t u, int64_t n,
                            float* later) {
  const float* dstate = run.places[static_cast<size_t>(i)].dstate;
  float* carry = run.carry + i * run.H + u;
  for (int64_t j = 0; j < n; ++j) {
    later[j] = dstate ? dstate[u + j] : 0;
    if constexpr (kCell == Cell::kLstm) carry[j] = dstate ? dstate[run.H + u + j] : 0;
    if constexpr (kCell == Cell::kGru) carry[j] = 0;
  }
}
template <Cell kCell>
HWY_INLINE void end_units(const RecurrentRun& run, int64_t i, int64_t u, int64_t n,
                          const float* later) {
  float* dstate = run.places[static_cast<size_t>(i)].dstate + u;
  const float* carry = run.carry + i * run.H + u;
  for (int64_t j = 0; j < n; ++j) {
    dstate[j] = kCell == Cell::kGru ? later[j] + carry[j] : later[j];
    if constexpr (kCell == Cell::kLstm) dstate[run.H + j] = carry[j];
  }
}

// dL/dh[t] from the step after is dp[t+1] w_hh. With dstate there is a step -1, which only takes
// it.
template <Cell kCell>
void backward_steps(const RecurrentRun& run) {
  constexpr int64_t G = gates_of(kCell);
  const int64_t H = run.H, NR = panel_of(run), last = run.places[0].dstate ? -1 : 0;
  if (run.int16)
    pack_int16_units(run.int16, MatrixView<const float>(run.int16.w_hh).transposed(), 0);
  if (run.bf16) pack_bf16_columns(run.bf16, run.bf16.w_hh);
  const auto running_at = [&](int64_t t, int64_t i0, int64_t i1) {
    int64_t n = 0;
    while (n < i1 - i0 && run.places[static_cast<size_t>(i0 + n)].length > t) ++n;
    return n;
  };
  time_loop(
      {run.places, G, H, false, last, run.weight_bytes(), NR},
      [&](int64_t t, int64_t i0, int64_t i1, int worker) {
        round_found(run, t + 1, {i0, i1}, running_at(t + 1, i0, i1), worker);
      },
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel, int worker) HWY_ATTR {
        const int64_t u = panel * NR, n = std::min(NR, H - u);
        // Of places that begin at step t, `later` is theirs to fill.
        const auto finish = [&](int64_t first, int64_t count, int64_t running,
                                float* later) HWY_ATTR {
          for (int64_t k = running; k < count; ++k)
            begin_units<kCell>(run, first + k, u, n, later + k * NR);
          for (int64_t k = 0; t < 0 && k < count; ++k)
            end_units<kCell>(run, first + k, u, n, later + k * NR);
          with_precision(run.precision, [&](auto f) HWY_ATTR {
            for (int64_t k = 0; t >= 0 && k < count; ++k)
              backward_units<kCell>(f, run, {t, first + k, u, n, NR}, later + k * NR);
          });
        };
        if (run.bf16)
          return each_bf16_block({i0, i1}, [&](int64_t first, int64_t count,
                                               int64_t block) HWY_ATTR {
            HWY_ALIGN float later[kBf16Block * kBf16Block];
            const int64_t running = running_at(t + 1, first, first + count);
            if (running > 0)
              bf16_step(run.bf16, run.bf16.edge_block(worker, block), panel, running, later, NR);
            finish(first, count, running, later);
          });
        const bool int16{run.int16};
        const float* columns =
            int16 ? nullptr
                  : run.panels + u / kWeightPanel * G * H * kWeightPanel + u % kWeightPanel;
        int64_t tile = 0;
        each_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
          HWY_ALIGN float later[kTileRows * kMaxPanel];
          const int64_t running = running_at(t + 1, first, first + count);
          if (running > 0 && int16)
            int16_step(run.int16, tile, first - i0, panel, {later, running, NR}, worker);
          else if (running > 0)
            tile_of<Rows::kApart>(
                {run.edge[(t + 1) & 1] + first * run.edge_row, running, G * H, run.edge_row},
                {columns, G * H, NR, kWeightPanel}, {later, running, NR}, false);
          finish(first, count, running, later);
          ++tile;
        });
      });
}

void forward_loop(Cell cell, const RecurrentRun& run) {
  if (cell == Cell::kRnn) return forward_steps<Cell::kRnn>(run);
  if (cell == Cell::kLstm) return forward_steps<Cell::kLstm>(run);
  forward_steps<Cell::kGru>(run);
}

void finish_step(Cell cell, const RecurrentRun& run, int64_t t, ConstTensor p) {
  if (cell == Cell::kRnn) return forward_places<Cell::kRnn>(run, t, p);
  if (cell == Cell::kLstm) return forward_places<Cell::kLstm>(run, t, p);
  forward_places<Cell::kGru>(run, t, p);
}

void backward_loop(Cell cell, const RecurrentRun& run) {
  if (cell == Cell::kRnn) return backward_steps<Cell::kRnn>(run);
  if (cell == Cell::kLstm) return backward_steps<Cell::kLstm>(run);
  backward_steps<Cell::kGru>(run);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(forward_loop);
HWY_EXPORT(finish_step);
HWY_EXPORT(backward_loop);
namespace {

bool rounds_to_bf16(ComputeType type) { return type == ComputeType::kBf16 && microkernel(); }

}  // namespace

void recurrent_forward(std::span<const RecurrentChunk> chunks, const RecurrentWeights& weights,
                       const RecurrentRows& rows, Arena& scratch, ComputeType compute_type) {
  Arena::Frame frame(scratch);
  const int64_t G = gates_of(weights.cell), H = weights.w_hh.cols();
  REFRAIN_CHECK(weights.w_hh.rows() == G * H && weights.b_hh.size() == G * H);
  REFRAIN_CHECK(rows.gates.cols() == G * H && rows.h.cols() == H);
  const std::vector<ActiveSequence> places = in_order(chunks, {});
  const auto B = static_cast<int64_t>(places.size());
  // Every gate's panels by themselves. Where gates end with a panel, that is w_hh's packed form.
  const float* packed = H % kWeightPanel == 0 ? weights.packed.floats() : nullptr;
  const bool is_stored = weights.packed.type != Storage::kFloat32;  // a product a step
  Tensor panels;
  RoundedToInt16 int16{};
  RoundedToBf16 bf16{};
  if (compute_type == ComputeType::kInt16)
    int16 = take_int16(weights.w_hh, H, G * round_up(H, kMaxPanel), B, scratch);
  else if (rounds_to_bf16(compute_type))
    bf16 = take_bf16(weights.w_hh, H, G * blocks_of(H, kBf16Block), B, scratch);
  else if (!packed && !is_stored)
    panels = scratch.take({G, packed_size(H, H)});
  REFRAIN_CHECK(!is_stored || compute_type == ComputeType::kFloat32);
  const Tensor products = scratch.take({is_stored ? B : 0, G * H});
  const Tensor before = scratch.take({B, apart(H)}), after = scratch.take({B, apart(H)});
  const RecurrentRun run{.places = places,
                         .H = H,
                         .panels = panels ? panels.data : packed,
                         .rows = rows,
                         .b_hh = weights.b_hh.data,
                         .edge = {before.data, after.data},
                         .edge_row = apart(H),
                         .dh = {},
                         .dp = {},
                         .carry = nullptr,
                         .int16 = int16,
                         .bf16 = bf16,
                         .precision = weights.precision};
  const auto step_by_step = [&] {
    time_loop_of_products(places, {{before.data, after.data}, apart(H), H}, weights.packed,
                          products, scratch, [&](int64_t t, ConstTensor p) {
                            HWY_DYNAMIC_DISPATCH(finish_step)(weights.cell, run, t, p);
                          });
  };
  if (scratch.planning() && is_stored) return step_by_step();
  if (scratch.planning() || B == 0) return;
  for (int64_t g = 0; g < G && panels; ++g)
    pack_weight(weights.w_hh.slice(g * H, H), panels.row(g));
  for (int64_t i = 0; i < B; ++i)
    std::copy_n(places[static_cast<size_t>(i)].initial_state, H, before.row(i));
  if (is_stored) return step_by_step();
  HWY_DYNAMIC_DISPATCH(forward_loop)(weights.cell, run);
}

void recurrent_backward(std::span<const RecurrentChunk> chunks, const RecurrentWeights& weights,
                        const RecurrentRows& rows, const RecurrentGradients& gradients,
                        Arena& scratch, ComputeType compute_type) {
  Arena::Frame frame(scratch);
  const ConstTensor w_hh = weights.w_hh;
  const int64_t G = gates_of(weights.cell), H = w_hh.cols();
  REFRAIN_CHECK(w_hh.rows() == G * H && rows.gates.cols() == G * H);
  REFRAIN_CHECK(gradients.dstate.empty() || gradients.dstate.size() == chunks.size());
  const std::vector<ActiveSequence> places = in_order(chunks, gradients.dstate);
  const auto B = static_cast<int64_t>(places.size());
  Tensor panels;
  RoundedToInt16 int16{};
  RoundedToBf16 bf16{};
  if (compute_type == ComputeType::kInt16)
    int16 = take_int16(w_hh, G * H, H, B, scratch);
  else if (rounds_to_bf16(compute_type))
    bf16 = take_bf16(w_hh, G * H, blocks_of(H, kBf16Block), B, scratch);
  else if (!weights.packed_columns)
    panels = scratch.take({packed_size(H, G * H)});
  const Tensor even = scratch.take({B, apart(G * H)}), odd = scratch.take({B, apart(G * H)});
  const Tensor carry = scratch.take({B, H});
  if (scratch.planning() || B == 0) return;
  if (panels) pack_columns(w_hh, panels.data);
  HWY_DYNAMIC_DISPATCH(backward_loop)
  (weights.cell, {.places = places,
                  .H = H,
                  .panels = panels ? panels.data : weights.packed_columns,
                  .rows = rows,
                  .b_hh = nullptr,
                  .edge = {even.data, odd.data},
                  .edge_row = apart(G * H),
                  .dh = gradients.dh,
                  .dp = gradients.dp,
                  .carry = carry.data,
                  .int16 = int16,
                  .bf16 = bf16,
                  .precision = weights.precision});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
