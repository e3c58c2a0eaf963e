#include "refrain/layers/adapter.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/base/random.h"
#include "refrain/kernels/elementwise/dropout.h"

namespace refrain {
namespace {

using kernels::Operand;

Operand columns(const Operand& x, int64_t first, int64_t count) {
  if (x.is_bf16()) return Operand(x.bf16().col_range(first, count));
  return Operand(x.f32().col_range(first, count));
}

}  // namespace

Adapter::Adapter(int64_t in, std::vector<Part> parts, float dropout, uint64_t site)
    : in_(in), parts_(std::move(parts)), dropout_(dropout), site_(site) {
  for (Part& part : parts_) {
    part.at = rank_;
    rank_ += part.rank;
  }
}

void Adapter::apply_dropout(const ExecutionContext& ctx, MatrixView<float> x) const {
  if (ctx.planning()) return;
  REFRAIN_CHECK(x.row_stride == x.cols && x.rows == std::ssize(ctx.row_ids));
  kernels::dropout_apply(Tensor(x.data, {x.rows, x.cols}), dropout_,
                         mix_key(ctx.dropout.key, "adapter", site_), ctx.row_ids);
}

Operand Adapter::dropped(const ExecutionContext& ctx, const Operand& x) const {
  if (!drops(ctx)) return x;
  const Tensor copy = ctx.scratch.take({x.f32().rows, in_});
  if (ctx.planning()) return Operand(copy);
  parallel_ranges(copy.rows(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t i = 0; i < in_; ++i)
        copy.row(row)[i] =
            x.is_bf16() ? static_cast<float>(x.bf16().at(row, i)) : x.f32().at(row, i);
    }
  });
  apply_dropout(ctx, copy);
  return Operand(copy);
}

void Adapter::scale(Tensor u) const {
  parallel_ranges(u.rows(), 256, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (const Part& part : parts_)
        for (int64_t i = part.at; i < part.at + part.rank; ++i) u.row(row)[i] *= part.scale;
  });
}

Tensor Adapter::inner(const ExecutionContext& ctx, const Operand& x) const {
  const Tensor u = ctx.scratch.take({x.f32().rows, rank_});
  kernels::linear_forward(x, a_.w, u, ctx.scratch, {}, ctx.over_features());
  if (!ctx.planning()) scale(u);
  return u;
}

template <class F>
void Adapter::each_within(int64_t first, int64_t count, F&& f) const {
  for (const Part& part : parts_) {
    const int64_t begin = std::max(first, part.first);
    const int64_t n = std::min(first + count, part.first + part.outputs) - begin;
    if (n > 0) f(part, begin - part.first, begin - first, n);
  }
}

Tensor Adapter::inner_gradient(const ExecutionContext& ctx, const Operand& dy,
                               int64_t first) const {
  const Tensor du = ctx.scratch.take({dy.f32().rows, rank_});
  if (!ctx.planning()) std::fill(du.begin(), du.end(), 0.0f);  // of parts of other outputs
  each_within(first, dy.f32().cols, [&](const Part& part, int64_t own, int64_t at, int64_t n) {
    kernels::linear_backward_input(columns(dy, at, n), part.b.w.slice(own, n),
                                   MatrixView<float>(du).col_range(part.at, part.rank), ctx.scratch,
                                   ctx.over_features());
  });
  if (!ctx.planning()) scale(du);
  return du;
}

void Adapter::forward(const ExecutionContext& ctx, const Operand& x, MatrixView<float> y,
                      int64_t first) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor u = inner(ctx, dropped(ctx, x));
  each_within(first, y.cols, [&](const Part& part, int64_t own, int64_t at, int64_t n) {
    kernels::linear_forward(MatrixView<const float>(u).col_range(part.at, part.rank),
                            part.b.w.slice(own, n), y.col_range(at, n), ctx.scratch, {},
                            ctx.over_features(true));
  });
}

void Adapter::backward_weight(const ExecutionContext& ctx, const Operand& x, const Operand& dy,
                              int64_t first) const {
  Arena::Frame frame(ctx.scratch);
  const Operand read = dropped(ctx, x);
  const Tensor u = inner(ctx, read), du = inner_gradient(ctx, dy, first);
  each_within(first, dy.f32().cols, [&](const Part& part, int64_t own, int64_t at, int64_t n) {
    if (part.b.g)
      kernels::linear_backward_weight(columns(dy, at, n),
                                      MatrixView<const float>(u).col_range(part.at, part.rank),
                                      part.b.g.slice(own, n), ctx.scratch, ctx.over_rows());
  });
  kernels::linear_backward_weight(MatrixView<const float>(du), read, a_.g, ctx.scratch,
                                  ctx.over_rows());
}

void Adapter::backward_input(const ExecutionContext& ctx, const Operand& dy, MatrixView<float> dx,
                             int64_t first) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor du = inner_gradient(ctx, dy, first);
  if (!drops(ctx))
    return kernels::linear_backward_input(MatrixView<const float>(du), a_.w, dx, ctx.scratch,
                                          ctx.over_features(true));
  const Tensor share = ctx.scratch.take({dx.rows, in_});
  kernels::linear_backward_input(MatrixView<const float>(du), a_.w, share, ctx.scratch,
                                 ctx.over_features());
  if (ctx.planning()) return;
  apply_dropout(ctx, share);
  parallel_ranges(dx.rows, 64, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row)
      for (int64_t i = 0; i < in_; ++i) dx.row(row)[i] += share.row(row)[i];
  });
}

Adapter& AdapterSet::add(int32_t index, int64_t in, std::vector<Adapter::Part> parts,
                         float dropout) {
  REFRAIN_CHECK(index >= 0);
  const auto i = static_cast<size_t>(index);
  if (i >= adapters_.size()) adapters_.resize(i + 1);
  REFRAIN_CHECK(!adapters_[i]);
  adapters_[i] =
      std::make_unique<Adapter>(in, std::move(parts), dropout, static_cast<uint64_t>(index));
  return *adapters_[i];
}

}  // namespace refrain
