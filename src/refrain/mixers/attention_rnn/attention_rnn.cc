#include "refrain/mixers/attention_rnn/attention_rnn.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/parallel.h"

namespace refrain {

AttentionRnn::AttentionRnn(const MixerDims& s, const AttentionRnnConfig& c)
    : shape_{s.heads, s.head_dim},
      config_(c),
      scale_(c.scaled ? static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim))) : 1),
      blocks_(s.blocks),
      q_{s.d_model, shape_.width(), c.bias},
      k_{s.d_model, shape_.width(), c.bias},
      v_{s.d_model, shape_.width(), c.bias},
      o_{shape_.width(), s.d_model, c.bias} {
  if (s.heads < 1) throw_error("heads: expected 1 or more, found {}", s.heads);
  if (s.head_dim < 1) throw_error("head_dim: expected 1 or more, found {}", s.head_dim);
  if (c.query != "learned" && c.query != "token")
    throw_error("attention_rnn.query: expected learned or token, found '{}'", c.query);
  if (c.query == "token") {
    token_attention_.emplace(s, c.bias, scale_);
    return;
  }
  const int64_t in = c.fused ? s.d_model : shape_.width();
  sums_memory_ = Buffer<float>(static_cast<size_t>(shape_.heads * (in + 1)));
  sums_ = {sums_memory_.data(), {shape_.heads, in}};
  bias_sums_ = {sums_.end(), {shape_.heads}};
}

double AttentionRnn::mixing_flops(int64_t length) const {
  return token_attention_ ? token_attention_->mixing_flops(length) : Mixer::mixing_flops(length);
}

void AttentionRnn::visit(const ParamVisitor& v) {
  if (token_attention_) return token_attention_->visit(v);
  // As large as a normed token, so that scores start where those of attention do.
  v({"query_token", {q_.in}, Init::normal(1), false}, token_);
  q_.visit(v, "q_proj.weight", Init::matrix(q_.in));
  k_.visit(v, "k_proj.weight", Init::matrix(k_.in));
  v_.visit(v, "v_proj.weight", Init::matrix(v_.in));
  o_.visit(v, "o_proj.weight", Init::output(o_.in, blocks_));
}

size_t AttentionRnn::state_bytes(int64_t tokens) const {
  // Keys and values would have to stay.
  if (token_attention_) return static_cast<size_t>(2 * tokens * shape_.width()) * sizeof(float);
  return static_cast<size_t>(shape_.state_size()) * sizeof(float);
}

AttentionRnn::Activations AttentionRnn::layout(Arena& a, const RaggedBatch& w) const {
  const int64_t R = w.rows(), H = shape_.heads, width = shape_.width();
  int64_t blocks = 0;
  for (int64_t b = 0; b < w.sequences(); ++b)
    blocks += kernels::scan_blocks(w.past_length(b), w.length(b));
  Activations s;
  s.rows = {a.take({R, H}), a.take({R, width}), a.take({R, width}),
            a.take({R, H}), a.take({R, H}),     a.take({blocks, shape_.state_size()})};
  if (!config_.fused) s.k = a.take({R, width});
  return s;
}

Tensor AttentionRnn::carve_found(Arena& a, const RaggedBatch& w) const {
  return a.take({w.sequences(), shape_.state_size()});
}

// The map that gives scores: of inputs, W_kᵀ q per head; of keys, q itself.
Linear AttentionRnn::scores(ExecutionContext& ctx) const {
  const int64_t H = shape_.heads, in = sums_.cols();
  Linear map{in, H, config_.fused && config_.bias};
  if (prepared_scores_) return *prepared_scores_;
  map.w = {ctx.scratch.take({H, in}), sums_};
  if (map.bias) map.b = {ctx.scratch.take({H}), bias_sums_};
  make_scores(ctx, map);
  return map;
}

void AttentionRnn::prepare_inference(ExecutionContext& ctx) {
  if (token_attention_) return;
  Arena::Frame frame(ctx.scratch);
  const Linear map = scores(ctx);
  if (ctx.planning()) return;
  Linear kept = map;
  const int64_t packed = kernels::packed_size(map.out, map.in);
  scores_memory_ = Buffer<float>(static_cast<size_t>(packed + map.out));
  kept.w = {{nowhere(), {map.out, map.in}}, {}, scores_memory_.data()};
  kernels::pack_weight(map.w.w, scores_memory_.data());
  if (map.bias) {
    kept.b = {{scores_memory_.data() + packed, {map.out}}, {}};
    std::copy(map.b.w.begin(), map.b.w.end(), kept.b.w.data);
  }
  prepared_scores_ = kept;
}

void AttentionRnn::make_scores(ExecutionContext& ctx, const Linear& map) const {
  const int64_t H = shape_.heads, d = shape_.head_dim;
  Arena::Frame frame(ctx.scratch);
  const Tensor q = ctx.scratch.take({H, d});
  q_.unpacked(ctx).forward(ctx, {token_.w.data, 1, q_.in}, {q.data, 1, q_.out});
  if (!ctx.planning()) {
    kernels::scale(q, scale_);
    std::fill(map.w.w.begin(), map.w.w.end(), 0.0f);
  }
  const ExecutionContext exact = ctx.in_float32();
  const Linear k = k_.unpacked(ctx);
  for (int64_t h = 0; h < H; ++h) {
    if (config_.fused)
      k.outputs(h * d, d).backward_input(exact, q.slice(h, 1), map.w.w.slice(h, 1));
    else if (!ctx.planning())
      std::copy_n(q.row(h), d, map.w.w.row(h) + h * d);
    if (map.bias) {
      Linear of_bias{d, 1};
      of_bias.w.w = {k_.b.w.data + h * d, {1, d}};
      of_bias.forward(exact, q.slice(h, 1), map.b.w.slice(h, 1));
    }
  }
}

