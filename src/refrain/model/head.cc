#include "refrain/model/head.h"

#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/kernels/loss/cross_entropy.h"
#include "refrain/model/operations.h"
#include "refrain/model/target_rows.h"

namespace refrain {

Head::Head(const ModelConfig& config, const Param* tied)
    : vocab_size_(config.vocab_size),
      width_(config.d_model),
      slice_rows_(head_rows(config)),
      mixer_only_(config.bare()),
      tied_(tied),
      norm_(config.d_model, static_cast<float>(config.rms_norm_eps), config.centred()),
      map_{config.d_model, config.vocab_size, config.bare()} {}

void Head::visit(const ParamVisitor& v) {
  const int64_t V = vocab_size_, D = width_;
  if (!mixer_only_) norm_.visit(v, "norm");
  if (!tied_)
    map_.visit(v, "head.weight", Init::matrix(D));
  else if (mixer_only_)
    v({"head.bias", {V}, Init::bias(D), false}, map_.b);
}

Linear Head::map() const {
  Linear map = map_;
  if (tied_) map.w = *tied_;
  return map;
}

Head::Input Head::input(ExecutionContext& ctx, ConstTensor x, std::span<const int32_t> rows) const {
  const int64_t n = std::ssize(rows), D = width_;
  Input in;
  in.x = ctx.scratch.take({n, D});
  if (!ctx.planning())
    parallel_ranges(n, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(x.row(rows[static_cast<size_t>(i)]), D, in.x.row(i));
    });
  in.normed = in.x;
  if (mixer_only_) return in;
  in.r = ctx.scratch.take({n});
  in.normed = ctx.scratch.take({n, D});
  norm_.forward(ctx, in.x, in.normed, in.r);
  return in;
}

void Head::logits(ExecutionContext& ctx, ConstTensor x, std::span<const int32_t> rows,
                  Tensor logits) const {
  map().forward(ctx, input(ctx, x, rows).normed, logits);
}

void Head::losses(ExecutionContext& ctx, const RaggedBatch& batch, ConstTensor x,
                  std::span<const int32_t> targets, Tensor losses) const {
  Arena::Frame frame(ctx.scratch);
  const TargetRows all(batch, targets);
  const Linear map = this->map();
  const int64_t n = all.size(), slice = std::min(n, slice_rows_);
  const Tensor logits = ctx.scratch.take({slice, vocab_size_});
  const Tensor row_losses = ctx.scratch.take({slice});
  if (!ctx.planning()) std::fill(losses.begin(), losses.end(), 0.0f);
  for (int64_t first = 0; first < n; first += slice) {
    Arena::Frame slice_frame(ctx.scratch);
    const int64_t count = std::min(slice, n - first);
    const std::span<const int32_t> rows = all.rows(first, count);
    map.forward(ctx, input(ctx, x, rows).normed, logits.slice(0, count));
    if (ctx.planning()) continue;
    kernels::cross_entropy_forward(logits.slice(0, count), all.targets(first, count),
                                   row_losses.slice(0, count));
    for (int64_t i = 0; i < count; ++i)
      losses.data[rows[static_cast<size_t>(i)]] = row_losses.data[i];
  }
}

void Head::train(const ExecutionContext& context, const RaggedBatch& batch, ConstTensor x,
                 std::span<const int32_t> targets, const TrainingOptions& options,
                 const Outputs& out) {
  ExecutionContext ctx = context;
  Arena::Frame frame(ctx.scratch);
  const TargetRows all(batch, targets);
  const Linear map = this->map();
  const int64_t n = all.size(), D = width_;
  REFRAIN_CHECK(options.head_rows == 0 || options.head_rows >= kernels::kReductionGroupRows);
  const int64_t slice = std::min(n, options.head_rows > 0 ? options.head_rows : slice_rows_);
  const Tensor logits = ctx.scratch.take({slice, vocab_size_});
  const Tensor dnormed = ctx.scratch.take({slice, D}), row_losses = ctx.scratch.take({slice});
  if (!ctx.planning()) {
    std::fill(out.losses.begin(), out.losses.end(), 0.0f);
    for (int64_t row = 0; row < out.d.rows(); ++row)
      if (targets[static_cast<size_t>(row)] < 0) std::fill_n(out.d.row(row), D, 0.0f);
  }
  for (int64_t first = 0, count = 0; first < n; first += count) {
    Arena::Frame slice_frame(ctx.scratch);
    const std::vector<int32_t> cu_seqlens = all.cu_seqlens(first, std::min(n, first + slice));
    ctx.cu_seqlens = cu_seqlens;
    count = cu_seqlens.back();
    const std::span<const int32_t> rows = all.rows(first, count);
    const Input in = input(ctx, x, rows);
    const Tensor part_logits = logits.slice(0, count), dpart = dnormed.slice(0, count);
    map.forward(ctx, in.normed, part_logits);
    if (!ctx.planning())
      kernels::softmax_cross_entropy(part_logits, all.targets(first, count), options.scale,
                                     options.label_smoothing, row_losses.slice(0, count));
    map.backward(ctx, in.normed, part_logits, dpart);
    Tensor dx = dpart;
    if (!mixer_only_) {
      dx = in.normed;  // which nobody reads any more
      norm_.backward(ctx, in.x, in.r, dpart, dx);
    }
    if (ctx.planning()) continue;
    for (int64_t i = 0; i < count; ++i) {
      const int32_t row = rows[static_cast<size_t>(i)];
      std::copy_n(dx.row(i), D, out.d.row(row));
      out.losses.data[row] = row_losses.data[i];
    }
  }
}

}  // namespace refrain
