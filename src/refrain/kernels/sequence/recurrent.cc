#include "refrain/kernels/sequence/recurrent.h"

#include <algorithm>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/reduction_groups.h"
#include "refrain/kernels/matmul/skinny_matmul.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/sequence/recurrent.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/matmul/int16-inl.h"
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
  float* carry;  // [places, H]: lstm: dL/dc, gru: z ⊙ dL/dh
  // In place of `panels`, rounded: the columns that B has of every panel of units.
  struct Int16 {
    ConstTensor w_hh;
    ReductionGroups groups;       // of what an edge holds
    Pair* w_pairs = nullptr;      // panels of [pairs][columns]
    float* w_scales = nullptr;    // and of [groups][columns]
    TensorOf<Pair> edge_pairs{};  // [threads, places pairs]
    Tensor edge_scales{};         // [threads, places groups kMostLanes]
    explicit operator bool() const { return w_pairs != nullptr; }
  } int16{};
  ActivationPrecision precision = ActivationPrecision::kAccurate;
  int64_t weight_bytes() const { return int16 ? sizeof(int16_t) : sizeof(float); }
};

// Takes what rounded products need of `scratch`: an edge of K numbers against `columns` of w_hh.
inline RecurrentRun::Int16 take_int16(ConstTensor w_hh, int64_t K, int64_t columns, int64_t places,
                                      Arena& scratch) {
  const int64_t count = blocks_of(K, kInt16Features), pairs = blocks_of(K, 2);
  const auto edges = make_reduction_groups(K, {}, kInt16Features, scratch);
  const int64_t width = round_up(columns, kMaxPanel);
  RecurrentRun::Int16 x{.w_hh = w_hh, .groups = {edges.data, count, pairs}};
  x.w_pairs = scratch.take<Pair>({width, pairs}).data;
  x.w_scales = scratch.take({width, count}).data;
  x.edge_pairs = scratch.take<Pair>({threads(), places * pairs});
  x.edge_scales = scratch.take({threads(), places * count * kMostLanes});
  return x;
}

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// One place's units u .. u + n at step t.
struct PlaceUnits {
  int64_t t, i, u, n;
};

// p: the product, a gate's units after another's, tile_cols() apart.
template <Cell kCell, class F>
HWY_INLINE void forward_units(F f, const RecurrentRun& run, PlaceUnits units, const float* p) {
  const auto [t, i, u, n] = units;
  const ActiveSequence& place = run.places[static_cast<size_t>(i)];
  const int64_t H = run.H, NR = tile_cols(), row = place.first + t;
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

// The rows of w as panels of columns, from panel `first` of the run's on.
void pack_int16_units(const RecurrentRun& run, MatrixView<const float> w, int64_t first) {
  const RecurrentRun::Int16& x = run.int16;
  const int64_t n = w.rows;
  const int64_t NR = tile_cols(), panels = blocks_of(n, NR), pairs = x.groups.pairs;
  constexpr int32_t kLargest = int16_largest(kInt16Features);
  parallel_for(
      panels,
      [&](int64_t p) {
        pack_int16_panels(w.row_range(p * NR, std::min(NR, n - p * NR)), x.groups, kLargest,
                          {x.w_pairs + (first + p) * pairs * NR,
                           x.w_scales + (first + p) * x.groups.count * NR, NR, 0, 0});
      },
      kPackingCost * 2 * pairs * n);
}

// What a step finds of the first `n` of the places [i0, i1), rounded, tile after tile.
void round_edge(const RecurrentRun& run, const float* edge, int64_t i0, int64_t i1, int64_t n,
                int worker) {
  const RecurrentRun::Int16& x = run.int16;
  const ReductionGroups& groups = x.groups;
  constexpr int32_t kLargest = int16_largest(kInt16Features);
  int64_t tile = 0;
  each_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
    float* scales = x.edge_scales.row(worker) + tile++ * groups.count * kMostLanes;
    for (int64_t i = 0; i < count && first + i < i0 + n; ++i) {
      const float* from = edge + (first + i) * run.edge_row;
      Pair* to = x.edge_pairs.row(worker) + (first + i - i0) * groups.pairs;
      for (int64_t g = 0; g < groups.count; to += groups.pairs_of(g), ++g)
        scales[g * kMostLanes + i] =
            round_k_contiguous(from + groups.begin(g), groups.length(g), kLargest, to);
    }
  });
}