void AttentionRnn::project(ExecutionContext& ctx, ConstTensor x, const Activations& s) const {
  Arena::Frame frame(ctx.scratch);
  v_.forward(ctx, x, s.rows.v);
  if (!config_.fused) k_.forward(ctx, x, s.k);
  scores(ctx).forward(ctx, config_.fused ? x : s.k, s.rows.s);
}

template <class F>
std::vector<kernels::ScanChunk> AttentionRnn::chunks(const RaggedBatch& w, F&& set_states) const {
  std::vector<kernels::ScanChunk> all;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) == 0) continue;
    all.push_back({w.first(b), w.length(b), w.past_length(b)});
    set_states(all.back(), b);
  }
  return all;
}

void AttentionRnn::forward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                           const State* state, Arena* saved) const {
  if (token_attention_) {
    if (state)
      throw_error(
          "attention_rnn.query: token reads a sequence whole: expected learned where a state goes "
          "from chunk to chunk or token to token");
    return token_attention_->forward(ctx, w, x, y, saved);
  }
  Arena::Frame frame(ctx.scratch);
  const bool recomputes = saved && ctx.checkpoint_interval > 0;
  const Activations s = layout(saved && !recomputes ? *saved : ctx.scratch, w);
  if (recomputes && state) {
    const Tensor found = carve_found(*saved, w);
    for (int64_t b = 0; b < w.sequences() && !ctx.planning(); ++b)
      std::copy_n(state->row(b), shape_.state_size(), found.row(b));
  }
  project(ctx, x, s);
  const auto all = chunks(w, [&](kernels::ScanChunk& chunk, int64_t b) {
    if (state) chunk.initial_state = chunk.final_state = state->row(b);
  });
  kernels::attention_scan_forward(shape_, all, s.rows, ctx.scratch);
  o_.forward(ctx, s.rows.o, y);
}

void AttentionRnn::backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x,
                            const State* state, const MixerGradients& given, Arena& saved) const {
  if (token_attention_) return token_attention_->backward(ctx, w, x, given, saved);
  Arena::Frame frame(ctx.scratch);
  const bool recomputes = ctx.checkpoint_interval > 0;
  const Activations s = layout(recomputes ? ctx.scratch : saved, w);
  if (recomputes) {
    const Tensor found = state ? carve_found(saved, w) : Tensor();
    project(ctx, x, s);
    const auto all = chunks(w, [&](kernels::ScanChunk& chunk, int64_t b) {
      if (state) chunk.initial_state = found.row(b);
    });
    kernels::attention_scan_forward(shape_, all, s.rows, ctx.scratch);
  }

  const Tensor d_o = ctx.scratch.take({w.rows(), shape_.width()});
  const Tensor ds = ctx.scratch.take({w.rows(), shape_.heads});
  o_.backward(ctx, s.rows.o, given.dy, d_o);
  const auto all = chunks(w, [&](kernels::ScanChunk& chunk, int64_t b) {
    if (!given.dstate) return;
    chunk.final_state = state->row(b);
    chunk.dstate = given.dstate->row(b);
  });
  const Tensor dv = s.rows.v;  // in v's place
  kernels::attention_scan_backward(shape_, all, s.rows, {d_o, ds, dv}, ctx.scratch);

  if (config_.fused) {
    scores(ctx).backward(ctx, x, ds, given.dx);
  } else {
    const Tensor dk = d_o;  // which nobody reads any more
    scores(ctx).backward(ctx, s.k, ds, dk);
    k_.backward(ctx, x, dk, given.dx);
  }
  v_.backward_weight(ctx, x, dv);
  v_.backward_input(ctx, dv, given.dx, true);
}

void AttentionRnn::finish_gradients() {
  if (token_attention_) return;
  const int64_t D = q_.in, d = shape_.head_dim, width = shape_.width();
  const auto dot = [](const float* a, const float* b, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) sum += static_cast<double>(a[i]) * static_cast<double>(b[i]);
    return static_cast<float>(sum);
  };
  const auto add = [](float by, const float* from, float* to, int64_t n) {
    for (int64_t i = 0; i < n; ++i) to[i] += by * from[i];
  };
  std::vector<float> dq(static_cast<size_t>(width));
  parallel_for(
      width,
      [&](int64_t i) {
        const int64_t h = i / d;
        const float *token = token_.w.data, *sums = sums_.row(h);
        float dq_i;
        if (config_.fused) {
          // scores = x (W_kᵀ q) + b_k · q
          float q_i = dot(q_.w.w.row(i), token, D);
          if (config_.bias) q_i += q_.b.w.data[i];
          if (k_.w.g) add(scale_ * q_i, sums, k_.w.g.row(i), D);
          dq_i = dot(k_.w.w.row(i), sums, D);
          if (config_.bias) {
            if (k_.b.g) k_.b.g.data[i] += scale_ * q_i * bias_sums_.data[h];
            dq_i += k_.b.w.data[i] * bias_sums_.data[h];
          }
        } else {
          dq_i = sums[i];
        }
        dq_i *= scale_;
        if (q_.w.g) add(dq_i, token, q_.w.g.row(i), D);
        if (q_.b.g) q_.b.g.data[i] += dq_i;
        dq[static_cast<size_t>(i)] = dq_i;
      },
      8 * width * D);
  for (int64_t i = 0; token_.g && i < width; ++i)
    add(dq[static_cast<size_t>(i)], q_.w.w.row(i), token_.g.data, D);
  std::fill(sums_.begin(), sums_.end(), 0.0f);
  std::fill(bias_sums_.begin(), bias_sums_.end(), 0.0f);
}

}  // namespace refrain
