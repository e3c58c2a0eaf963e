#include "refrain/mixers/mm_rec/mm_rec.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/parallel.h"
#include "refrain/kernels/elementwise/activation.h"
#include "refrain/mixers/mm_rec/rows.h"

namespace refrain {
namespace {

void check_range(const char* setting, int64_t value, int64_t least, int64_t most) {
  if (value < least || value > most)
    throw_error("mm_rec.{}: expected {} to {}, found {}", setting, least, most, value);
}

}  // namespace

MmRec::MmRec(const MixerDims& s, const MmRecConfig& c)
    : shape_(s),
      config_(c),
      layout_{s.d_model, c.slots, c.stretch, c.memory},
      inner_(c.inner == 0 ? std::max<int64_t>(1, s.d_model / 4) : c.inner),
      mu_(static_cast<float>(c.mu)),
      precision_(s.activation_precision),
      qkvz_{s.d_model, columns()},
      z_in_{s.d_model, inner_},
      z_out_{inner_, s.d_model},
      k_in_(z_in_),
      k_out_(z_out_),
      r_of_z_{s.d_model, s.d_model},
      gates_{s.d_model, 2 * s.d_model},
      q_of_h_(r_of_z_),
      kv_(gates_),
      o_(r_of_z_) {
  const int64_t heads = c.heads == 0 ? s.heads : c.heads;
  check_range("heads", heads, 1, 4096);
  if (s.d_model % heads != 0)
    throw_error("mm_rec.heads: expected a divisor of d_model = {}, found {}", s.d_model, heads);
  check_range("inner", inner_, 1, 1 << 16);
  check_range("slots", c.slots, MmRecLayout::kFan, 4096);
  check_range("stretch", c.stretch, 1, 1 << 20);
  if (!(c.mu >= 0 && c.mu < 1))
    throw_error("mm_rec.mu: expected 0 or more, below 1, found {}", c.mu);
  if (c.recurrence != "full" && c.recurrence != "linear")
    throw_error("mm_rec.recurrence: expected full or linear, found '{}'", c.recurrence);
  const int64_t d = s.d_model / heads;
  attention_ = {heads, d, static_cast<float>(1 / std::sqrt(static_cast<double>(d)))};
}

void MmRec::visit(const ParamVisitor& v) {
  const int64_t D = shape_.d_model;
  const Init matrix = Init::matrix(D), narrow = Init::matrix(inner_);
  std::vector<ParamPart> parts;
  if (config_.memory) parts.push_back({"q_proj.weight", D});
  for (const char* name : {"k_proj.weight", "v_proj.weight", "z_proj.weight"})
    parts.push_back({name, D});
  qkvz_.visit(v, "qkvz_proj.weight", matrix, parts);
  z_in_.visit(v, "z_decay.0.weight", matrix);
  z_out_.visit(v, "z_decay.1.weight", narrow);
  k_in_.visit(v, "k_decay.0.weight", matrix);
  k_out_.visit(v, "k_decay.1.weight", narrow);
  const bool full = config_.recurrence == "full";
  if (full) r_of_z_.visit(v, "r_of_z.weight", matrix);
  const std::string r = full ? "r_of_h" : "r_of_z", p = full ? "p_of_h" : "p_of_z";
  // In float32 the loop over time reads panels of each gate by itself.
  const bool by_rows = full && D % kernels::kWeightPanel != 0;
  gates_.visit(v, "gates.weight", matrix, {{r + ".weight", D}, {p + ".weight", D}},
               by_rows ? ReadBy::kEither : ReadBy::kProducts);
  v({"gates.bias", {2 * D}, Init::bias(D), false}, gates_bias_);
  if (!config_.memory) return;
  v({"memory_null", {D}, matrix, false}, null_);
  q_of_h_.visit(v, "memory_q.weight", matrix);
  kv_.visit(v, "memory_kv.weight", matrix, {{"memory_k.weight", D}, {"memory_v.weight", D}});
  o_.visit(v, "o_proj.weight", Init::output(D, shape_.blocks));
}

size_t MmRec::state_bytes(int64_t) const {
  return static_cast<size_t>(layout_.state_size()) * sizeof(float);
}

MmRec::States MmRec::layout_states(const ExecutionContext& ctx, const RaggedBatch& w,
                                   const MmRecMemory& memory, Arena* saved) const {
  const int64_t D = shape_.d_model;
  const int64_t every = saved ? ctx.checkpoint_interval : 0;
  States run;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const int64_t n = w.length(b), most = every > 0 ? every : n;
    run.begins.push_back(static_cast<int64_t>(run.intervals.size()));
    run.chunks.push_back({w.first(b), n, nullptr});
    run.intervals.push_back({w.first(b), std::min(most, n), nullptr});
    for (int64_t at = most; at < n; at += most)
      run.intervals.push_back({w.first(b) + at, std::min(most, n - at), nullptr});
  }
  Arena& kept = saved ? *saved : ctx.scratch;
  run.initial_state = kept.take({static_cast<int64_t>(run.intervals.size()), D});
  for (size_t i = 0; run.initial_state && i < run.intervals.size(); ++i)
    run.intervals[i].initial_state = run.initial_state.row(static_cast<int64_t>(i));
  for (size_t b = 0; run.initial_state && b < run.chunks.size(); ++b)
    run.chunks[b].initial_state = run.initial_state.row(run.begins[b]);
  run.means = kept.take({memory.mean_rows(), D});
  run.slots = kept.take({memory.slot_rows(), 2 * D});
  return run;
}

