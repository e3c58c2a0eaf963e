#include "refrain/mixers/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace refrain {

Attention::Attention(const MixerShape& s, const AttentionConfig& c)
    : shape_(s),
      theta_(c.rope_theta),
      pairing_(c.rope_pairing == "half" ? kernels::RopePairing::kHalf
                                        : kernels::RopePairing::kAdjacent),
      qkv_{s.d_model, (s.heads + 2 * s.kv_heads) * s.head_dim},
      o_{s.heads * s.head_dim, s.d_model} {
  if (c.rope_pairing != "half" && c.rope_pairing != "adjacent")
    throw_error("attention.rope_pairing: expected half or adjacent, found '{}'", c.rope_pairing);
  if (!(c.rope_theta > 1))
    throw_error("attention.rope_theta: expected a number above 1, found {}", c.rope_theta);
  if (s.heads < 1 || s.kv_heads < 1 || s.heads % s.kv_heads != 0)
    throw_error("kv_heads: expected a divisor of heads = {}, found {}", s.heads, s.kv_heads);
  if (s.head_dim < 2 || s.head_dim > 4096 || s.head_dim % 2 != 0)
    throw_error("head_dim: expected an even number up to 4096 for rotary positions, found {}",
                s.head_dim);
  attention_ = {s.heads,    s.kv_heads,
                s.head_dim, static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim))),
                qkv_.out,   qkv_.out,
                o_.in};
  // The table is bounded; positions beyond it cost a few sines each.
  constexpr int64_t kTableFloats = int64_t{1} << 18;
  table_rows_ = std::clamp<int64_t>(s.context, 1, kTableFloats / s.head_dim);
  cos_.resize(static_cast<size_t>(table_rows_ * s.head_dim / 2));
  sin_.resize(cos_.size());
  kernels::rope_table(theta_, {cos_.data(), {table_rows_, s.head_dim / 2}},
                      {sin_.data(), {table_rows_, s.head_dim / 2}});
}

kernels::RopeTable Attention::table() const {
  return {{cos_.data(), {table_rows_, shape_.head_dim / 2}},
          {sin_.data(), {table_rows_, shape_.head_dim / 2}},
          theta_};
}

void Attention::visit(const ParamVisitor& v) {
  const int64_t d = shape_.head_dim;
  qkv_.visit(v, "qkv_proj.weight", Init::normal(kInitStd),
             {{"q_proj.weight", shape_.heads * d},
              {"k_proj.weight", shape_.kv_heads * d},
              {"v_proj.weight", shape_.kv_heads * d}});
  o_.visit(v, "o_proj.weight",
           Init::normal(kInitStd / std::sqrt(2.0f * static_cast<float>(shape_.blocks))));
}

Attention::Saved Attention::carve(Arena& a, int64_t rows) const {
  return {a.take({rows, qkv_.out}), a.take({rows, o_.in}), a.take({rows * shape_.heads})};
}

size_t Attention::state_bytes(int64_t tokens) const {
  return static_cast<size_t>(tokens * 2 * shape_.kv_heads * shape_.head_dim) * sizeof(float);
}

void Attention::rotate(Context& ctx, const Window& w, Tensor qkv, bool inverse) const {
  if (ctx.dry()) return;
  // q's heads and then k's lie at the front of each row.
  kernels::rope_apply({qkv.data, qkv.cols(), shape_.heads + shape_.kv_heads, shape_.head_dim},
                      w.position, table(), pairing_, inverse);
}

std::vector<kernels::AttentionSequence> Attention::sequences(const Window& w, const Saved& s,
                                                             const State* state) const {
  const int64_t d = shape_.head_dim, q_width = shape_.heads * d, kv_width = shape_.kv_heads * d;
  std::vector<kernels::AttentionSequence> all;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const int64_t T = w.length(b);
    if (T == 0) continue;
    const float* qkv = s.qkv.row(w.first(b));
    kernels::AttentionSequence one{T,
                                   T,
                                   qkv,
                                   qkv + q_width,
                                   qkv + q_width + kv_width,
                                   s.o.row(w.first(b)),
                                   s.lse.data + w.first(b) * shape_.heads};
    if (state) {
      one.keys = w.begins_at(b) + T;
      one.k = state->row(b);
      one.v = one.k + kv_width;
    }
    all.push_back(one);
  }
  return all;
}

