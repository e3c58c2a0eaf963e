#include "refrain/model/block.h"

#include <algorithm>
#include <cmath>

#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/layers/dropout.h"

namespace refrain {

Block::Block(std::unique_ptr<Mixer> mixer, const ModelConfig& config, int64_t index)
    : mixer_(std::move(mixer)),
      feed_forward_(config.d_model, config.d_ff, config.feed_forward_options()),
      norm1_(config.d_model, static_cast<float>(config.rms_norm_eps), config.centred()),
      norm2_(norm1_),
      D_(config.d_model),
      blocks_(config.layers),
      bare_(config.bare()),
      mixer_site_(static_cast<uint64_t>(2 * index + 1)),
      feed_forward_site_(static_cast<uint64_t>(2 * index + 2)) {}

void Block::visit(const ParamVisitor& v) {
  if (bare_) return mixer_->visit(prefixed(v, "mixer."));
  norm1_.visit(v, "mixer_norm");
  mixer_->visit(prefixed(v, "mixer."));
  norm2_.visit(v, "feed_forward_norm");
  feed_forward_.visit(prefixed(v, "feed_forward."), blocks_);
}

Block::Activations Block::layout(const ExecutionContext& ctx, const RaggedBatch& w, bool states,
                                 Arena& a, BlockRecompute recompute) const {
  const int64_t R = w.rows();
  Activations s{a.take({R, D_}), a.take({R}), a.take({R}), {}, {}};
  if (!recompute.feed_forward) s.feed_forward = feed_forward_.layout(ctx, a, R);
  if (recompute.mixer && states) s.initial = StateSnapshot(w, *mixer_, a);
  return s;
}

ConstTensor Block::dropped(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor d,
                           uint64_t site) const {
  if (ctx.dropout.rate == 0) return d;
  const Tensor copy = ctx.scratch.take({w.rows(), D_});
  if (!ctx.planning()) std::copy(d.begin(), d.end(), copy.begin());
  apply_dropout(ctx, w, copy, site);
  return copy;
}

void Block::forward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                    const State* state, SaveOptions save) const {
  if (!save.arena || !save.recompute.all) return run(ctx, w, x, y, state, save);
  if (state) {
    StateSnapshot initial(w, *mixer_, *save.arena);
    if (!ctx.planning()) initial.copy(w, *mixer_, *state);
  }
  // The place of what backward will compute again is free until then.
  Arena::Frame frame(*save.arena);
  run(ctx, w, x, y, state, {save.arena});
}

void Block::backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor d,
                     BlockStates states, SaveOptions save) const {
  if (!save.recompute.all) return run_back(ctx, w, x, d, states, save);
  Arena& saved = *save.arena;
  std::optional<StateSnapshot> initial;
  if (states.value) initial.emplace(w, *mixer_, saved);
  const State own = initial ? initial->state() : State();
  const State* state = initial ? &own : nullptr;
  const size_t mark = saved.mark();
  if (bare_) {
    Arena::Frame frame(ctx.scratch);
    run(ctx, w, x, ctx.scratch.take({w.rows(), D_}), state, {&saved});
  } else {
    run(ctx, w, x, {}, state, {&saved});
  }
  saved.rewind(mark);
  run_back(ctx, w, x, d, {state, states.gradient}, {&saved});
}

void Block::run(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                const State* state, SaveOptions save) const {
  Arena* const saved = save.arena;
  const BlockRecompute recompute = saved ? save.recompute : BlockRecompute{};
  if (bare_) {
    mixer_->forward(ctx, w, x, y, state, saved);
    return apply_dropout(ctx, w, y, mixer_site_);
  }
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows();
  Activations s = layout(ctx, w, state != nullptr, saved ? *saved : ctx.scratch, recompute);
  if (s.initial && !ctx.planning()) s.initial->copy(w, *mixer_, *state);
  const Tensor normed = ctx.scratch.take({R, D_}), delta = ctx.scratch.take({R, D_});
  norm1_.forward(ctx, x, normed, s.r1);
  mixer_->forward(ctx, w, normed, delta, state, recompute.mixer ? nullptr : saved);
  apply_dropout(ctx, w, delta, mixer_site_);
  norm2_.forward_sum(ctx, x, delta, s.h, normed, s.r2);
  if (recompute.feed_forward) s.feed_forward = feed_forward_.layout(ctx, ctx.scratch, R);
  if (y.rank == 0) return feed_forward_.recompute(ctx, normed, s.feed_forward);
  feed_forward_.forward(ctx, normed, s.feed_forward, delta);
  apply_dropout(ctx, w, delta, feed_forward_site_);
  if (!ctx.planning()) kernels::add(s.h, delta, y);
}

void Block::run_back(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor d,
                     BlockStates states, SaveOptions save) const {
  Arena& saved = *save.arena;
  const BlockRecompute recompute = save.recompute;
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows();
  if (bare_) {
    const Tensor dy = ctx.scratch.take({R, D_});
    if (!ctx.planning()) kernels::copy(d, dy);
    apply_dropout(ctx, w, dy, mixer_site_);
    return mixer_->backward(ctx, w, x, states.value, {dy, d, states.gradient}, saved);
  }
  Activations s = layout(ctx, w, states.value != nullptr, saved, recompute);
  const Tensor dnormed = ctx.scratch.take({R, D_});
  {
    Arena::Frame half(ctx.scratch);
    const Tensor normed = ctx.scratch.take({R, D_});
    norm2_.apply(ctx, s.h, s.r2, normed);
    if (recompute.feed_forward) {
      s.feed_forward = feed_forward_.layout(ctx, ctx.scratch, R);
      feed_forward_.recompute(ctx, normed, s.feed_forward);
    }
    feed_forward_.backward(ctx, normed, s.feed_forward, dropped(ctx, w, d, feed_forward_site_),
                           dnormed);
  }
  norm2_.backward(ctx, s.h, s.r2, dnormed, d, true);

  const Tensor normed = s.h;  // in its place
  norm1_.apply(ctx, x, s.r1, normed);
  const State own = s.initial ? s.initial->state() : State();
  const State* state = s.initial ? &own : states.value;
  if (recompute.mixer) {
    const size_t mark = saved.mark();
    mixer_->forward(ctx, w, normed, dnormed, state, &saved);
    saved.rewind(mark);
  }
  mixer_->backward(ctx, w, normed, state,
                   {dropped(ctx, w, d, mixer_site_), dnormed, states.gradient}, saved);
  norm1_.backward(ctx, x, s.r1, dnormed, d, true);
}

}  // namespace refrain