void MmRec::begin_states(const RaggedBatch& w, const State* state, const States& run) const {
  std::fill(run.initial_state.begin(), run.initial_state.end(), 0.0f);
  for (int64_t b = 0; state && b < w.sequences(); ++b)
    std::copy_n(state->row(b), shape_.d_model,
                run.initial_state.row(run.begins[static_cast<size_t>(b)]));
}

void MmRec::end_states(const RaggedBatch& w, ConstTensor h, const State* state,
                       const States& run) const {
  const int64_t D = shape_.d_model;
  for (size_t i = 0, b = 0; i < run.intervals.size(); ++i)
    if (b < run.begins.size() && run.begins[b] == static_cast<int64_t>(i))
      ++b;
    else
      std::copy_n(h.row(run.intervals[i].first - 1), D,
                  run.initial_state.row(static_cast<int64_t>(i)));
  for (int64_t b = 0; state && b < w.sequences(); ++b)
    if (w.length(b) > 0) std::copy_n(h.row(w.first(b) + w.length(b) - 1), D, state->row(b));
}

MmRec::Activations MmRec::layout(const ExecutionContext& ctx, const RaggedBatch& w,
                                 const MmRecMemory& memory, Arena* saved) const {
  const int64_t R = w.rows(), D = shape_.d_model;
  const int64_t every = saved ? ctx.checkpoint_interval : 0;
  Activations run{layout_states(ctx, w, memory, saved), {}, {}, {}};
  Arena& scratch = ctx.scratch;
  Arena& kept = saved ? *saved : scratch;
  Arena& rows = every > 0 ? scratch : kept;
  const bool attends_again =
      saved && every == 0 && config_.memory && ctx.recomputes(kMemoryAttention.name);
  if (attends_again) run.kz = kept.take({R, 2 * D});
  run.rows.qkvz = (attends_again ? scratch : rows).take({R, columns()});
  if (!saved || !ctx.recomputes(kGates.name)) run.decay = carve_decay(rows, R);
  run.rows.gates = rows.take({R, 2 * D});
  run.rows.h = rows.take({R, D});
  return run;
}

void MmRec::forward_map(ExecutionContext& ctx, const Linear& map, MatrixView<const float> x,
                        MatrixView<float> y, bool add) const {
  if (config_.hoisted) return map.forward(ctx, x, y, add);
  Arena::Frame frame(ctx.scratch);
  const Linear once = map.packed(ctx);  // or each row would pack it
  for (int64_t row = 0; row < x.rows; ++row)
    once.forward(ctx, x.row_range(row, 1), y.row_range(row, 1), add);
}

void MmRec::backward_weight(ExecutionContext& ctx, const Linear& map, MatrixView<const float> x,
                            MatrixView<const float> dy) const {
  if (config_.hoisted) return map.backward_weight(ctx, x, dy);
  const ExecutionContext of_row = ctx.over({});
  for (int64_t row = 0; row < x.rows; ++row)
    map.backward_weight(of_row, x.row_range(row, 1), dy.row_range(row, 1));
}

// What products make the columns [first, end) of the projections.
std::vector<std::pair<int64_t, int64_t>> MmRec::projections(int64_t first, int64_t end) const {
  if (config_.fused) return {{first, end - first}};
  std::vector<std::pair<int64_t, int64_t>> all;
  for (; first < end; first += shape_.d_model) all.push_back({first, shape_.d_model});
  return all;
}

