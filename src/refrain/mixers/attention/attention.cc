#include "refrain/mixers/attention/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "refrain/base/parallel.h"
#include "refrain/base/random.h"

namespace refrain {

kernels::RopeScaling AttentionConfig::scaling() const {
  using Kind = kernels::RopeScaling::Kind;
  if (rope_scaling != "" && rope_scaling != "linear" && rope_scaling != "llama3")
    throw_error("attention.rope_scaling: expected linear, llama3 or nothing, found '{}'",
                rope_scaling);
  const AttentionConfig plain;
  const bool scales = rope_scaling != "", by_wavelength = rope_scaling == "llama3";
  const auto check = [&](const char* name, bool differs, bool has_meaning, const char* where) {
    if (differs && !has_meaning)
      throw_error("attention.{}: has a meaning with attention.{} only", name, where);
  };
  check("rope_scaling", scales, rope, "rope true");
  check("rope_factor", rope_factor != plain.rope_factor, scales, "rope_scaling");
  check("rope_low_freq_factor", rope_low_freq_factor != plain.rope_low_freq_factor, by_wavelength,
        "rope_scaling llama3");
  check("rope_high_freq_factor", rope_high_freq_factor != plain.rope_high_freq_factor,
        by_wavelength, "rope_scaling llama3");
  check("rope_original_context", rope_original_context != plain.rope_original_context,
        by_wavelength, "rope_scaling llama3");
  if (!(rope_factor > 0))
    throw_error("attention.rope_factor: expected a number above 0, found {}", rope_factor);
  if (!(rope_low_freq_factor > 0 && rope_high_freq_factor > rope_low_freq_factor))
    throw_error(
        "attention.rope_high_freq_factor: expected a number above attention.rope_low_freq_factor, "
        "and both above 0, found {} and {}",
        rope_high_freq_factor, rope_low_freq_factor);
  if (rope_original_context < 1)
    throw_error("attention.rope_original_context: expected 1 or more, found {}",
                rope_original_context);
  return {!scales         ? Kind::kNone
          : by_wavelength ? Kind::kLlama3
                          : Kind::kLinear,
          rope_factor, rope_low_freq_factor, rope_high_freq_factor,
          static_cast<double>(rope_original_context)};
}

Attention::Attention(const MixerDims& s, const AttentionConfig& c)
    : shape_(s),
      qk_norm_(c.qk_norm),
      rope_(c.rope),
      pairing_(c.rope_pairing == "half" ? kernels::RopePairing::kHalf
                                        : kernels::RopePairing::kAdjacent),
      qkv_{s.d_model, (s.heads + 2 * s.kv_heads) * s.head_dim, c.qkv_bias},
      o_{s.heads * s.head_dim, s.d_model, c.output_bias} {
  if (c.rope_pairing != "half" && c.rope_pairing != "adjacent")
    throw_error("attention.rope_pairing: expected half or adjacent, found '{}'", c.rope_pairing);
  if (!(c.rope_theta > 1))
    throw_error("attention.rope_theta: expected a number above 1, found {}", c.rope_theta);
  if (s.heads < 1 || s.kv_heads < 1 || s.heads % s.kv_heads != 0)
    throw_error("kv_heads: expected a divisor of heads = {}, found {}", s.heads, s.kv_heads);
  if (c.rope && (s.head_dim < 2 || s.head_dim > 4096 || s.head_dim % 2 != 0))
    throw_error("head_dim: expected an even number up to 4096 for rotary positions, found {}",
                s.head_dim);
  const kernels::RopeScaling scaling = c.scaling();
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  if (c.window < 0 || c.window > kMost)
    throw_error("attention.window: expected 0 (all positions) or up to {}, found {}", kMost,
                c.window);
  if (c.stride < 0 || c.stride > kMost)
    throw_error("attention.stride: expected 0 (none) or up to {}, found {}", kMost, c.stride);
  if (c.stride > 0 && c.window == 0)
    throw_error(
        "attention.stride: expected 0 where attention.window is 0 (all positions are seen), found "
        "{}",
        c.stride);
  attention_ = {s.heads,    s.kv_heads,
                s.head_dim, static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim))),
                qkv_.out,   o_.in,
                c.window,   c.stride};
  if (!rope_) return;
  frequencies_ = kernels::rope_frequencies(c.rope_theta, s.head_dim, scaling);
  // The table is bounded, and so are those of all blocks together, since a context is said without
  // a weight behind it; positions beyond it cost a few sines each.
  constexpr int64_t kTableFloats = int64_t{1} << 18, kOfAllBlocks = int64_t{1} << 25;
  const int64_t floats = std::min(kTableFloats, kOfAllBlocks / std::max<int64_t>(s.blocks, 1));
  table_rows_ = std::clamp<int64_t>(s.context, 1, std::max<int64_t>(floats / s.head_dim, 1));
  cos_.resize(static_cast<size_t>(table_rows_ * s.head_dim / 2));
  sin_.resize(cos_.size());
  kernels::rope_table(frequencies_, {cos_.data(), {table_rows_, s.head_dim / 2}},
                      {sin_.data(), {table_rows_, s.head_dim / 2}});
}

