// The feed-forward layer of a block: gated, as Llama's (Shazeer, 2020), or plain.
//
//   swiglu   y = W2( SiLU(x W1ᵀ) ⊙ (x W3ᵀ) )    W1 and W3 are one product, gate rows before up rows
//   gelu     y = W2( GELU(x W3ᵀ) )
#pragma once
#include <cmath>

#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/layers/linear.h"

namespace refrain {

class FeedForward {
 public:
  FeedForward(int64_t d_model, int64_t d_ff, bool gated)
      : gated_(gated), gate_up_{d_model, (gated ? 2 : 1) * d_ff}, down_{d_ff, d_model} {}

  // In a stack of `blocks`.
  void visit(const ParamVisitor& v, int64_t blocks) {
    const int64_t d_ff = down_.in;
    if (gated_)
      gate_up_.visit(v, "gate_up_proj.weight", Init::matrix(gate_up_.in),
                     {{"gate_proj.weight", d_ff}, {"up_proj.weight", d_ff}});
    else
      gate_up_.visit(v, "up_proj.weight", Init::matrix(gate_up_.in));
    down_.visit(v, "down_proj.weight", Init::output(down_.in, blocks));
  }

  // What backward reads: the values before the activation; with ctx.bf16() rounded, and saved so.
  struct Activations {
    Tensor gate_up;
    TensorOf<BFloat16> bf16;
  };
  Activations layout(const ExecutionContext& ctx, Arena& a, int64_t rows) const {
    if (ctx.bf16()) return {{}, a.take<BFloat16>({rows, gate_up_.out})};
    return {a.take({rows, gate_up_.out}), {}};
  }

  // x, y [R, D]; s from layout().
  void forward(ExecutionContext& ctx, ConstTensor x, const Activations& s, Tensor y) const {
    Arena::Frame frame(ctx.scratch);
    const Tensor a = ctx.scratch.take({x.rows(), down_.in});
    const Tensor gate_up = product(ctx, x, s);
    if (!ctx.planning()) {
      if (ctx.bf16() && gated_) {
        kernels::swiglu_forward_rounded(gate_up, s.bf16, a);
      } else {
        if (ctx.bf16()) kernels::round_to_bf16(gate_up, s.bf16);
        activate(gate_up, a);
      }
    }
    down_.forward(ctx, a, y);
  }

  // Fills s again, for backward, from forward's x.
  void recompute(ExecutionContext& ctx, ConstTensor x, const Activations& s) const {
    Arena::Frame frame(ctx.scratch);
    const Tensor gate_up = product(ctx, x, s);
    if (ctx.bf16() && !ctx.planning()) kernels::round_to_bf16(gate_up, s.bf16);
  }

  // dx overwritten; what was saved is used up: it becomes its own gradient.
  void backward(ExecutionContext& ctx, ConstTensor x, const Activations& s, ConstTensor dy,
                Tensor dx) const {
    Arena::Frame frame(ctx.scratch);
    const Tensor a = ctx.scratch.take({x.rows(), down_.in});
    const Tensor gate_up = ctx.bf16() ? ctx.scratch.take({x.rows(), gate_up_.out}) : s.gate_up;
    const bool reads_bf16 = ctx.bf16() && gated_;  // read as they were saved
    if (!ctx.planning()) {
      if (reads_bf16) {
        kernels::swiglu_forward(s.bf16, a);
      } else {
        if (ctx.bf16()) kernels::to_float(s.bf16, gate_up);
        activate(gate_up, a);
      }
    }
    down_.backward_weight(ctx, a, dy);
    const Tensor da = a;  // in its place
    down_.backward_input(ctx, dy, da);
    if (!ctx.planning()) {
      if (reads_bf16)
        kernels::swiglu_backward(s.bf16, da, gate_up);
      else if (gated_)
        kernels::swiglu_backward(gate_up, da, gate_up);
      else
        kernels::activation_backward(kernels::Activation::kGelu, gate_up, da, gate_up);
    }
    gate_up_.backward(ctx, x, gate_up, dx);
  }

 private:
  // The values before the activation, not yet rounded: in s, or in bfloat16 from scratch.
  Tensor product(ExecutionContext& ctx, ConstTensor x, const Activations& s) const {
    const Tensor gate_up = ctx.bf16() ? ctx.scratch.take({x.rows(), gate_up_.out}) : s.gate_up;
    gate_up_.forward(ctx, x, gate_up);
    return gate_up;
  }

  void activate(ConstTensor gate_up, Tensor a) const {
    if (gated_)
      kernels::swiglu_forward(gate_up, a);
    else
      kernels::activation_forward(kernels::Activation::kGelu, gate_up, a);
  }

  bool gated_;
  Linear gate_up_, down_;  // without a gate, up alone
};

}  // namespace refrain