void MmRec::project(ExecutionContext& ctx, ConstTensor x, Tensor qkvz, int64_t first,
                    int64_t end) const {
  for (const auto& [column, count] : projections(first, end))
    forward_map(ctx, qkvz_.outputs(column, count), x,
                MatrixView<float>(qkvz).col_range(column, count));
}

MmRec::Decay MmRec::carve_decay(Arena& a, int64_t rows) const {
  return {a.take({rows, 2 * inner_}), a.take({rows, 2 * shape_.d_model})};
}

void MmRec::make_decay(ExecutionContext& ctx, ConstTensor qkvz, const Decay& to) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = qkvz.rows(), D = shape_.d_model, I = inner_;
  const Tensor a = ctx.scratch.take({R, 2 * I});
  const MatrixView<float> inner = to.inner, activated = a;
  forward_map(ctx, z_in_, at(qkvz, z_column()), inner.col_range(0, I));
  forward_map(ctx, k_in_, at(qkvz, k_column()), inner.col_range(I, I));
  if (!ctx.planning()) kernels::activation_forward(kernels::Activation::kGelu, to.inner, a);
  forward_map(ctx, z_out_, activated.col_range(0, I), at(to.outer, 0));
  forward_map(ctx, k_out_, activated.col_range(I, I), at(to.outer, D));
  if (!ctx.planning())
    kernels::activation_forward(kernels::Activation::kSigmoid, to.outer, to.outer, precision_);
}

// γ; `kept`: from what forward left, if it did.
void MmRec::find_decay(ExecutionContext& ctx, const Activations& run, bool kept,
                       Tensor decay) const {
  Arena::Frame frame(ctx.scratch);
  const bool has_place = run.decay.outer.rank > 0;
  const Decay from = has_place ? run.decay : carve_decay(ctx.scratch, decay.rows());
  if (!has_place || !kept) make_decay(ctx, run.rows.qkvz, from);
  if (!ctx.planning()) kernels::mm_rec_decay_forward(mu_, from.outer, decay);
}

kernels::MmRecCell MmRec::cell() const {
  if (!is_full()) return {mu_, gates_bias_.w, {}, {}, precision_};
  return {mu_, gates_bias_.w, gates_.w.w, gates_.w.packed, precision_};
}

kernels::MmRecRows MmRec::loop_rows(const Rows& rows, Tensor decay) const {
  return {at(rows.qkvz, z_column()), decay, rows.gates, rows.h};
}

// What gates read of the input, then step after step.
void MmRec::recur(ExecutionContext& ctx, std::span<const kernels::RecurrentChunk> chunks,
                  const Rows& rows, Tensor decay) const {
  if (is_full())
    forward_map(ctx, r_of_z_, at(rows.qkvz, z_column()), at(rows.gates, 0));
  else
    forward_map(ctx, gates_, at(rows.qkvz, z_column()), rows.gates);
  kernels::mm_rec_forward(cell(), chunks, loop_rows(rows, decay), ctx.scratch);
}

// Leaves the query in q's place and what it got in v's.
void MmRec::attend(ExecutionContext& ctx, const MmRecMemory& memory, ConstTensor slots,
                   const Rows& rows) const {
  if (!ctx.planning()) copy_columns(rows.qkvz, 0, rows.qkvz, 0, shape_.d_model, kQueryShare);
  forward_map(ctx, q_of_h_, rows.h, at(rows.qkvz, 0), true);
  kernels::memory_attention_forward(attention_, memory.groups(), at(rows.qkvz, 0), slots,
                                    at(rows.qkvz, v_column()), ctx.scratch);
}

