// The feed-forward layer of a block: gated, as Llama's (Shazeer, 2020), or plain.
//
//   swiglu   y = W2( SiLU(x W1ᵀ) ⊙ (x W3ᵀ) )    W1 and W3 are one product, gate rows before up rows
//   gelu     y = W2( GELU(x W3ᵀ) )                and relu likewise, both with biases by choice
#pragma once
#include <cmath>
#include <optional>

#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/format_int16.h"
#include "refrain/layers/linear.h"

namespace refrain {

class FeedForward {
 public:
  struct Options {
    // Without one it is gated.
    std::optional<kernels::Activation> activation{};
    bool bias = false;  // of one that is not gated
    kernels::ActivationPrecision precision = kernels::ActivationPrecision::kAccurate;
  };
  FeedForward(int64_t d_model, int64_t d_ff, const Options& options)
      : activation_(options.activation),
        precision_(options.precision),
        gate_up_{d_model, (gated() ? 2 : 1) * d_ff, options.bias},
        down_{d_ff, d_model, options.bias} {}

  // In a stack of `blocks`.
  void visit(const ParamVisitor& v, int64_t blocks) {
    const int64_t d_ff = down_.in;
    if (gated())
      gate_up_.visit(v, "gate_up_proj.weight", Init::matrix(gate_up_.in),
                     {{"gate_proj.weight", d_ff}, {"up_proj.weight", d_ff}});
    else
      gate_up_.visit(v, "up_proj.weight", Init::matrix(gate_up_.in));
    down_.visit(v, "down_proj.weight", Init::output(down_.in, blocks));
  }

  // What backward reads: the values before the activation; with ctx.bf16() rounded, and saved so.
  // A slice of them after another, each [rows, columns].
  struct Activations {
    Tensor gate_up;
    TensorOf<BFloat16> bf16;
  };
  Activations layout(const ExecutionContext& ctx, Arena& a, int64_t rows) const {
    const int64_t n = slices(ctx), columns = gate_up_.out / n;
    if (ctx.bf16()) return {{}, a.take<BFloat16>({n * rows, columns})};
    return {a.take({n * rows, columns}), {}};
  }

  // x, y [R, D]; s from layout().
  void forward(ExecutionContext& ctx, ConstTensor x, const Activations& s, Tensor y) const {
    if (is_fused(ctx)) {
      Arena::Frame frame(ctx.scratch);
      const kernels::SwigluRows rows = swiglu_rows(ctx, s);
      gate_up_.forward_swiglu(ctx, x, rows);
      return down_.forward(ctx, rows.a, y);
    }
    for (int64_t i = 0; i < slices(ctx); ++i) {
      Arena::Frame frame(ctx.scratch);
      const Slice part = slice(ctx, s, i, x.rows());
      const Tensor a = ctx.scratch.take({x.rows(), part.width});
      part.map.forward(ctx, x, part.gate_up);
      if (!ctx.planning()) {
        if (ctx.bf16() && gated()) {
          kernels::swiglu_forward_rounded(part.gate_up, part.bf16, a, precision_);
        } else {
          if (ctx.bf16()) kernels::round_to_bf16(part.gate_up, part.bf16);
          activate(part.gate_up, a);
        }
      }
      down_.forward_inputs(ctx, part.first, a, y, i > 0);
    }
    if (down_.bias && !ctx.planning()) kernels::add_row(y, down_.b.w);
  }

  // Fills s again, for backward, from forward's x.
  void recompute(ExecutionContext& ctx, ConstTensor x, const Activations& s) const {
    if (is_fused(ctx)) return gate_up_.forward_swiglu(ctx, x, {s.bf16, {}, precision_});
    for (int64_t i = 0; i < slices(ctx); ++i) {
      Arena::Frame frame(ctx.scratch);
      const Slice part = slice(ctx, s, i, x.rows());
      part.map.forward(ctx, x, part.gate_up);
      if (ctx.bf16() && !ctx.planning()) kernels::round_to_bf16(part.gate_up, part.bf16);
    }
  }

