// A linear map without bias: y = x wᵀ, w [out, in].
#pragma once
#include <string>
#include <vector>

#include "refrain/kernels/gemm.h"
#include "refrain/layers/context.h"
#include "refrain/layers/param.h"

namespace refrain {

struct Linear {
  int64_t in, out;
  Param w{};

  void visit(const ParamVisitor& v, std::string name, Init init,
             std::vector<ParamPart> parts = {}) {
    v({std::move(name), {out, in}, init, true, std::move(parts)}, w);
  }
  // x [R, in], y [R, out]
  void forward(Context& ctx, ConstTensor x, Tensor y) const {
    kernels::linear_forward(x, w.w, y, ctx.scratch);
  }
  // dx = dy w (overwritten); w.g += dyᵀ x
  void backward(Context& ctx, ConstTensor x, ConstTensor dy, Tensor dx) const {
    kernels::linear_backward_input(dy, w.w, dx, ctx.scratch);
    kernels::linear_backward_weight(dy, x, w.g, ctx.scratch);
  }
};

}  // namespace refrain