void MmRec::forward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                    const State* state, Arena* saved) const {
  if (saves_bf16(ctx)) return forward_bf16(ctx, w, x, y, state, saved);
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), D = shape_.d_model;
  const MmRecMemory memory = memory_of(w);
  const Activations run = layout(ctx, w, memory, saved);
  const Rows& rows = run.rows;
  const Tensor decay = y;  // y comes later
  if (!ctx.planning()) begin_states(w, state, run);
  project(ctx, x, rows.qkvz, 0, columns());
  if (run.kz.rank > 0 && !ctx.planning()) {
    copy_columns(rows.qkvz, k_column(), run.kz, 0, D);
    copy_columns(rows.qkvz, z_column(), run.kz, D, D);
  }
  find_decay(ctx, run, false, decay);
  recur(ctx, run.chunks, rows, decay);
  if (!ctx.planning()) {
    end_states(w, rows.h, state, run);
    each_row(R, D, [&](int64_t row) {
      const float *h = rows.h.row(row), *v = rows.qkvz.row(row) + v_column();
      float* to = y.row(row);
      for (int64_t j = 0; j < D; ++j) to[j] = h[j] + kValueShare * v[j];
    });
  }
  if (!config_.memory) return;
  const Tensor kv = ctx.scratch.take({memory.mean_rows(), 2 * D});
  if (!ctx.planning()) memory.average(null_.w, rows.h, state, run.means);
  kv_.forward(ctx, run.means, kv);
  if (!ctx.planning()) memory.fill(kv, state, run.slots);
  attend(ctx, memory, run.slots, rows);
  forward_map(ctx, o_, at(rows.qkvz, v_column()), y, true);
}

// What forward left, and what it did not leave once more.
MmRec::Activations MmRec::recompute_forward(ExecutionContext& ctx, const RaggedBatch& w,
                                            const MmRecMemory& memory, ConstTensor x, Tensor decay,
                                            Arena& saved) const {
  const int64_t D = shape_.d_model;
  const Activations run = layout(ctx, w, memory, &saved);
  const Rows& rows = run.rows;
  const bool all = ctx.checkpoint_interval > 0;
  if (all) {
    project(ctx, x, rows.qkvz, 0, v_column());
    project(ctx, x, rows.qkvz, z_column(), columns());
  } else if (run.kz.rank > 0) {
    project(ctx, x, rows.qkvz, 0, k_column());
    if (!ctx.planning()) {
      copy_columns(run.kz, 0, rows.qkvz, k_column(), D);
      copy_columns(run.kz, D, rows.qkvz, z_column(), D);
    }
  }
  find_decay(ctx, run, !all, decay);
  if (all) recur(ctx, run.intervals, rows, decay);
  if (config_.memory && (all || run.kz.rank > 0)) attend(ctx, memory, run.slots, rows);
  return run;
}

void MmRec::backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, const State*,
                     const MixerGradients& given, Arena& saved) const {
  if (saves_bf16(ctx)) return backward_bf16(ctx, w, x, given, saved);
  const auto& [dy, dx, dstate] = given;
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), D = shape_.d_model, P = columns();
  const MmRecMemory memory = memory_of(w);
  const Tensor decay = ctx.scratch.take({R, D});
  const Activations run = recompute_forward(ctx, w, memory, x, decay, saved);
  {
    const Tensor dh = dx;  // dx comes later
    if (config_.memory) memory_backward(ctx, memory, run, dy, dh, dstate);
    recur_backward(ctx, run, config_.memory ? dh : dy, dh, decay, rows_of(w, dstate));
  }
  decay_backward(ctx, run, decay);

  // The projections become their gradients; k's are there already, z's in v's place.
  const Tensor qkvz = run.rows.qkvz;
  if (!ctx.planning()) {
    if (config_.memory) copy_columns(qkvz, 0, qkvz, 0, D, kQueryShare);
    copy_columns(qkvz, v_column(), qkvz, z_column(), D);
    copy_columns(dy, 0, qkvz, v_column(), D, kValueShare);
  }
  for (const auto& [column, count] : projections(0, P)) {
    const auto part = MatrixView<const float>(qkvz).col_range(column, count);
    const Linear map = qkvz_.outputs(column, count);
    map.backward_input(ctx, part, dx, column > 0);
    backward_weight(ctx, map, x, part);
  }
}