  // dx overwritten; what was saved is used up: it becomes its own gradient.
  void backward(ExecutionContext& ctx, ConstTensor x, const Activations& s, ConstTensor dy,
                Tensor dx) const {
    if (is_fused(ctx)) {
      Arena::Frame frame(ctx.scratch);
      const kernels::SwigluRows rows = swiglu_rows(ctx, s);
      down_.backward_input_swiglu(ctx, dy, rows);
      down_.backward_weight(ctx, rows.a, dy);
      return gate_up_.backward(ctx, x, rows.gate_up, dx);
    }
    if (down_.bias && !ctx.planning()) kernels::column_sum_add(dy, down_.b.g);
    for (int64_t i = 0; i < slices(ctx); ++i) {
      Arena::Frame frame(ctx.scratch);
      const Slice part = slice(ctx, s, i, x.rows());
      const Tensor a = ctx.scratch.take({x.rows(), part.width}), gate_up = part.gate_up;
      const bool reads_bf16 = ctx.bf16() && gated();  // read as they were saved
      if (!ctx.planning()) {
        if (reads_bf16) {
          kernels::swiglu_forward(part.bf16, a, precision_);
        } else {
          if (ctx.bf16()) kernels::to_float(part.bf16, gate_up);
          activate(gate_up, a);
        }
      }
      down_.backward_weight_inputs(ctx, part.first, a, dy);
      const Tensor da = a;  // in its place
      down_.backward_inputs(ctx, part.first, dy, da);
      if (!ctx.planning()) {
        if (reads_bf16)
          kernels::swiglu_backward(part.bf16, da, gate_up, precision_);
        else if (gated())
          kernels::swiglu_backward(gate_up, da, gate_up, precision_);
        else
          kernels::activation_backward(*activation_, gate_up, da, gate_up, precision_);
      }
      part.map.backward(ctx, x, gate_up, dx, i > 0);
    }
  }

 private:
  // Products and activation are one, and what passes between products is rounded where it is made.
  bool is_fused(const ExecutionContext& ctx) const {
    return ctx.bf16() && gated() && (ctx.training || !gate_up_.w.packed) && !has_adapters(ctx) &&
           kernels::can_fuse_swiglu(down_.in);
  }
  bool has_adapters(const ExecutionContext& ctx) const {
    return gate_up_.adapter(ctx) || down_.adapter(ctx);
  }
  kernels::SwigluRows swiglu_rows(ExecutionContext& ctx, const Activations& s) const {
    return {s.bf16, ctx.scratch.take<BFloat16>({s.bf16.rows(), down_.in}), precision_};
  }

  // The plain layer goes through its inner features in slices, so that what is there only between
  // two products takes little memory. They are cut at multiples of every product's groups of
  // features, which changes no bit. Packed weights are whole, and maps with adapters.
  int64_t slices(const ExecutionContext& ctx) const {
    constexpr int64_t kSlices = 4;
    const bool cut =
        !gated() && !down_.w.packed && !has_adapters(ctx) && down_.in % (kSlices * kFeatures) == 0;
    return cut ? kSlices : 1;
  }
  struct Slice {
    Linear map;            // of gate_up_
    int64_t first, width;  // of the inputs of down_
    // Values before the activation, not yet rounded: in what is saved, or in bfloat16 from scratch.
    Tensor gate_up;
    TensorOf<BFloat16> bf16;  // what is saved of them, in bfloat16
  };
  Slice slice(ExecutionContext& ctx, const Activations& s, int64_t i, int64_t rows) const {
    const int64_t n = slices(ctx), columns = gate_up_.out / n, width = down_.in / n;
    Slice part{n > 1 ? gate_up_.outputs(i * columns, columns) : gate_up_, i * width, width, {}, {}};
    if (ctx.bf16()) {
      part.gate_up = ctx.scratch.take({rows, columns});
      part.bf16 = s.bf16.slice(i * rows, rows);
    } else {
      part.gate_up = s.gate_up.slice(i * rows, rows);
    }
    return part;
  }

  void activate(ConstTensor gate_up, Tensor a) const {
    if (gated())
      kernels::swiglu_forward(gate_up, a, precision_);
    else
      kernels::activation_forward(*activation_, gate_up, a, precision_);
  }

  // Groups of every compute type end at multiples of it.
  static constexpr int64_t kFeatures = kernels::kInt16Features;
  static_assert(kFeatures % kernels::kReductionGroup == 0);

  bool gated() const { return !activation_; }

  std::optional<kernels::Activation> activation_;
  kernels::ActivationPrecision precision_;
  Linear gate_up_, down_;  // without a gate, up alone
};

}  // namespace refrain
