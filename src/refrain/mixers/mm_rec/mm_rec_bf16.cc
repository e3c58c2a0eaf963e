// mm_rec with products in bfloat16: what is saved for backward is bfloat16 as well, and float32
// rows exist a tensor of width D at a time. docs/decisions/0015-mm-rec-bfloat16.md
#include <algorithm>

#include "refrain/kernels/elementwise/activation.h"
#include "refrain/mixers/mm_rec/bf16_kernel.h"
#include "refrain/mixers/mm_rec/mm_rec.h"
#include "refrain/mixers/mm_rec/rows.h"

namespace refrain {

using kernels::Activation;

// Products go one row at a time or one projection at a time only to be measured, in float32 rows.
bool MmRec::saves_bf16(const ExecutionContext& ctx) const {
  return ctx.bf16() && is_full() && config_.hoisted && config_.fused;
}

MmRec::Bf16Activations MmRec::layout_bf16(const ExecutionContext& ctx, const RaggedBatch& w,
                                          const MmRecMemory& memory, Arena* saved) const {
  Bf16Activations run{layout_states(ctx, w, memory, saved), {}, {}, {}, {}, {}, {}, {}, {}, {}};
  const int64_t R = w.rows(), D = shape_.d_model;
  Arena& rows = saved && ctx.checkpoint_interval == 0 ? *saved : ctx.scratch;
  const auto take = [&](bool again, int64_t width) {
    return (again ? ctx.scratch : rows).take<BFloat16>({R, width});
  };
  const bool makes_inner = saved && ctx.recomputes(kGates.name);
  const bool attends_again = saved && ctx.recomputes(kMemoryAttention.name);
  run.k = take(false, D);
  run.z = take(false, D);
  run.r = take(false, D);
  run.p = take(false, D);
  run.h = take(false, D);
  run.z_inner = take(makes_inner, inner_);
  run.k_inner = take(makes_inner, inner_);
  if (!config_.memory) return run;
  run.q = take(attends_again, D);
  run.o = take(attends_again, D);
  return run;
}

// to = from, rounded; from too.
void MmRec::round(const ExecutionContext& ctx, Tensor from, TensorOf<BFloat16> to) {
  if (!ctx.planning()) kernels::round_to_bf16(from, to);
}
Tensor MmRec::widen(const ExecutionContext& ctx, TensorOf<const BFloat16> from, Tensor to) {
  if (!ctx.planning()) kernels::to_float(from, to);
  return to;
}

// One projection of x.
void MmRec::project_one(ExecutionContext& ctx, ConstTensor x, int64_t column, Tensor to) const {
  qkvz_.outputs(column, shape_.d_model).forward(ctx, x, to);
}

// G_1 z and X_1 k. any [R, D] is overwritten.
void MmRec::make_inner(ExecutionContext& ctx, const Bf16Activations& run, Tensor any) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor inner = ctx.scratch.take({any.rows(), inner_});
  z_in_.forward(ctx, widen(ctx, run.z, any), inner);
  round(ctx, inner, run.z_inner);
  k_in_.forward(ctx, widen(ctx, run.k, any), inner);
  round(ctx, inner, run.k_inner);
}

// Both σ of the decay.
void MmRec::make_sigmoids(ExecutionContext& ctx, const Bf16Activations& run, Tensor of_z,
                          Tensor of_k) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor a = ctx.scratch.take({of_z.rows(), inner_});
  const auto half = [&](const Linear& map, TensorOf<const BFloat16> inner, Tensor to) {
    widen(ctx, inner, a);
    if (!ctx.planning()) kernels::activation_forward(Activation::kGelu, a, a);
    map.forward(ctx, a, to);
    if (!ctx.planning()) kernels::activation_forward(Activation::kSigmoid, to, to, precision_);
  };
  half(z_out_, run.z_inner, of_z);
  half(k_out_, run.k_inner, of_k);
}

// The loop and all before it. h [R, D] becomes what its name says, not rounded.
void MmRec::recur_bf16(ExecutionContext& ctx, ConstTensor x,
                       std::span<const kernels::RecurrentChunk> chunks, const Bf16Activations& run,
                       Tensor h) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor any = ctx.scratch.take({h.rows(), shape_.d_model});
  project_one(ctx, x, k_column(), any);
  round(ctx, any, run.k);
  project_one(ctx, x, z_column(), any);
  round(ctx, any, run.z);
  make_inner(ctx, run, any);
  make_sigmoids(ctx, run, h, any);
  if (!ctx.planning()) kernels::mm_rec_decay_forward(mu_, h, any, h);
  {
    Arena::Frame inner(ctx.scratch);
    const Tensor z = ctx.scratch.take({h.rows(), shape_.d_model});
    r_of_z_.forward(ctx, widen(ctx, run.z, z), any);
  }
  kernels::mm_rec_forward_bf16(cell(), chunks, {run.z, h, run.r, run.p}, any, ctx.scratch);
}

