#include "refrain/model/language_model.h"

#include <algorithm>
#include <cstring>

#include "refrain/base/parallel.h"
#include "refrain/kernels/cross_entropy.h"
#include "refrain/kernels/embedding.h"
#include "refrain/kernels/gemm.h"
#include "refrain/kernels/reduce.h"
#include "refrain/kernels/rms_norm.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/operations.h"
#include "refrain/model/supervised_rows.h"

namespace refrain {
namespace {

constexpr int64_t kFloatsPerLine = 16;

int64_t padded(int64_t n) { return (n + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine; }

}  // namespace

LanguageModel::LanguageModel(ModelConfig config, const Options& mixer_settings, Memory memory)
    : config_(std::move(config)), mixer_settings_(mixer_settings) {
  config_.resolve();
  MixerShape shape = config_.mixer_shape();
  for (const std::string& kind : config_.mixers()) {
    shape.index = static_cast<int64_t>(blocks_.size());
    blocks_.emplace_back(make_mixer(kind, shape, mixer_settings_), config_, shape.index);
  }
  visit([&](const ParamSpec& spec, Param& param) {
    REFRAIN_CHECK(!spec.shape.empty() && spec.shape.size() <= 4);
    shape_param(spec, param);
    parameters_ += spec.size();
    floats_ += padded(spec.size());
  });
  if (memory == Memory::kTaken) take_memory();
}

void LanguageModel::take_memory() {
  weights_ = Buffer<float>(static_cast<size_t>(floats_));
  float* at = weights_.data();
  visit([&](const ParamSpec& spec, Param& param) {
    param.w.data = at;
    at += padded(spec.size());
  });
}

size_t LanguageModel::training_bytes() const {
  // Weights, gradients, two moments; and a tied embedding's second gradient.
  const int64_t lookup = config_.tie_embeddings ? config_.vocab_size * config_.d_model : 0;
  return static_cast<size_t>(4 * floats_ + lookup) * sizeof(float);
}

void LanguageModel::visit(const ParamVisitor& v) {
  const int64_t V = config_.vocab_size, D = config_.d_model;
  v({"model.embed_tokens.weight", {V, D}, Init::embedding(), false}, embedding_);
  for (size_t l = 0; l < blocks_.size(); ++l)
    blocks_[l].visit(prefixed(v, "model.layers." + std::to_string(l) + "."));
  if (!config_.bare()) v({"model.norm.weight", {D}, Init::constant(1), false}, norm_);
  if (!config_.tie_embeddings) v({"lm_head.weight", {V, D}, Init::matrix(D), true}, head_);
  if (config_.bare()) v({"lm_head.bias", {V}, Init::bias(D), false}, head_bias_);
}

void LanguageModel::initialise(uint64_t seed, const Initialisation& initialisation) {
  const InitScheme scheme = initialisation.scheme(config_.bare());
  visit([&](const ParamSpec& spec, Param& param) { draw_initial(spec, param, scheme, seed); });
}

void LanguageModel::pack_weights() {
  const auto is_factor = [&](const Param& param) {
    return param.w.rank == 2 && (&param != &embedding_ || config_.tie_embeddings);
  };
  int64_t total = 0;
  visit([&](const ParamSpec&, Param& param) {
    if (is_factor(param)) total += kernels::packed_size(param.w.rows(), param.w.cols());
  });
  packed_ = Buffer<float>(static_cast<size_t>(total));
  float* at = packed_.data();
  visit([&](const ParamSpec&, Param& param) {
    if (!is_factor(param)) return;
    kernels::pack_weight(param.w, at);
    param.packed = at;
    at += kernels::packed_size(param.w.rows(), param.w.cols());
  });
}

void LanguageModel::allocate_gradients() {
  visit([](const ParamSpec&, Param& param) { param.packed = nullptr; });
  packed_ = Buffer<float>();
  gradients_ = Buffer<float>(weights_.size());
  visit([&](const ParamSpec&, Param& param) {
    param.g = param.w;
    param.g.data = gradients_.data() + (param.w.data - weights_.data());
  });
  if (config_.tie_embeddings)
    lookup_gradient_ = Buffer<float>(static_cast<size_t>(embedding_.w.size()));
}

Tensor LanguageModel::lookup_gradient() {
  if (!config_.tie_embeddings) return embedding_.g;
  float* at = lookup_gradient_.size() > 0 ? lookup_gradient_.data() : nowhere();
  return {at, {config_.vocab_size, config_.d_model}};
}

void LanguageModel::clear_gradients() {
  for (std::span<float> all : {gradients_.span(), lookup_gradient_.span()})
    parallel_ranges(static_cast<int64_t>(all.size()), 1 << 18, [&](int64_t begin, int64_t end) {
      std::fill(all.data() + begin, all.data() + end, 0.0f);
    });
}

void LanguageModel::finish_gradients() {
  for (Block& block : blocks_) block.finish_gradients();
  if (config_.tie_embeddings) kernels::add(embedding_.g, lookup_gradient(), embedding_.g);
}

int64_t LanguageModel::slice_rows() const { return head_rows(config_); }

LanguageModel::HeadInput LanguageModel::head_input(Context& ctx, ConstTensor x,
                                                   std::span<const int32_t> rows) const {
  const int64_t n = static_cast<int64_t>(rows.size()), D = config_.d_model;
  HeadInput in;
  in.x = ctx.scratch.take({n, D});
  if (!ctx.dry())
    parallel_ranges(n, 256, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        std::copy_n(x.row(rows[static_cast<size_t>(i)]), D, in.x.row(i));
    });
  in.normed = in.x;
  if (config_.bare()) return in;
  in.r = ctx.scratch.take({n});
  in.normed = ctx.scratch.take({n, D});
  if (!ctx.dry())
    kernels::rms_norm_forward(in.x, norm_.w, static_cast<float>(config_.rms_norm_eps), in.normed,
                              in.r);
  return in;
}

void LanguageModel::head_forward(Context& ctx, ConstTensor normed, Tensor logits) const {
  kernels::linear_forward(normed, head().w, logits, ctx.scratch, head().packed,
                          ctx.over_features());
  if (config_.bare() && !ctx.dry()) kernels::add_row(logits, head_bias_.w);
}

Tensor LanguageModel::hidden(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                             std::span<const State> states) const {
  Tensor x = ctx.scratch.take({w.rows(), config_.d_model});
  Tensor y = ctx.scratch.take({w.rows(), config_.d_model});
  if (!ctx.dry()) kernels::embedding_forward(tokens, embedding_.w, x);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    blocks_[l].forward(ctx, w, x, y, states.empty() ? nullptr : &states[l], nullptr, {});
    std::swap(x, y);
  }
  return x;
}