void Attention::forward(Context& ctx, const Window& w, ConstTensor x, Tensor y, const State* state,
                        Arena* saved) const {
  Arena::Frame frame(ctx.scratch);
  const Saved s = carve(saved ? *saved : ctx.scratch, w.rows());
  qkv_.forward(ctx, x, s.qkv);
  rotate(ctx, w, s.qkv, false);
  kernels::AttentionShape shape = attention_;
  const int64_t kv_width = shape_.kv_heads * shape_.head_dim, q_width = qkv_.out - 2 * kv_width;
  if (state) {
    shape.kv_row = 2 * kv_width;
    for (int64_t b = 0; b < w.sequences() && !ctx.dry(); ++b)
      for (int64_t i = 0; i < w.length(b); ++i)
        std::memcpy(state->row(b) + (w.begins_at(b) + i) * shape.kv_row,
                    s.qkv.row(w.first(b) + i) + q_width,
                    static_cast<size_t>(shape.kv_row) * sizeof(float));
  }
  kernels::attention_forward(shape, sequences(w, s, state), ctx.scratch);
  o_.forward(ctx, s.o, y);
}

void Attention::backward(Context& ctx, const Window& w, ConstTensor x, ConstTensor dy, Tensor dx,
                         const State* state, const State* dstate, Arena& saved) const {
  Arena::Frame frame(ctx.scratch);
  const Saved s = carve(saved, w.rows());
  const Tensor d_o = ctx.scratch.take({w.rows(), o_.in});
  const Tensor dqkv = ctx.scratch.take({w.rows(), qkv_.out});
  o_.backward(ctx, s.o, dy, d_o);

  const int64_t kv_width = shape_.kv_heads * shape_.head_dim, q_width = qkv_.out - 2 * kv_width;
  kernels::AttentionShape shape = attention_;
  int64_t dkv_row = qkv_.out;
  // Gradients of what came before this window: kept where the caller wants them, else dropped.
  std::vector<float*> past;
  if (state) {
    shape.kv_row = dkv_row = 2 * kv_width;
    for (int64_t b = 0; b < w.sequences(); ++b) {
      if (w.length(b) == 0) {
        past.push_back(nullptr);
      } else if (dstate) {
        past.push_back(dstate->row(b));
      } else {
        const Tensor t = ctx.scratch.take({w.begins_at(b) + w.length(b), dkv_row});
        if (!ctx.dry()) std::fill(t.begin(), t.end(), 0.0f);
        past.push_back(t.data);
      }
    }
  }
  std::vector<kernels::AttentionGradients> gradients;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) == 0) continue;
    float* row = dqkv.row(w.first(b));
    float* dk = state ? past[static_cast<size_t>(b)] : row + q_width;
    gradients.push_back({d_o.row(w.first(b)), row, dk, dk + kv_width});
  }
  kernels::attention_backward(shape, sequences(w, s, state), gradients, qkv_.out, dkv_row,
                              state != nullptr, ctx.scratch);
  if (state && !ctx.dry())
    for (int64_t b = 0; b < w.sequences(); ++b)
      for (int64_t i = 0; i < w.length(b); ++i)
        std::memcpy(dqkv.row(w.first(b) + i) + q_width,
                    past[static_cast<size_t>(b)] + (w.begins_at(b) + i) * dkv_row,
                    static_cast<size_t>(dkv_row) * sizeof(float));
  rotate(ctx, w, dqkv, true);
  qkv_.backward(ctx, x, dqkv, dx);
}

}  // namespace refrain