// The query of h, and in `o` what it gets.
void MmRec::attend_bf16(ExecutionContext& ctx, const MmRecMemory& memory, ConstTensor x,
                        ConstTensor h, const Bf16Activations& run, Tensor o) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor query = ctx.scratch.take({h.rows(), shape_.d_model});
  project_one(ctx, x, 0, query);
  if (!ctx.planning()) copy_columns(query, 0, query, 0, shape_.d_model, kQueryShare);
  q_of_h_.forward(ctx, h, query, true);
  round(ctx, query, run.q);
  kernels::memory_attention_forward(attention_, memory.groups(), query, run.states.slots, o,
                                    ctx.scratch);
  round(ctx, o, run.o);
}

void MmRec::forward_bf16(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                         const State* state, Arena* saved) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), D = shape_.d_model;
  const MmRecMemory memory = memory_of(w);
  const Bf16Activations run = layout_bf16(ctx, w, memory, saved);
  const Tensor h = y;  // first
  if (!ctx.planning()) begin_states(w, state, run.states);
  recur_bf16(ctx, x, run.states.chunks, run, h);
  if (!ctx.planning()) end_states(w, h, state, run.states);
  round(ctx, h, run.h);
  const Tensor any = ctx.scratch.take({R, D});
  if (config_.memory) {
    const Tensor kv = ctx.scratch.take({memory.mean_rows(), 2 * D});
    if (!ctx.planning()) memory.average(null_.w, h, state, run.states.means);
    kv_.forward(ctx, run.states.means, kv);
    if (!ctx.planning()) memory.fill(kv, state, run.states.slots);
    attend_bf16(ctx, memory, x, h, run, any);
    o_.forward(ctx, any, y, true);
  }
  project_one(ctx, x, v_column(), any);
  if (!ctx.planning())
    each_row(R, D, [&](int64_t row) {
      const float* v = any.row(row);
      float* to = y.row(row);
      for (int64_t j = 0; j < D; ++j) to[j] += kValueShare * v[j];
    });
}

void MmRec::backward_bf16(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x,
                          const MixerGradients& given, Arena& saved) const {
  const auto& [dy, dx, dstate] = given;
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), D = shape_.d_model;
  const MmRecMemory memory = memory_of(w);
  const Bf16Activations run = layout_bf16(ctx, w, memory, &saved);
  // Rows in turn for one thing and another; dx comes last.
  const Tensor decay = ctx.scratch.take({R, D}), dz = ctx.scratch.take({R, D});
  const Tensor any = ctx.scratch.take({R, D});
  if (ctx.checkpoint_interval > 0) {
    recur_bf16(ctx, x, run.states.intervals, run, decay);
    round(ctx, decay, run.h);
  } else if (ctx.recomputes(kGates.name)) {
    make_inner(ctx, run, any);
  }
  if (config_.memory) {
    if (ctx.checkpoint_interval > 0 || ctx.recomputes(kMemoryAttention.name))
      attend_bf16(ctx, memory, x, widen(ctx, run.h, dz), run, any);
    else
      widen(ctx, run.o, any);
    memory_backward_bf16(ctx, memory, run, {dy, dx, dstate}, any, dz);
  }
  make_sigmoids(ctx, run, decay, any);
  if (!ctx.planning()) kernels::mm_rec_decay_forward(mu_, decay, any, decay);
  kernels::mm_rec_backward_bf16(cell(), run.states.chunks, {run.z, decay, run.r, run.p, run.h},
                                {config_.memory ? ConstTensor(dx) : dy, dz, rows_of(w, dstate)},
                                ctx.scratch);
  gates_backward_bf16(ctx, run, dx, any, dz);
  decay_backward_bf16(ctx, run, decay, dx, any, dz);

  // dz and, in `any`, dk.
  const auto projection = [&](int64_t column, ConstTensor part) {
    const Linear map = qkvz_.outputs(column, D);
    map.backward(ctx, x, part, dx, column > 0);
  };
  if (config_.memory) projection(0, widen(ctx, run.q, decay));
  projection(k_column(), any);
  if (!ctx.planning()) copy_columns(dy, 0, decay, 0, D, kValueShare);
  projection(v_column(), decay);
  projection(z_column(), dz);
}