// p [count, tile_cols()]: rows from `row` on of what round_edge() left for the places of a worker,
// its tile-th tile, against a panel.
HWY_INLINE void int16_step(const RecurrentRun& run, int64_t tile, int64_t row, int64_t panel,
                           MatrixView<float> p, int worker) {
  const RecurrentRun::Int16& x = run.int16;
  const int64_t NR = tile_cols(), pairs = x.groups.pairs, groups = x.groups.count;
  const auto multiply = [&](auto dot) HWY_ATTR {
    int16_tile_of<decltype(dot), Rows::kApart, 2, false>(
        {x.edge_pairs.row(worker) + row * pairs, pairs,
         x.edge_scales.row(worker) + tile * groups * kMostLanes},
        {x.w_pairs + panel * pairs * NR, NR, x.w_scales + panel * groups * NR}, x.groups, nullptr,
        p, false);
  };
#if HWY_TARGET <= HWY_AVX3 && defined(__x86_64__)
  if (int16_is_fast()) return multiply(Vnni());
#endif
  multiply(MultiplyAdd());
}

template <Cell kCell>
void forward_steps(const RecurrentRun& run) {
  constexpr int64_t G = gates_of(kCell);
  const int64_t H = run.H, NR = tile_cols(), panels = blocks_of(H, NR);
  const bool int16{run.int16};
  for (int64_t g = 0; int16 && g < G; ++g)
    pack_int16_units(run, run.int16.w_hh.slice(g * H, H), g * panels);
  time_loop(
      {run.places, G, H, true, 0, run.weight_bytes()},
      [&](int64_t t, int64_t i0, int64_t i1, int worker) {
        if (int16) round_edge(run, run.edge[t & 1], i0, i1, i1 - i0, worker);
      },
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel, int worker) HWY_ATTR {
        const int64_t u = panel * NR, n = std::min(NR, H - u);
        const float* units =
            int16 ? nullptr : run.panels + u / kWeightPanel * H * kWeightPanel + u % kWeightPanel;
        int64_t tile = 0;
        each_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
          HWY_ALIGN float p[kTileRows * G * kMaxPanel];
          for (int64_t g = 0; int16 && g < G; ++g)
            int16_step(run, tile, first - i0, g * panels + panel, {p + g * NR, count, NR, G * NR},
                       worker);
          ++tile;
          for (int64_t g = 0; !int16 && g < G; ++g)
            tile_of<Rows::kApart>({run.edge[t & 1] + first * run.edge_row, count, H, run.edge_row},
                                  {units + g * packed_size(H, H), H, NR, kWeightPanel},
                                  {p + g * NR, count, NR, G * NR}, false);
          with_precision(run.precision, [&](auto f) HWY_ATTR {
            for (int64_t k = 0; k < count; ++k)
              forward_units<kCell>(f, run, {t, first + k, u, n}, p + k * G * NR);
          });
        });
      });
}

