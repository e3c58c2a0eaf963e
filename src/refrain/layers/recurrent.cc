#include "refrain/layers/recurrent.h"

#include <algorithm>
#include <cmath>

namespace refrain {

using kernels::Cell;

Recurrent::Recurrent(Cell cell, int64_t in, int64_t hidden, kernels::ActivationPrecision precision)
    : cell_(cell),
      precision_(precision),
      w_ih_{in, kernels::gates_of(cell) * hidden, true},
      w_hh_{hidden, kernels::gates_of(cell) * hidden, true} {}

void Recurrent::visit(const ParamVisitor& v) {
  const Init matrix = Init::cell(hidden()), bias = Init::cell_bias(hidden());
  // Between norms an lstm remembers at first (Gers et al., 2000; Jozefowicz et al., 2015): its
  // forget gates' biases, the second of its gates, add up to 1.
  const bool remembers = cell_ == Cell::kLstm;
  // In float32 the loop over time reads panels of each gate by itself.
  const bool ends_with_panels = hidden() % kernels::kWeightPanel == 0;
  const ReadBy loop = ends_with_panels ? ReadBy::kProducts : ReadBy::kEither;
  v({"weight_ih_l0", {w_ih_.out, w_ih_.in}, matrix, true, {}, ReadBy::kProducts}, w_ih_.w);
  v({"weight_hh_l0", {w_hh_.out, w_hh_.in}, matrix, true, {}, loop}, w_hh_.w);
  v({"bias_ih_l0",
     {w_ih_.out},
     remembers ? bias.with_mean(1, hidden(), 2 * hidden()) : bias,
     false},
    w_ih_.b);
  v({"bias_hh_l0", {w_hh_.out}, bias, false}, w_hh_.b);
}

// `every`: rows of an interval; 0: a chunk is an interval. The first intervals of all chunks come
// first.
Recurrent::Activations Recurrent::layout(const RaggedBatch& w, int64_t every, Arena& found,
                                         Arena& rows) const {
  Activations run;
  for (int64_t b = 0; b < w.sequences(); ++b)
    run.chunks.push_back({w.first(b), w.length(b), nullptr});
  run.intervals = run.chunks;
  if (every > 0) {
    for (kernels::RecurrentChunk& interval : run.intervals)
      interval.length = std::min(interval.length, every);
    for (const kernels::RecurrentChunk& chunk : run.chunks)
      for (int64_t at = every; at < chunk.length; at += every)
        run.intervals.push_back({chunk.first + at, std::min(every, chunk.length - at), nullptr});
  }
  run.initial_state = found.take({static_cast<int64_t>(run.intervals.size()), state_floats()});
  if (run.initial_state)
    for (size_t i = 0; i < run.intervals.size(); ++i) {
      run.intervals[i].initial_state = run.initial_state.row(static_cast<int64_t>(i));
      if (i < run.chunks.size()) run.chunks[i].initial_state = run.intervals[i].initial_state;
    }
  run.rows = layout_rows(w.rows(), rows);
  return run;
}

kernels::RecurrentRows Recurrent::layout_rows(int64_t R, Arena& arena) const {
  kernels::RecurrentRows rows{arena.take({R, w_ih_.out}), {}};
  rows.h = cell_ == Cell::kRnn ? rows.gates : arena.take({R, hidden()});
  if (cell_ != Cell::kRnn) rows.extra = arena.take({R, hidden()});
  return rows;
}

Recurrent::Activations Recurrent::forward(ExecutionContext& ctx, const RaggedBatch& w,
                                          ConstTensor x, std::span<float* const> state,
                                          Arena* saved) const {
  const bool again = saved && ctx.checkpoint_interval > 0;
  const Activations run =
      layout(w, again ? ctx.checkpoint_interval : 0, saved ? *saved : ctx.scratch,
             saved && !again ? *saved : ctx.scratch);
  const int64_t H = hidden(), S = state_floats();
  if (!ctx.planning()) {
    std::fill(run.initial_state.begin(), run.initial_state.end(), 0.0f);
    for (size_t b = 0; b < state.size(); ++b)
      std::copy_n(state[b], S, run.initial_state.row(static_cast<int64_t>(b)));
  }
  w_ih_.forward(ctx, x, run.rows.gates);
  kernels::recurrent_forward(run.chunks, weights(), run.rows, ctx.scratch, ctx.compute_type);
  if (ctx.planning()) return run;

  const auto copy_state = [&](int64_t row, float* to) {  // as the row left it
    std::copy_n(run.rows.h.row(row), H, to);
    if (S > H) std::copy_n(run.rows.extra.row(row), H, to + H);
  };
  for (size_t i = run.chunks.size(); i < run.intervals.size(); ++i)
    copy_state(run.intervals[i].first - 1, run.initial_state.row(static_cast<int64_t>(i)));
  for (size_t b = 0; b < state.size(); ++b)
    if (const kernels::RecurrentChunk& chunk = run.chunks[b]; chunk.length > 0)
      copy_state(chunk.first + chunk.length - 1, state[b]);
  return run;
}

Recurrent::Activations Recurrent::recompute_forward(ExecutionContext& ctx, const RaggedBatch& w,
                                                    ConstTensor x, Arena& saved) const {
  if (ctx.checkpoint_interval == 0) return layout(w, 0, saved, saved);
  const Activations run = layout(w, ctx.checkpoint_interval, saved, ctx.scratch);
  w_ih_.forward(ctx, x, run.rows.gates);
  kernels::recurrent_forward(run.intervals, weights(), run.rows, ctx.scratch, ctx.compute_type);
  return run;
}

Recurrent::Activations Recurrent::recompute_forward(ExecutionContext& ctx, ConstTensor x,
                                                    Activations run) const {
  run.rows = layout_rows(x.rows(), ctx.scratch);
  w_ih_.forward(ctx, x, run.rows.gates);
  kernels::recurrent_forward(run.intervals, weights(), run.rows, ctx.scratch, ctx.compute_type);
  return run;
}

Tensor Recurrent::states_before(ExecutionContext& ctx, const Activations& run) const {
  const int64_t H = hidden();
  const Tensor h_before = ctx.scratch.take({run.rows.gates.rows(), H});
  if (!ctx.planning())
    for (const kernels::RecurrentChunk& chunk : run.chunks) {
      if (chunk.length == 0) continue;
      float* to = h_before.row(chunk.first);
      std::copy_n(chunk.initial_state, H, to);
      std::copy_n(run.rows.h.row(chunk.first), (chunk.length - 1) * H, to + H);
    }
  return h_before;
}

void Recurrent::backward_weights(ExecutionContext& ctx, ConstTensor x, ConstTensor h_before,
                                 ConstTensor da, ConstTensor dp) const {
  w_hh_.backward_weight(ctx, h_before, dp);
  w_ih_.backward_weight(ctx, x, da);
}

void Recurrent::backward(ExecutionContext& ctx, ConstTensor x, const Activations& run,
                         ConstTensor dh, Tensor dx, std::span<float* const> dstate) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor h_before = states_before(ctx, run);  // now: an rnn's h becomes da
  const Tensor da = run.rows.gates;
  const Tensor dp = cell_ == Cell::kGru ? ctx.scratch.take({da.rows(), w_hh_.out}) : da;
  kernels::recurrent_backward(run.chunks, weights(), run.rows, {dh, dstate, dp}, ctx.scratch,
                              ctx.compute_type);
  w_ih_.backward_input(ctx, da, dx);
  backward_weights(ctx, x, h_before, da, dp);
}

}  // namespace refrain
