// A linear map: y = x wᵀ (+ b), w [out, in], b [out].
#pragma once
#include <string>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/layers/execution_context.h"
#include "refrain/layers/param.h"

namespace refrain {

struct Linear {
  int64_t in, out;
  bool bias = false;
  Param w{}, b{};

  // `name` ends with ".weight"; a bias takes ".bias" in its place, and the same parts.
  void visit(const ParamVisitor& v, const std::string& name, Init init,
             std::vector<ParamPart> parts = {}) {
    v({name, {out, in}, init, true, parts}, w);
    if (!bias) return;
    for (ParamPart& part : parts) part.name = bias_name(part.name);
    v({bias_name(name), {out}, Init::bias(in), false, std::move(parts)}, b);
  }
  // x [R, in], y [R, out]
  void forward(ExecutionContext& ctx, ConstTensor x, Tensor y) const {
    kernels::linear_forward(x, w.w, y, ctx.scratch, w.packed, ctx.over_features());
    if (bias && !ctx.planning()) kernels::add_row(y, b.w);
  }
  // dx = dy w (overwritten); w.g += dyᵀ x; b.g += the sum of dy's rows
  void backward(ExecutionContext& ctx, ConstTensor x, ConstTensor dy, Tensor dx) const {
    kernels::linear_backward_input(dy, w.w, dx, ctx.scratch, ctx.over_features());
    backward_weight(ctx, x, dy);
  }
  // Only what the weights get.
  void backward_weight(ExecutionContext& ctx, ConstTensor x, ConstTensor dy) const {
    kernels::linear_backward_weight(dy, x, w.g, ctx.scratch, ctx.over_rows());
    if (bias && !ctx.planning()) kernels::column_sum_add(dy, b.g);
  }

 private:
  static std::string bias_name(const std::string& name) {
    constexpr std::string_view kWeight = ".weight";
    REFRAIN_CHECK(name.ends_with(kWeight));
    return name.substr(0, name.size() - kWeight.size()) + ".bias";
  }
};

}  // namespace refrain