// later: dL/dh by the step after, but for the part of a gru's that `carry` has.
template <Cell kCell, class F>
HWY_INLINE void backward_units(F f, const RecurrentRun& run, PlaceUnits units, const float* later) {
  const auto [t, i, u, n] = units;
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
  const int64_t H = run.H, NR = tile_cols(), last = run.places[0].dstate ? -1 : 0;
  const bool int16{run.int16};
  if (int16) pack_int16_units(run, MatrixView<const float>(run.int16.w_hh).transposed(), 0);
  const auto running_at = [&](int64_t t, int64_t i0, int64_t i1) {
    int64_t n = 0;
    while (n < i1 - i0 && run.places[static_cast<size_t>(i0 + n)].length > t) ++n;
    return n;
  };
  time_loop(
      {run.places, G, H, false, last, run.weight_bytes()},
      [&](int64_t t, int64_t i0, int64_t i1, int worker) {
        if (int16)
          round_edge(run, run.edge[(t + 1) & 1], i0, i1, running_at(t + 1, i0, i1), worker);
      },
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel, int worker) HWY_ATTR {
        const int64_t u = panel * NR, n = std::min(NR, H - u);
        const float* columns =
            int16 ? nullptr
                  : run.panels + u / kWeightPanel * G * H * kWeightPanel + u % kWeightPanel;
        int64_t tile = 0;
        each_tile(i0, i1, [&](int64_t first, int64_t count) HWY_ATTR {
          HWY_ALIGN float later[kTileRows * kMaxPanel];
          const int64_t running = running_at(t + 1, first, first + count);
          if (running > 0 && int16)
            int16_step(run, tile, first - i0, panel, {later, running, NR}, worker);
          else if (running > 0)
            tile_of<Rows::kApart>(
                {run.edge[(t + 1) & 1] + first * run.edge_row, running, G * H, run.edge_row},
                {columns, G * H, NR, kWeightPanel}, {later, running, NR}, false);
          for (int64_t k = running; k < count; ++k)
            begin_units<kCell>(run, first + k, u, n, later + k * NR);
          for (int64_t k = 0; t < 0 && k < count; ++k)
            end_units<kCell>(run, first + k, u, n, later + k * NR);
          with_precision(run.precision, [&](auto f) HWY_ATTR {
            for (int64_t k = 0; t >= 0 && k < count; ++k)
              backward_units<kCell>(f, run, {t, first + k, u, n}, later + k * NR);
          });
          ++tile;
        });
      });
}

void forward_loop(Cell cell, const RecurrentRun& run) {
  if (cell == Cell::kRnn) return forward_steps<Cell::kRnn>(run);
  if (cell == Cell::kLstm) return forward_steps<Cell::kLstm>(run);
  forward_steps<Cell::kGru>(run);
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
HWY_EXPORT(backward_loop);

void recurrent_forward(std::span<const RecurrentChunk> chunks, const RecurrentWeights& weights,
                       const RecurrentRows& rows, Arena& scratch, ComputeType compute_type) {
  Arena::Frame frame(scratch);
  const int64_t G = gates_of(weights.cell), H = weights.w_hh.cols();
  REFRAIN_CHECK(weights.w_hh.rows() == G * H && weights.b_hh.size() == G * H);
  REFRAIN_CHECK(rows.gates.cols() == G * H && rows.h.cols() == H);
  const std::vector<ActiveSequence> places = in_order(chunks, {});
  const auto B = static_cast<int64_t>(places.size());
  // Every gate's panels by themselves. Where gates end with a panel, that is w_hh's packed form.
  const bool int16 = compute_type == ComputeType::kInt16;
  const bool is_packed = weights.packed && H % kWeightPanel == 0;
  Tensor panels;
  RecurrentRun::Int16 rounded{};
  if (int16)
    rounded = take_int16(weights.w_hh, H, G * round_up(H, kMaxPanel), B, scratch);
  else if (!is_packed)
    panels = scratch.take({G, packed_size(H, H)});
  const Tensor before = scratch.take({B, apart(H)}), after = scratch.take({B, apart(H)});
  if (scratch.planning() || B == 0) return;
  for (int64_t g = 0; g < G && panels; ++g)
    pack_weight(weights.w_hh.slice(g * H, H), panels.row(g));
  for (int64_t i = 0; i < B; ++i)
    std::copy_n(places[static_cast<size_t>(i)].initial_state, H, before.row(i));
  HWY_DYNAMIC_DISPATCH(forward_loop)
  (weights.cell, {.places = places,
                  .H = H,
                  .panels = panels ? panels.data : weights.packed,
                  .rows = rows,
                  .b_hh = weights.b_hh.data,
                  .edge = {before.data, after.data},
                  .edge_row = apart(H),
                  .dh = {},
                  .dp = {},
                  .carry = nullptr,
                  .int16 = rounded,
                  .precision = weights.precision});
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
  RecurrentRun::Int16 rounded{};
  if (compute_type == ComputeType::kInt16)
    rounded = take_int16(w_hh, G * H, H, B, scratch);
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
                  .int16 = rounded,
                  .precision = weights.precision});
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
