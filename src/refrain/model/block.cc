#include "refrain/model/block.h"

#include <algorithm>
#include <cmath>

#include "refrain/kernels/reduce.h"
#include "refrain/kernels/rms_norm.h"
#include "refrain/layers/dropout.h"

namespace refrain {

Block::Block(std::unique_ptr<Mixer> mixer, const ModelConfig& config, int64_t index)
    : mixer_(std::move(mixer)),
      feed_forward_(config.d_model, config.d_ff),
      D_(config.d_model),
      blocks_(config.layers),
      eps_(static_cast<float>(config.rms_norm_eps)),
      bare_(config.bare()),
      mixer_site_(static_cast<uint64_t>(2 * index + 1)),
      feed_forward_site_(static_cast<uint64_t>(2 * index + 2)) {}

void Block::visit(const ParamVisitor& v) {
  if (bare_) return mixer_->visit(prefixed(v, "self_attn."));
  const float residual_std = kInitStd / std::sqrt(2.0f * static_cast<float>(blocks_));
  v({"input_layernorm.weight", {D_}, Init::constant(1), false}, norm1_);
  mixer_->visit(prefixed(v, "self_attn."));
  v({"post_attention_layernorm.weight", {D_}, Init::constant(1), false}, norm2_);
  feed_forward_.visit(prefixed(v, "mlp."), kInitStd, residual_std);
}

Block::Saved Block::carve(const Context& ctx, Arena& a, int64_t rows) const {
  return {a.take({rows, D_}), a.take({rows}), a.take({rows}), feed_forward_.carve(ctx, a, rows)};
}

void Block::forward(Context& ctx, const Window& w, ConstTensor x, Tensor y, const State* state,
                    Arena* saved) const {
  if (bare_) {
    mixer_->forward(ctx, w, x, y, state, saved);
    return apply_dropout(ctx, w, y, mixer_site_);
  }
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows();
  const Saved s = carve(ctx, saved ? *saved : ctx.scratch, R);
  const Tensor normed = ctx.scratch.take({R, D_}), delta = ctx.scratch.take({R, D_});
  if (!ctx.dry()) kernels::rms_norm_forward(x, norm1_.w, eps_, normed, s.r1);
  mixer_->forward(ctx, w, normed, delta, state, saved);
  apply_dropout(ctx, w, delta, mixer_site_);
  if (!ctx.dry()) kernels::residual_rms_norm_forward(x, delta, norm2_.w, eps_, s.h, normed, s.r2);
  feed_forward_.forward(ctx, normed, s.feed_forward, delta);
  apply_dropout(ctx, w, delta, feed_forward_site_);
  if (!ctx.dry()) kernels::add(s.h, delta, y);
}

ConstTensor Block::dropped(Context& ctx, const Window& w, ConstTensor d, uint64_t site) const {
  if (ctx.dropout.rate == 0) return d;
  const Tensor copy = ctx.scratch.take({w.rows(), D_});
  if (!ctx.dry()) std::copy(d.begin(), d.end(), copy.begin());
  apply_dropout(ctx, w, copy, site);
  return copy;
}

void Block::backward(Context& ctx, const Window& w, ConstTensor x, Tensor d, const State* state,
                     const State* dstate, Arena& saved) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows();
  if (bare_) {
    const Tensor dy = ctx.scratch.take({R, D_});
    if (!ctx.dry()) kernels::copy(d, dy);
    apply_dropout(ctx, w, dy, mixer_site_);
    return mixer_->backward(ctx, w, x, dy, d, state, dstate, saved);
  }
  const Saved s = carve(ctx, saved, R);
  const Tensor normed = ctx.scratch.take({R, D_}), dnormed = ctx.scratch.take({R, D_});

  if (!ctx.dry()) kernels::rms_norm_apply(s.h, norm2_.w, s.r2, normed);
  feed_forward_.backward(ctx, normed, s.feed_forward, dropped(ctx, w, d, feed_forward_site_),
                         dnormed);
  if (!ctx.dry()) kernels::rms_norm_backward(s.h, norm2_.w, s.r2, dnormed, d, norm2_.g, true);

  if (!ctx.dry()) kernels::rms_norm_apply(x, norm1_.w, s.r1, normed);
  mixer_->backward(ctx, w, normed, dropped(ctx, w, d, mixer_site_), dnormed, state, dstate, saved);
  if (!ctx.dry()) kernels::rms_norm_backward(x, norm1_.w, s.r1, dnormed, d, norm1_.g, true);
}

}  // namespace refrain
