// The gated feed-forward layer of a Llama block (Shazeer, 2020):
//
//   y = W2( SiLU(x W1ᵀ) ⊙ (x W3ᵀ) )      W1 and W3 are one product, gate rows before up rows
#pragma once
#include <cmath>

#include "refrain/kernels/activation.h"
#include "refrain/kernels/bf16.h"
#include "refrain/layers/linear.h"

namespace refrain {

class FeedForward {
 public:
  FeedForward(int64_t d_model, int64_t d_ff) : gate_up_{d_model, 2 * d_ff}, down_{d_ff, d_model} {}

  void visit(const ParamVisitor& v, float std, float residual_std) {
    const int64_t d_ff = down_.in;
    gate_up_.visit(v, "gate_up_proj.weight", Init::normal(std),
                   {{"gate_proj.weight", d_ff}, {"up_proj.weight", d_ff}});
    down_.visit(v, "down_proj.weight", Init::normal(residual_std));
  }

  // What backward reads: the values before the activation; with ctx.bf16 rounded, and saved so.
  struct Saved {
    Tensor gate_up;
    TensorOf<BFloat16> narrow;
  };
  Saved carve(const Context& ctx, Arena& a, int64_t rows) const {
    if (ctx.bf16) return {{}, a.take<BFloat16>({rows, gate_up_.out})};
    return {a.take({rows, gate_up_.out}), {}};
  }

  // x, y [R, D]; s from carve().
  void forward(Context& ctx, ConstTensor x, const Saved& s, Tensor y) const {
    Arena::Frame frame(ctx.scratch);
    const Tensor a = ctx.scratch.take({x.rows(), down_.in});
    const Tensor gate_up = ctx.bf16 ? ctx.scratch.take({x.rows(), gate_up_.out}) : s.gate_up;
    gate_up_.forward(ctx, x, gate_up);
    if (ctx.bf16 && !ctx.dry()) kernels::round_to_bf16(gate_up, s.narrow);
    if (!ctx.dry()) kernels::swiglu_forward(gate_up, a);
    down_.forward(ctx, a, y);
  }

  // dx overwritten; what was saved is used up: it becomes its own gradient.
  void backward(Context& ctx, ConstTensor x, const Saved& s, ConstTensor dy, Tensor dx) const {
    Arena::Frame frame(ctx.scratch);
    const Tensor a = ctx.scratch.take({x.rows(), down_.in});
    const Tensor da = ctx.scratch.take({x.rows(), down_.in});
    const Tensor gate_up = ctx.bf16 ? ctx.scratch.take({x.rows(), gate_up_.out}) : s.gate_up;
    if (ctx.bf16 && !ctx.dry()) kernels::widen(s.narrow, gate_up);
    if (!ctx.dry()) kernels::swiglu_forward(gate_up, a);
    down_.backward(ctx, a, dy, da);
    if (!ctx.dry()) kernels::swiglu_backward(gate_up, da, gate_up);
    gate_up_.backward(ctx, x, gate_up, dx);
  }

 private:
  Linear gate_up_, down_;
};

}  // namespace refrain