kernels::RopeTable Attention::table() const {
  return {{cos_.data(), {table_rows_, shape_.head_dim / 2}},
          {sin_.data(), {table_rows_, shape_.head_dim / 2}},
          frequencies_};
}

kernels::AttentionShape Attention::attention(const ExecutionContext& ctx) const {
  kernels::AttentionShape shape = attention_;
  if (ctx.dropout.attention_rate > 0)
    shape.dropout = {ctx.dropout.attention_rate, mix_key(ctx.dropout.key, "attention dropout",
                                                         static_cast<uint64_t>(shape_.index))};
  return shape;
}

void Attention::visit(const ParamVisitor& v) {
  const int64_t d = shape_.head_dim;
  qkv_.visit(v, "qkv_proj.weight", Init::matrix(qkv_.in),
             {{"q_proj.weight", shape_.heads * d},
              {"k_proj.weight", shape_.kv_heads * d},
              {"v_proj.weight", shape_.kv_heads * d}});
  if (qk_norm_) {
    v({"q_norm.weight", {d}, Init::constant(1), false}, q_norm_);
    v({"k_norm.weight", {d}, Init::constant(1), false}, k_norm_);
  }
  o_.visit(v, "o_proj.weight", Init::output(o_.in, shape_.blocks));
}

Attention::Activations Attention::layout(ExecutionContext& ctx, Arena& a, const RaggedBatch& w,
                                         bool keep_rings) const {
  const int64_t rows = w.rows();
  int64_t past = 0;
  for (int64_t b = 0; b < w.sequences() && keep_rings; ++b) past += ring_rows(w.past_length(b));
  Activations s;
  if (ctx.bf16()) {
    s.qkv = ctx.scratch.take({rows, qkv_.out});
    s.o = ctx.scratch.take({rows, o_.in});
    s.bf16_qkv = a.take<BFloat16>({rows, qkv_.out});
    s.bf16_o = a.take<BFloat16>({rows, o_.in});
  } else {
    s.qkv = a.take({rows, qkv_.out});
    s.o = a.take({rows, o_.in});
  }
  s.softmax = a.take({2 * rows * shape_.heads});
  s.past = a.take({past, kv_width()});
  if (qk_norm_) {
    s.raw = a.take({rows, q_width() + k_width()});
    s.q_reciprocals = a.take({rows, shape_.heads});
    s.k_reciprocals = a.take({rows, shape_.kv_heads});
  }
  return s;
}

Operand Attention::output(const ExecutionContext& ctx, const Activations& s) const {
  if (ctx.bf16() && kernels::has_bf16_units()) return s.bf16_o;
  return s.o;
}

int64_t Attention::ring_rows(int64_t tokens) const {
  return attention_.window > 0 ? std::min(tokens, attention_.window) : tokens;
}

// Scores and values of the keys that a query sees, on average.
double Attention::mixing_flops(int64_t length) const {
  int64_t keys = 0;
  for (int64_t t = 0; t < length; ++t) {
    const int64_t before = t + 1, window = attention_.window,
                  near = window > 0 ? std::min(window, before) : before;
    keys += near + (attention_.stride > 0 ? (before - near) / attention_.stride : 0);
  }
  return 4 * static_cast<double>(keys) / static_cast<double>(length) *
         static_cast<double>(q_width());
}

int64_t Attention::state_rows(int64_t tokens) const {
  const int64_t stride = attention_.stride;
  return stride > 0 && tokens >= stride ? attention_.window + tokens / stride : ring_rows(tokens);
}

size_t Attention::state_bytes(int64_t tokens) const {
  return static_cast<size_t>(state_rows(tokens) * row_bytes());
}

std::vector<float> Attention::state_numbers(std::span<const std::byte> state) const {
  const int64_t rows = std::ssize(state) / row_bytes();
  std::vector<float> numbers(static_cast<size_t>(rows * kv_width()));
  kernels::read_cache(shape_.cache_type, shape_.head_dim, state.data(),
                      {numbers.data(), rows, kv_width()});
  return numbers;
}

