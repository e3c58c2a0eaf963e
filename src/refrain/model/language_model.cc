#include "refrain/model/language_model.h"

#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/kernels/elementwise/embedding.h"
#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/elementwise/rms_norm.h"
#include "refrain/kernels/loss/cross_entropy.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/operations.h"
#include "refrain/model/target_rows.h"

namespace refrain {

LanguageModel::LanguageModel(ModelConfig config, Memory memory) : config_(std::move(config)) {
  config_.resolve();
  MixerDims dims = config_.mixer_dims();
  for (const MixerConfig& mixer : config_.mixers) {
    dims.index = static_cast<int64_t>(blocks_.size());
    blocks_.emplace_back(make_mixer(mixer, dims), config_, dims.index);
  }
  parameters_.declare([this](const ParamVisitor& v) { visit(v); });
  if (memory == Memory::kTaken) parameters_.allocate();
}

size_t LanguageModel::training_bytes() const {
  const bool looked_up_and_tied = config_.tie_embeddings && embedding_.trainable;
  return parameters_.training_bytes() +
         (looked_up_and_tied ? static_cast<size_t>(embedding_.w.size()) * sizeof(float) : 0);
}

void LanguageModel::visit(const ParamVisitor& v) {
  const int64_t V = config_.vocab_size, D = config_.d_model;
  v({"embedding.weight", {V, D}, Init::embedding(), false}, embedding_);
  for (size_t l = 0; l < blocks_.size(); ++l)
    blocks_[l].visit(prefixed(v, "layers." + std::to_string(l) + "."));
  if (!config_.bare()) v({"norm.weight", {D}, Init::constant(1), false}, norm_);
  if (!config_.tie_embeddings) v({"head.weight", {V, D}, Init::matrix(D), true}, head_);
  if (config_.bare()) v({"head.bias", {V}, Init::bias(D), false}, head_bias_);
}

void LanguageModel::initialise(uint64_t seed, const Initialisation& initialisation) {
  parameters_.initialize(seed, initialisation.scheme(config_.bare()));
}

void LanguageModel::pack_weights() {
  parameters_.pack(
      [&](const Param& param) { return &param != &embedding_ || config_.tie_embeddings; });
}

void LanguageModel::allocate_gradients() {
  parameters_.allocate_gradients();
  if (config_.tie_embeddings && embedding_.trainable)
    lookup_gradient_ = Buffer<float>(static_cast<size_t>(embedding_.w.size()));
}

Tensor LanguageModel::lookup_gradient() {
  if (!config_.tie_embeddings || !embedding_.trainable) return embedding_.g;
  float* at = lookup_gradient_.size() > 0 ? lookup_gradient_.data() : nowhere();
  return {at, {config_.vocab_size, config_.d_model}};
}

void LanguageModel::clear_gradients() {
  parameters_.clear_gradients();
  parallel_ranges(static_cast<int64_t>(lookup_gradient_.size()), 1 << 18,
                  [&](int64_t begin, int64_t end) {
                    std::fill(lookup_gradient_.data() + begin, lookup_gradient_.data() + end, 0.0f);
                  });
}

void LanguageModel::finish_gradients() {
  for (Block& block : blocks_) block.finish_gradients();
  if (config_.tie_embeddings && embedding_.trainable)
    kernels::add(embedding_.g, lookup_gradient(), embedding_.g);
}

int64_t LanguageModel::slice_rows() const { return head_rows(config_); }

LanguageModel::HeadInput LanguageModel::head_input(ExecutionContext& ctx, ConstTensor x,
                                                   std::span<const int32_t> rows) const {
  const int64_t n = static_cast<int64_t>(rows.size()), D = config_.d_model;
  HeadInput in;
  in.x = ctx.scratch.take({n, D});
  if (!ctx.planning())
    parallel_ranges(n, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(x.row(rows[static_cast<size_t>(i)]), D, in.x.row(i));
    });
  in.normed = in.x;
  if (config_.bare()) return in;
  in.r = ctx.scratch.take({n});
  in.normed = ctx.scratch.take({n, D});
  if (!ctx.planning())
    kernels::rms_norm_forward(in.x, norm_.w, static_cast<float>(config_.rms_norm_eps), in.normed,
                              in.r);
  return in;
}

void LanguageModel::head_forward(ExecutionContext& ctx, ConstTensor normed, Tensor logits) const {
  kernels::linear_forward(normed, head().w, logits, ctx.scratch, head().packed,
                          ctx.over_features());
  if (config_.bare() && !ctx.planning()) kernels::add_row(logits, head_bias_.w);
}

Tensor LanguageModel::hidden(ExecutionContext& ctx, const RaggedBatch& w,
                             std::span<const int32_t> tokens, std::span<const State> states) const {
  Tensor x = ctx.scratch.take({w.rows(), config_.d_model});
  Tensor y = ctx.scratch.take({w.rows(), config_.d_model});
  if (!ctx.planning()) kernels::embedding_forward(tokens, embedding_.w, x);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    blocks_[l].forward(ctx, w, x, y, states.empty() ? nullptr : &states[l], nullptr, {});
    std::swap(x, y);
  }
  return x;
}

void LanguageModel::losses(ExecutionContext& ctx, const RaggedBatch& w,
                           std::span<const int32_t> tokens, std::span<const int32_t> targets,
                           std::span<const State> states, Tensor losses) const {
  Arena::Frame frame(ctx.scratch);
  const TargetRows all(w, targets);
  const int64_t n = all.size(), slice = std::min(n, slice_rows());
  const Tensor x = hidden(ctx, w, tokens, states);
  const Tensor logits = ctx.scratch.take({slice, config_.vocab_size});
  const Tensor row_losses = ctx.scratch.take({slice});
  if (!ctx.planning()) std::fill(losses.begin(), losses.end(), 0.0f);
  for (int64_t first = 0; first < n; first += slice) {
    Arena::Frame slice_frame(ctx.scratch);
    const int64_t count = std::min(slice, n - first);
    const std::span<const int32_t> rows = all.rows(first, count);
    head_forward(ctx, head_input(ctx, x, rows).normed, logits.slice(0, count));
    if (ctx.planning()) continue;
    kernels::cross_entropy_forward(logits.slice(0, count), all.targets(first, count),
                                   row_losses.slice(0, count));
    for (int64_t i = 0; i < count; ++i)
      losses.data[rows[static_cast<size_t>(i)]] = row_losses.data[i];
  }
}

void LanguageModel::logits(ExecutionContext& ctx, const RaggedBatch& w,
                           std::span<const int32_t> tokens, std::span<const State> states,
                           std::span<const int32_t> rows, Tensor logits) const {
  Arena::Frame frame(ctx.scratch);
  head_forward(ctx, head_input(ctx, hidden(ctx, w, tokens, states), rows).normed, logits);
}

}  // namespace refrain
