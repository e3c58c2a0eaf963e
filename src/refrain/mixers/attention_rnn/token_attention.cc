#include "refrain/mixers/attention_rnn/token_attention.h"

#include <algorithm>

#include "refrain/base/parallel.h"

namespace refrain {

TokenAttention::TokenAttention(const MixerDims& s, bool bias, float scale)
    : shape_{s.heads, s.head_dim, scale},
      blocks_(s.blocks),
      table_rows_(s.context),
      frequencies_(kernels::rope_frequencies(kRopeTheta, s.head_dim)),
      cos_(static_cast<size_t>(s.context * s.head_dim / 2)),
      sin_(cos_.size()),
      q_{s.d_model, shape_.width(), bias},
      k_(q_),
      v_(q_),
      o_{shape_.width(), s.d_model, bias} {
  if (s.head_dim % 2 != 0)
    throw_error("head_dim: expected an even number for rotary positions, found {}", s.head_dim);
  kernels::rope_table(frequencies_, {cos_.data(), {table_rows_, s.head_dim / 2}},
                      {sin_.data(), {table_rows_, s.head_dim / 2}});
}

void TokenAttention::visit(const ParamVisitor& v) {
  q_.visit(v, "q_proj.weight", Init::matrix(q_.in));
  k_.visit(v, "k_proj.weight", Init::matrix(k_.in));
  v_.visit(v, "v_proj.weight", Init::matrix(v_.in));
  o_.visit(v, "o_proj.weight", Init::output(o_.in, blocks_));
}

TokenAttention::Activations TokenAttention::layout(Arena& a, int64_t rows) const {
  const auto take = [&] { return a.take({rows, shape_.width()}); };
  return {take(), take(), take(), take(), a.take({rows, 2 * shape_.heads})};
}

void TokenAttention::rotate(ExecutionContext& ctx, const RaggedBatch& w, Tensor rows,
                            bool inverse) const {
  if (ctx.planning()) return;
  const int64_t half = shape_.head_dim / 2;
  const kernels::RopeTable table{
      {cos_.data(), {table_rows_, half}}, {sin_.data(), {table_rows_, half}}, frequencies_};
  kernels::rope_apply(rows, w.position, table, kernels::RopePairing::kHalf, inverse);
}

std::vector<kernels::CrossMemory> TokenAttention::pack(ExecutionContext& ctx, const RaggedBatch& w,
                                                       const Activations& s,
                                                       bool for_backward) const {
  std::vector<kernels::CrossMemory> all;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const int64_t n = w.length(b);
    const auto take = [&] {
      return ctx.scratch.take({kernels::cross_pack_floats(shape_, n)}).data;
    };
    kernels::CrossMemory one{n, {nullptr, take()}, {take(), nullptr}};
    if (for_backward) {
      one.keys.rows = take();
      one.values.panels = take();
    }
    all.push_back(one);
  }
  if (ctx.planning()) return all;
  parallel_for(
      w.sequences(),
      [&](int64_t b) {
        const kernels::CrossMemory& one = all[static_cast<size_t>(b)];
        if (one.rows == 0) return;
        kernels::cross_pack(shape_, s.k.slice(w.first(b), one.rows), one.keys);
        kernels::cross_pack(shape_, s.v.slice(w.first(b), one.rows), one.values);
      },
      32 * s.k.size());
  return all;
}

std::vector<kernels::CrossQueries> TokenAttention::queries(const RaggedBatch& w,
                                                           const Activations& s) const {
  std::vector<kernels::CrossQueries> all;
  for (int64_t b = 0; b < w.sequences(); ++b)
    all.push_back({s.q.slice(w.first(b), w.length(b)),
                   s.o.slice(w.first(b), w.length(b)),
                   s.softmax.data + w.first(b) * s.softmax.cols(),
                   {}});
  return all;
}

void TokenAttention::forward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                             Arena* saved) const {
  Arena::Frame frame(ctx.scratch);
  const Activations s = layout(saved ? *saved : ctx.scratch, w.rows());
  q_.forward(ctx, x, s.q);
  k_.forward(ctx, x, s.k);
  v_.forward(ctx, x, s.v);
  rotate(ctx, w, s.q, false);
  rotate(ctx, w, s.k, false);
  kernels::cross_forward(shape_, pack(ctx, w, s, false), queries(w, s), ctx.scratch);
  o_.forward(ctx, s.o, y);
}

void TokenAttention::backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x,
                              const MixerGradients& given, Arena& saved) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), width = shape_.width();
  const Activations s = layout(saved, R);
  const Tensor d_o = ctx.scratch.take({R, width}), dq = ctx.scratch.take({R, width});
  const Tensor dk = ctx.scratch.take({R, width}), dv = ctx.scratch.take({R, width});
  o_.backward(ctx, s.o, given.dy, d_o);
  if (!ctx.planning())
    for (const Tensor& added : {dk, dv}) std::fill(added.begin(), added.end(), 0.0f);
  std::vector<kernels::CrossGradients> gradients;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const int64_t first = w.first(b), n = w.length(b);
    gradients.push_back(
        {d_o.slice(first, n), dq.slice(first, n), dk.slice(first, n), dv.slice(first, n)});
  }
  {
    Arena::Frame packs(ctx.scratch);
    const auto memory = pack(ctx, w, s, true);
    const auto all = queries(w, s);
    kernels::cross_backward_queries(shape_, memory, all, gradients, ctx.scratch);
    kernels::cross_backward_memory(shape_, memory, all, gradients, ctx.scratch);
  }
  rotate(ctx, w, dq, true);
  rotate(ctx, w, dk, true);
  q_.backward(ctx, x, dq, given.dx);
  k_.backward(ctx, x, dk, given.dx, true);
  v_.backward(ctx, x, dv, given.dx, true);
}

}  // namespace refrain