// given.dx becomes dL/dh but for the recurrence; q, its own gradient. o: as attention gave it. any:
// overwritten.
void MmRec::memory_backward_bf16(ExecutionContext& ctx, const MmRecMemory& memory,
                                 const Bf16Activations& run, const MixerGradients& given, Tensor o,
                                 Tensor any) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t D = shape_.d_model;
  const auto& [dy, dh, dstate] = given;
  const States& states = run.states;
  o_.backward_weight(ctx, o, dy);
  const Tensor d_o = dh, q = o;  // in their places
  o_.backward_input(ctx, dy, d_o);
  widen(ctx, run.q, q);
  const Tensor dslots = ctx.scratch.take({memory.slot_rows(), 2 * D});
  const Tensor dkv = ctx.scratch.take({memory.mean_rows(), 2 * D});
  const Tensor dmeans = ctx.scratch.take({memory.mean_rows(), D});
  if (!ctx.planning()) memory.begin_backward(dstate, dslots);
  kernels::memory_attention_backward(attention_, memory.groups(), q, states.slots, {d_o, dslots},
                                     ctx.scratch);
  if (!ctx.planning()) memory.end_backward(dslots, dkv, dstate);
  kv_.backward(ctx.over(memory.mean_offset()), states.means, dkv, dmeans);
  if (!ctx.planning()) kernels::copy(dy, dh);
  q_of_h_.backward_input(ctx, q, dh, true);
  q_of_h_.backward_weight(ctx, widen(ctx, run.h, any), q);
  if (ctx.planning()) return;
  memory.average_backward(dmeans, dh, null_.g, dstate);
  copy_columns(q, 0, q, 0, D, kQueryShare);
  round(ctx, q, run.q);
}

// Of what gates read. a and b: overwritten; dz is added to.
void MmRec::gates_backward_bf16(ExecutionContext& ctx, const Bf16Activations& run, Tensor a,
                                Tensor b, Tensor dz) const {
  const int64_t D = shape_.d_model;
  for (const kernels::RecurrentChunk& chunk : run.states.chunks) {
    if (ctx.planning() || chunk.length == 0) continue;
    std::copy_n(chunk.initial_state, D, a.row(chunk.first));
    kernels::to_float(run.h.slice(chunk.first, chunk.length - 1),
                      a.slice(chunk.first + 1, chunk.length - 1));
  }
  const ConstTensor h_before = a;
  const auto half = [&](int64_t first, TensorOf<const BFloat16> gate) {
    widen(ctx, gate, b);
    gates_.outputs(first, D).backward_weight(ctx, h_before, b);
    if (gates_bias_.g && !ctx.planning()) kernels::column_sum_add(b, gates_bias_.g.slice(first, D));
  };
  half(D, run.p);
  half(0, run.r);
  r_of_z_.backward_weight(ctx, widen(ctx, run.z, a), b);
  r_of_z_.backward_input(ctx, b, dz, true);
}

// dz is added to; dk is overwritten. ddecay and any: used up.
void MmRec::decay_backward_bf16(ExecutionContext& ctx, const Bf16Activations& run, Tensor ddecay,
                                Tensor any, Tensor dk, Tensor dz) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = dz.rows(), I = inner_;
  const Tensor ds_z = any, ds_k = dk;
  make_sigmoids(ctx, run, ds_z, ds_k);
  if (!ctx.planning()) kernels::mm_rec_decay_backward(mu_, ds_z, ds_k, ddecay);
  // Nobody reads ddecay any more.
  const bool has_place = 2 * I <= shape_.d_model;
  const Tensor inner = has_place ? Tensor(ddecay.data, {R, I}) : ctx.scratch.take({R, I});
  const Tensor a = has_place ? Tensor(ddecay.data + R * I, {R, I}) : ctx.scratch.take({R, I});
  // inner becomes its gradient.
  const auto outer_map = [&](const Linear& map, TensorOf<const BFloat16> saved, ConstTensor ds) {
    widen(ctx, saved, inner);
    if (!ctx.planning()) kernels::activation_forward(Activation::kGelu, inner, a);
    map.backward_weight(ctx, a, ds);
    map.backward_input(ctx, ds, a);
    if (!ctx.planning()) kernels::activation_backward(Activation::kGelu, inner, a, inner);
  };
  outer_map(z_out_, run.z_inner, ds_z);
  z_in_.backward_weight(ctx, widen(ctx, run.z, any), inner);
  z_in_.backward_input(ctx, inner, dz, true);
  outer_map(k_out_, run.k_inner, ds_k);
  k_in_.backward(ctx, widen(ctx, run.k, any), inner, dk);
}

}  // namespace refrain