void LanguageModel::losses(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                           std::span<const int32_t> targets, std::span<const State> states,
                           Tensor losses) const {
  Arena::Frame frame(ctx.scratch);
  const SupervisedRows all(w, targets);
  const int64_t n = all.size(), slice = std::min(n, slice_rows());
  const Tensor x = hidden(ctx, w, tokens, states);
  const Tensor logits = ctx.scratch.take({slice, config_.vocab_size});
  const Tensor row_losses = ctx.scratch.take({slice});
  if (!ctx.dry()) std::fill(losses.begin(), losses.end(), 0.0f);
  for (int64_t first = 0; first < n; first += slice) {
    Arena::Frame slice_frame(ctx.scratch);
    const int64_t count = std::min(slice, n - first);
    const std::span<const int32_t> rows = all.rows(first, count);
    head_forward(ctx, head_input(ctx, x, rows).normed, logits.slice(0, count));
    if (ctx.dry()) continue;
    kernels::cross_entropy_forward(logits.slice(0, count), all.targets(first, count),
                                   row_losses.slice(0, count));
    for (int64_t i = 0; i < count; ++i)
      losses.data[rows[static_cast<size_t>(i)]] = row_losses.data[i];
  }
}

void LanguageModel::logits(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                           std::span<const State> states, std::span<const int32_t> rows,
                           Tensor logits) const {
  Arena::Frame frame(ctx.scratch);
  head_forward(ctx, head_input(ctx, hidden(ctx, w, tokens, states), rows).normed, logits);
}

}  // namespace refrain