std::vector<StateRange> Attention::overwritten(int64_t position, int64_t tokens) const {
  const int64_t window = attention_.window;
  if (window == 0) return {};
  // Position p overwrites that of p - window. More tokens than a ring has rows overwrite all. Where
  // the rows of a stride follow, those of a ring that is not full are part of the state too.
  const int64_t from = attention_.stride > 0 ? position : std::max(position, window);
  const int64_t rows = std::min(position + tokens - from, window);
  if (rows <= 0) return {};
  const size_t row = state_bytes(window) / static_cast<size_t>(state_rows(window));
  const auto range = [&](int64_t first, int64_t count) {
    return StateRange{static_cast<size_t>(first) * row, static_cast<size_t>(count) * row};
  };
  const int64_t first = from % window, up_to_end = std::min(rows, window - first);
  std::vector<StateRange> all = {range(first, up_to_end)};
  if (rows > up_to_end) all.push_back(range(0, rows - up_to_end));
  return all;
}

void Attention::rotate(ExecutionContext& ctx, const RaggedBatch& w, Tensor qkv,
                       bool inverse) const {
  if (!rope_ || ctx.planning()) return;
  // q's heads and then k's lie at the front of each row.
  kernels::rope_apply(MatrixView<float>(qkv).col_range(0, q_width() + k_width()), w.position,
                      table(), pairing_, inverse);
}

void Attention::norm(const Activations& s) const {
  const auto eps = static_cast<float>(shape_.norm_eps);
  const MatrixView<float> qkv(s.qkv), raw(s.raw);
  parallel_for(
      s.raw.rows(), [&](int64_t row) { std::copy_n(s.qkv.row(row), raw.cols, raw.row(row)); },
      s.raw.size());
  kernels::head_norm_forward(raw.col_range(0, q_width()), {q_norm_.w, eps},
                             qkv.col_range(0, q_width()), s.q_reciprocals);
  kernels::head_norm_forward(raw.col_range(q_width(), k_width()), {k_norm_.w, eps},
                             qkv.col_range(q_width(), k_width()), s.k_reciprocals);
}

void Attention::norm_backward(const Activations& s, Tensor dqkv) const {
  const MatrixView<float> d(dqkv), raw(s.raw);
  kernels::head_norm_backward(raw.col_range(0, q_width()), q_norm_.w, s.q_reciprocals,
                              d.col_range(0, q_width()), q_norm_.g);
  kernels::head_norm_backward(raw.col_range(q_width(), k_width()), k_norm_.w, s.k_reciprocals,
                              d.col_range(q_width(), k_width()), k_norm_.g);
}

template <class F>
void Attention::each_kept(const RaggedBatch& w, const State& state, F&& f) const {
  const int64_t window = attention_.window, stride = attention_.stride, row = row_bytes();
  parallel_for(
      w.sequences(),
      [&](int64_t b) {
        const int64_t start = w.past_length(b), end = start + w.length(b);
        std::byte* to = state.bytes(b);
        for (int64_t p = end - std::min(w.length(b), ring_rows(end)); p < end; ++p)
          f(w.first(b) + p - start, to + (window > 0 ? p % window : p) * row);
        for (int64_t i = start / std::max<int64_t>(stride, 1); stride > 0 && i < end / stride; ++i)
          f(w.first(b) + (i + 1) * stride - 1 - start, strided_rows(to) + i * row);
      },
      w.rows() * kv_width());
}

std::vector<kernels::AttentionSequence> Attention::sequences(const RaggedBatch& w,
                                                             const Activations& s,
                                                             const State* state, bool rings) const {
  const int64_t width = kv_width();
  std::vector<kernels::AttentionSequence> all;
  const float* ring = s.past.data;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const int64_t start = w.past_length(b);
    const float* found = rings ? ring : state ? state->row(b) : nullptr;
    if (rings) ring += ring_rows(start) * width;
    if (w.length(b) == 0) continue;
    const float *q = s.qkv.row(w.first(b)), *k = q + q_width();
    kernels::AttentionSequence one{w.length(b),
                                   start,
                                   q,
                                   {},
                                   s.o.row(w.first(b)),
                                   s.softmax.data + 2 * w.first(b) * shape_.heads,
                                   w.row_id.data() + w.first(b)};
    one.keys.own = {k, k + width / 2, qkv_.out};
    if (state && rounds_cache()) {
      const int64_t row = row_bytes();
      const std::byte *past = state->bytes(b), *strided = strided_rows(state->bytes(b));
      one.cache_type = shape_.cache_type;
      one.cached.past = {past, past + row / 2, row};
      one.cached.strided = {strided, strided + row / 2, row};
    } else if (state) {
      one.keys.past = {found, found + width / 2, width};
      const auto* strided = reinterpret_cast<const float*>(strided_rows(state->bytes(b)));
      one.keys.strided = {strided, strided + width / 2, width};
    }
    all.push_back(one);
  }
  return all;
}

