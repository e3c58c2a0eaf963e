// A linear map: y = x wᵀ (+ b), w [out, in], b [out], and what adapters of the context add. All
// products of layers, mixers and models go through it: how their operands enter them is known here
// and in kernels/matmul alone.
#pragma once
#include <string>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/kernels/matmul/storage/stored_product.h"
#include "refrain/kernels/matmul/swiglu_matmul.h"
#include "refrain/layers/adapter.h"
#include "refrain/layers/execution_context.h"
#include "refrain/layers/param.h"

namespace refrain {

using kernels::Operand;

struct Linear {
  int64_t in, out;
  bool bias = false;
  Param w{}, b{};
  int64_t first = 0;  // of the outputs that are here, among those that w's adapters know

  // `name` ends with ".weight"; a bias takes ".bias" in its place, and the same parts.
  void visit(const ParamVisitor& v, const std::string& name, Init init,
             std::vector<ParamPart> parts = {}, ReadBy read_by = ReadBy::kProducts) {
    v({name, {out, in}, init, true, parts, read_by}, w);
    if (!bias) return;
    for (ParamPart& part : parts) part.name = bias_name(part.name);
    v({bias_name(name), {out}, Init::bias(in), false, std::move(parts)}, b);
  }
  // The outputs [first, first + count) alone. Gradients go where this map's go.
  Linear outputs(int64_t from, int64_t count) const {
    Linear part = *this;
    part.first += from;
    part.out = count;
    part.w.w = w.w.slice(from, count);
    if (w.g) part.w.g = w.g.slice(from, count);
    const bool begins_a_panel = from % kernels::kWeightPanel == 0;
    REFRAIN_CHECK(begins_a_panel || !w.packed);
    part.w.packed = w.packed.panels_from(from / kernels::kWeightPanel, in);
    if (bias) part.b.w = b.w.slice(from, count);
    if (bias && b.g) part.b.g = b.g.slice(from, count);
    return part;
  }
  const Adapter* adapter(const ExecutionContext& ctx) const {
    return ctx.adapters ? ctx.adapters->of(w) : nullptr;
  }
  // With w packed, in scratch if it is not yet: for a map that meets few rows again and again.
  Linear packed(const ExecutionContext& ctx) const {
    Linear map = *this;
    if (w.packed) return map;
    const Tensor to = ctx.scratch.take({kernels::packed_size(out, in)});
    if (!ctx.planning()) kernels::pack_weight(w.w, to.data);
    map.w.packed = to.data;
    return map;
  }
  // With w as rows, in scratch if it is stored in another way alone: for what products do not read.
  Linear unpacked(const ExecutionContext& ctx) const {
    Linear map = *this;
    if (!w.packed) return map;
    map.w = {ctx.scratch.take({out, in}), w.g};
    if (!ctx.planning()) kernels::unpack(w.packed, map.w.w);
    return map;
  }