// dh [R, D] = dL/dh but for the recurrence. The query's gradient takes its place.
void MmRec::memory_backward(ExecutionContext& ctx, const MmRecMemory& memory,
                            const Activations& run, ConstTensor dy, Tensor dh,
                            const State* dstate) const {
  Arena::Frame frame(ctx.scratch);
  const Rows& rows = run.rows;
  const int64_t D = shape_.d_model;
  const Tensor d_o = dh;  // whose turn comes later
  backward_weight(ctx, o_, at(rows.qkvz, v_column()), dy);
  o_.backward_input(ctx, dy, d_o);
  const Tensor dslots = ctx.scratch.take({memory.slot_rows(), 2 * D});
  const Tensor dkv = ctx.scratch.take({memory.mean_rows(), 2 * D});
  const Tensor dmeans = ctx.scratch.take({memory.mean_rows(), D});
  if (!ctx.planning()) memory.begin_backward(dstate, dslots);
  kernels::memory_attention_backward(attention_, memory.groups(), at(rows.qkvz, 0), run.slots,
                                     {d_o, dslots}, ctx.scratch);
  if (!ctx.planning()) memory.end_backward(dslots, dkv, dstate);
  kv_.backward(ctx.over(memory.mean_offset()), run.means, dkv, dmeans);
  if (!ctx.planning()) kernels::copy(dy, dh);
  q_of_h_.backward_input(ctx, at(rows.qkvz, 0), dh, true);
  backward_weight(ctx, q_of_h_, rows.h, at(rows.qkvz, 0));
  if (!ctx.planning()) memory.average_backward(dmeans, dh, null_.g, dstate);
}

// The loop, and what its gates read. γ becomes its gradient; z's takes v's place, which nobody
// reads any more. h_before takes the h that each row's step found; it may be dh.
void MmRec::recur_backward(ExecutionContext& ctx, const Activations& run, ConstTensor dh,
                           Tensor h_before, Tensor decay, std::span<float* const> dstate) const {
  Arena::Frame frame(ctx.scratch);
  const Rows& rows = run.rows;
  const int64_t D = shape_.d_model;
  const MatrixView<float> dz = at(rows.qkvz, v_column());
  kernels::mm_rec_backward(cell(), run.chunks, loop_rows(rows, decay), {dh, dz, dstate},
                           ctx.scratch);
  const MatrixView<const float> z = at(rows.qkvz, z_column());
  if (is_full()) {
    for (const kernels::RecurrentChunk& chunk : run.chunks) {
      if (ctx.planning() || chunk.length == 0) continue;
      float* to = h_before.row(chunk.first);
      std::copy_n(chunk.initial_state, D, to);
      std::copy_n(rows.h.row(chunk.first), (chunk.length - 1) * D, to + D);
    }
    backward_weight(ctx, gates_, h_before, rows.gates);
    backward_weight(ctx, r_of_z_, z, at(rows.gates, 0));
    r_of_z_.backward_input(ctx, at(rows.gates, 0), dz, true);
  } else {
    backward_weight(ctx, gates_, z, rows.gates);
    gates_.backward_input(ctx, rows.gates, dz, true);
  }
  if (!ctx.planning()) kernels::column_sum_add(rows.gates, gates_bias_.g);
}

// z's gradient is added to, and k becomes its own.
void MmRec::decay_backward(ExecutionContext& ctx, const Activations& run,
                           ConstTensor ddecay) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor qkvz = run.rows.qkvz;
  const int64_t R = qkvz.rows(), D = shape_.d_model, I = inner_;
  const bool has_place = run.decay.outer.rank > 0;
  const Decay decay = has_place ? run.decay : carve_decay(ctx.scratch, R);
  if (!has_place) make_decay(ctx, qkvz, decay);
  const Tensor inner = decay.inner, outer = decay.outer, a = ctx.scratch.take({R, 2 * I});
  if (!ctx.planning()) {
    kernels::mm_rec_decay_backward(mu_, outer, ddecay);
    kernels::activation_forward(kernels::Activation::kGelu, inner, a);
  }
  const MatrixView<float> a_z = MatrixView<float>(a).col_range(0, I);
  const MatrixView<float> a_k = MatrixView<float>(a).col_range(I, I);
  backward_weight(ctx, z_out_, a_z, at(outer, 0));
  backward_weight(ctx, k_out_, a_k, at(outer, D));
  const Tensor da = a;  // in its place
  z_out_.backward_input(ctx, at(outer, 0), a_z);
  k_out_.backward_input(ctx, at(outer, D), a_k);
  if (!ctx.planning()) kernels::activation_backward(kernels::Activation::kGelu, inner, da, inner);
  const MatrixView<float> of_z = MatrixView<float>(inner).col_range(0, I);
  const MatrixView<float> of_k = MatrixView<float>(inner).col_range(I, I);
  backward_weight(ctx, z_in_, at(qkvz, z_column()), of_z);
  backward_weight(ctx, k_in_, at(qkvz, k_column()), of_k);
  z_in_.backward_input(ctx, of_z, at(qkvz, v_column()), true);
  k_in_.backward_input(ctx, of_k, at(qkvz, k_column()));
}

}  // namespace refrain
