// The mixer that the classical cells share: a recurrent layer and, where its width is not the
// model's, a projection back to it.
//
//   y = h, or h W_oᵀ         h: kernels/sequence/recurrent.h
//
// `Config` names the cell: kCell, kName and the setting `hidden`.
#pragma once
#include <optional>
#include <vector>

#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/layers/recurrent.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

// The units of a cell whose setting is `hidden`.
inline int64_t recurrent_width(const MixerDims& shape, const char* kind, int64_t hidden) {
  constexpr int64_t kMost = 1 << 16;
  if (hidden < 0 || hidden > kMost)
    throw_error("{}.hidden: expected 0 to {}, found {}", kind, kMost, hidden);
  return hidden == 0 ? shape.d_model : hidden;
}

template <class Config>
class RecurrentMixer final : public Mixer {
 public:
  static constexpr MixerTraits kTraits{.sequential = true, .keeps_states = true};

  RecurrentMixer(const MixerDims& s, const Config& c)
      : cell_(Config::kCell, s.d_model, recurrent_width(s, Config::kName, c.hidden),
              s.activation_precision),
        blocks_(s.blocks) {
    if (cell_.hidden() != s.d_model) o_ = Linear{cell_.hidden(), s.d_model};
  }

  const MixerTraits& traits() const override { return kTraits; }

  void visit(const ParamVisitor& v) override {
    cell_.visit(v);
    if (o_) o_->visit(v, "o_proj.weight", Init::output(o_->in, blocks_));
  }

  void forward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
               const State* state, Arena* saved) const override {
    Arena::Frame frame(ctx.scratch);
    const Recurrent::Activations run = cell_.forward(ctx, w, x, rows(w, state), saved);
    if (o_)
      o_->forward(ctx, run.rows.h, y);
    else if (!ctx.planning())
      kernels::copy(run.rows.h, y);
  }

  void backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, const State*,
                const MixerGradients& gradients, Arena& saved) const override {
    Arena::Frame frame(ctx.scratch);
    const Recurrent::Activations run = cell_.recompute_forward(ctx, w, x, saved);
    ConstTensor dh = gradients.dy;
    if (o_) {
      const Tensor from_y = ctx.scratch.take({w.rows(), cell_.hidden()});
      o_->backward(ctx, run.rows.h, gradients.dy, from_y);
      dh = from_y;
    }
    cell_.backward(ctx, x, run, dh, gradients.dx, rows(w, gradients.dstate));
  }

  size_t state_bytes(int64_t) const override {
    return static_cast<size_t>(cell_.state_floats()) * sizeof(float);
  }

 private:
  static std::vector<float*> rows(const RaggedBatch& w, const State* state) {
    std::vector<float*> all;
    for (int64_t b = 0; state && b < w.sequences(); ++b) all.push_back(state->row(b));
    return all;
  }

  Recurrent cell_;
  std::optional<Linear> o_;
  int64_t blocks_;
};

}  // namespace refrain