  // x [R, in], y [R, out]; with `add`, the product is added to what y holds.
  void forward(const ExecutionContext& ctx, const Operand& x, MatrixView<float> y,
               bool add = false) const {
    if (is_stored(ctx))
      kernels::stored_linear_forward(x, stored(), y, ctx.scratch, ctx.over_features(add));
    else
      kernels::linear_forward(x, w.w, y, ctx.scratch, w.packed, ctx.over_features(add));
    if (bias && !ctx.planning()) kernels::add_row(y, b.w);
    if (const Adapter* its = adapter(ctx)) its->forward(ctx, x, y, first);
  }
  // dx = dy w, or dx + dy w
  void backward_input(const ExecutionContext& ctx, const Operand& dy, MatrixView<float> dx,
                      bool add = false) const {
    if (is_stored(ctx))
      kernels::stored_linear_backward_input(dy, stored(), dx, ctx.scratch, ctx.over_features(add));
    else
      kernels::linear_backward_input(dy, w.w, dx, ctx.scratch, ctx.over_features(add));
    if (const Adapter* its = adapter(ctx)) its->backward_input(ctx, dy, dx, first);
  }
  // w.g += dyᵀ x; b.g += the sum of dy's rows; and those of adapters
  void backward_weight(const ExecutionContext& ctx, const Operand& x, const Operand& dy) const {
    kernels::linear_backward_weight(dy, x, w.g, ctx.scratch, ctx.over_rows());
    REFRAIN_CHECK(!bias || !dy.is_bf16());
    if (bias && !ctx.planning()) kernels::column_sum_add(dy.f32(), b.g);
    if (const Adapter* its = adapter(ctx)) its->backward_weight(ctx, x, dy, first);
  }
  // The same of the inputs [from, from + x.cols) alone, without a bias. A map that is packed or has
  // adapters is whole.
  void forward_inputs(const ExecutionContext& ctx, int64_t from, MatrixView<const float> x,
                      MatrixView<float> y, bool add) const {
    if (is_whole(ctx, x.cols)) return without_bias().forward(ctx, x, y, add);
    const auto columns = MatrixView<const float>(w.w).col_range(from, x.cols);
    kernels::linear_forward(x, columns, y, ctx.scratch, {}, ctx.over_features(add));
  }
  void backward_inputs(const ExecutionContext& ctx, int64_t from, MatrixView<const float> dy,
                       MatrixView<float> dx) const {
    if (is_whole(ctx, dx.cols)) return backward_input(ctx, dy, dx);
    const auto columns = MatrixView<const float>(w.w).col_range(from, dx.cols);
    kernels::linear_backward_input(dy, columns, dx, ctx.scratch, ctx.over_features());
  }
  void backward_weight_inputs(const ExecutionContext& ctx, int64_t from, MatrixView<const float> x,
                              MatrixView<const float> dy) const {
    if (is_whole(ctx, x.cols)) return without_bias().backward_weight(ctx, x, dy);
    MatrixView<float> columns(w.g);
    if (columns) columns = columns.col_range(from, x.cols);
    kernels::linear_backward_weight(dy, x, columns, ctx.scratch, ctx.over_rows());
  }
  // With the activation of a gated layer (kernels/matmul/swiglu_matmul.h): of [gate up], this map's
  // outputs, and of the gradient of its inputs.
  void forward_swiglu(const ExecutionContext& ctx, MatrixView<const float> x,
                      const kernels::SwigluRows& to) const {
    kernels::swiglu_linear_forward(x, {w.w, w.packed}, to, ctx.scratch);
  }
  void backward_input_swiglu(const ExecutionContext& ctx, MatrixView<const float> dy,
                             const kernels::SwigluRows& rows) const {
    kernels::swiglu_linear_backward(dy, {w.w, w.packed}, rows, ctx.scratch);
  }
  // Both.
  void backward(const ExecutionContext& ctx, const Operand& x, const Operand& dy,
                MatrixView<float> dx, bool add = false) const {
    backward_input(ctx, dy, dx, add);
    backward_weight(ctx, x, dy);
  }

 private:
  // Backward follows, from weights that are packed.
  bool is_stored(const ExecutionContext& ctx) const {
    return ctx.training && w.packed && w.packed.type != Storage::kFloat32;
  }
  kernels::StoredMatrix stored() const { return {w.packed, out, in}; }
  bool is_whole(const ExecutionContext& ctx, int64_t inputs) const {
    REFRAIN_CHECK(inputs == in || (!w.packed && !adapter(ctx)));
    return inputs == in;
  }
  Linear without_bias() const {
    Linear map = *this;
    map.bias = false;
    return map;
  }
  static std::string bias_name(const std::string& name) {
    constexpr std::string_view kWeight = ".weight";
    REFRAIN_CHECK(name.ends_with(kWeight));
    return name.substr(0, name.size() - kWeight.size()) + ".bias";
  }
};

}  // namespace refrain
