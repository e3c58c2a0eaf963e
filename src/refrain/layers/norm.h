// The norm of a block's halves and of the head:
//
//   rms_norm     y = w x / sqrt(mean(x^2) + eps)                     Zhang and Sennrich, 2019
//   layer_norm   y = w c / sqrt(mean(c^2) + eps) + b, c = x - mean(x)    Ba et al., 2016
//
// The second is the first of the centred row, with a bias. x, y [R, D]; forward writes r [R], the
// reciprocal roots, for backward.
#pragma once
#include <string>

#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/elementwise/rms_norm.h"
#include "refrain/layers/execution_context.h"
#include "refrain/layers/param.h"

namespace refrain {

class Norm {
 public:
  Norm(int64_t width, float eps, bool centred) : width_(width), eps_(eps), centred_(centred) {}

  // "<name>.weight" and, of a layer_norm, "<name>.bias".
  void visit(const ParamVisitor& v, const std::string& name) {
    v({name + ".weight", {width_}, Init::constant(1), false}, w_);
    if (centred_) v({name + ".bias", {width_}, Init::constant(0), false}, b_);
  }

  void forward(ExecutionContext& ctx, ConstTensor x, Tensor y, Tensor r) const {
    const Arena::Frame frame(ctx.scratch);
    const ConstTensor c = centre(ctx, x);
    if (ctx.planning()) return;
    kernels::rms_norm_forward(c, {w_.w, eps_}, y, r);
    if (centred_) kernels::add_row(y, b_.w);
  }
  // sum = x + delta, y = norm(sum)
  void forward_sum(ExecutionContext& ctx, ConstTensor x, ConstTensor delta, Tensor sum, Tensor y,
                   Tensor r) const {
    if (centred_) {
      if (!ctx.planning()) kernels::add(x, delta, sum);
      forward(ctx, sum, y, r);
    } else if (!ctx.planning()) {
      kernels::residual_rms_norm_forward(x, delta, {w_.w, eps_}, sum, y, r);
    }
  }
  // y again, from the r of forward, with the same bits.
  void apply(ExecutionContext& ctx, ConstTensor x, ConstTensor r, Tensor y) const {
    const Arena::Frame frame(ctx.scratch);
    const ConstTensor c = centre(ctx, x);
    if (ctx.planning()) return;
    kernels::rms_norm_apply(c, w_.w, r, y);
    if (centred_) kernels::add_row(y, b_.w);
  }
  // dx is overwritten, or added to with `add`.
  void backward(ExecutionContext& ctx, ConstTensor x, ConstTensor r, ConstTensor dy, Tensor dx,
                bool add = false) const {
    if (!centred_) {
      if (!ctx.planning()) kernels::rms_norm_backward(x, w_.w, r, dy, {dx, w_.g, add});
      return;
    }
    const Arena::Frame frame(ctx.scratch);
    const ConstTensor c = centre(ctx, x);
    const Tensor dc = ctx.scratch.take({x.rows(), width_});
    if (ctx.planning()) return;
    kernels::column_sum_add(dy, b_.g);
    kernels::rms_norm_backward(c, w_.w, r, dy, {dc, w_.g});
    kernels::center_rows(dc, dc);
    if (add)
      kernels::add(dx, dc, dx);
    else
      kernels::copy(dc, dx);
  }

 private:
  // x, or its centred rows in scratch.
  ConstTensor centre(ExecutionContext& ctx, ConstTensor x) const {
    if (!centred_) return x;
    const Tensor c = ctx.scratch.take({x.rows(), width_});
    if (!ctx.planning()) kernels::center_rows(x, c);
    return c;
  }

  int64_t width_;
  float eps_;
  bool centred_;
  Param w_, b_;  // [D]
};

}  // namespace refrain