TensorOf<std::byte> Attention::round_keys_and_values(ExecutionContext& ctx, Tensor qkv) const {
  if (!rounds_cache()) return {};
  const TensorOf<std::byte> stored = ctx.scratch.take<std::byte>({qkv.rows(), row_bytes()});
  if (ctx.planning()) return stored;
  const auto rows = MatrixView<float>(qkv).col_range(q_width(), kv_width());
  kernels::write_cache(shape_.cache_type, shape_.head_dim, rows, stored.data);
  kernels::read_cache(shape_.cache_type, shape_.head_dim, stored.data, rows);
  return stored;
}

void Attention::forward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                        const State* state, Arena* saved) const {
  REFRAIN_CHECK(!saved || !rounds_cache());
  Arena::Frame frame(ctx.scratch);
  const bool keep_rings = saved && state && attention_.window > 0;
  const Activations s = layout(ctx, saved ? *saved : ctx.scratch, w, keep_rings);
  qkv_.forward(ctx, x, s.qkv);
  if (qk_norm_ && !ctx.planning()) norm(s);
  rotate(ctx, w, s.qkv, false);
  if (ctx.bf16() && !ctx.planning()) kernels::round_to_bf16(s.qkv, s.bf16_qkv);
  const TensorOf<std::byte> rounded = round_keys_and_values(ctx, s.qkv);
  kernels::attention_forward(attention(ctx), sequences(w, s, state, false), ctx.scratch,
                             rounds_cache() ? kernels::ComputeType::kFloat32 : ctx.compute_type);
  if (state && !ctx.planning()) {
    float* ring = s.past.data;
    for (int64_t b = 0; b < w.sequences() && keep_rings; ++b)
      ring = std::copy_n(state->row(b), ring_rows(w.past_length(b)) * kv_width(), ring);
    each_kept(w, *state, [&](int64_t row, std::byte* to) {
      const float* own = s.qkv.row(row) + q_width();
      std::copy_n(rounded ? rounded.row(row) : reinterpret_cast<const std::byte*>(own), row_bytes(),
                  to);
    });
  }
  if (ctx.bf16() && !ctx.planning()) kernels::round_to_bf16(s.o, s.bf16_o);
  o_.forward(ctx, output(ctx, s), y);
}

void Attention::backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x,
                         const State* state, const MixerGradients& given, Arena& saved) const {
  const auto& [dy, dx, dstate] = given;
  Arena::Frame frame(ctx.scratch);
  const bool rings = state && attention_.window > 0;
  const Activations s = layout(ctx, saved, w, rings);
  if (ctx.bf16() && !ctx.planning()) {
    kernels::to_float(s.bf16_qkv, s.qkv);
    kernels::to_float(s.bf16_o, s.o);
  }
  const Tensor d_o = ctx.scratch.take({w.rows(), o_.in});
  const Tensor dqkv = ctx.scratch.take({w.rows(), qkv_.out});
  o_.backward(ctx, output(ctx, s), dy, d_o);

  const int64_t width = kv_width();
  // What the final state brings goes to the tokens in it: they were not in the initial state.
  if (dstate && !ctx.planning()) {
    for (int64_t row = 0; row < w.rows(); ++row)
      std::fill_n(dqkv.row(row) + q_width(), width, 0.0f);
    each_kept(w, *dstate, [&](int64_t row, std::byte* kept) {
      float *to = dqkv.row(row) + q_width(), *from = reinterpret_cast<float*>(kept);
      for (int64_t j = 0; j < width; ++j) to[j] += from[j];
      std::fill_n(from, width, 0.0f);
    });
  }
  std::vector<kernels::AttentionGradients> gradients;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) == 0) continue;
    float *dq = dqkv.row(w.first(b)), *dk = dq + q_width();
    kernels::AttentionGradients one{.d_o = d_o.row(w.first(b)),
                                    .dq = dq,
                                    .dq_row = qkv_.out,
                                    .keys = {.own = {dk, dk + width / 2, qkv_.out}},
                                    .add = dstate != nullptr};
    if (dstate) {
      float* past = dstate->row(b);
      auto* strided = reinterpret_cast<float*>(strided_rows(dstate->bytes(b)));
      one.keys.past = {past, past + width / 2, width};
      one.keys.strided = {strided, strided + width / 2, width};
    }
    gradients.push_back(one);
  }
  kernels::attention_backward(attention(ctx), sequences(w, s, state, rings), gradients, ctx.scratch,
                              ctx.compute_type);
  rotate(ctx, w, dqkv, true);
  if (qk_norm_ && !ctx.planning()) norm_backward(s, dqkv);
  qkv_.backward(ctx, x, dqkv, dx);
}

}  // namespace refrain
