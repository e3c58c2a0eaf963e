#include "refrain/model/language_model.h"

#include <algorithm>

#include "refrain/base/parallel.h"
#include "refrain/base/random.h"
#include "refrain/kernels/cross_entropy.h"
#include "refrain/kernels/embedding.h"
#include "refrain/kernels/reduce.h"
#include "refrain/kernels/rms_norm.h"
#include "refrain/layers/dropout.h"
#include "refrain/mixers/registry.h"

namespace refrain {
namespace {

constexpr uint64_t kEmbeddingSite = 0;
constexpr int64_t kFloatsPerLine = 16;

int64_t padded(int64_t n) { return (n + kFloatsPerLine - 1) / kFloatsPerLine * kFloatsPerLine; }

// The rows [first, first + count) of a per-row array.
template <class T>
std::span<T> part(std::span<T> all, int64_t first, int64_t count) {
  return all.subspan(static_cast<size_t>(first), static_cast<size_t>(count));
}

}  // namespace

LanguageModel::LanguageModel(ModelConfig config, const Options& mixer_settings)
    : config_(std::move(config)), mixer_settings_(mixer_settings) {
  config_.resolve();
  const MixerShape shape = config_.mixer_shape();
  for (const std::string& kind : config_.mixers())
    blocks_.emplace_back(make_mixer(kind, shape, mixer_settings_), shape, config_.d_ff,
                         static_cast<float>(config_.rms_norm_eps),
                         static_cast<int64_t>(blocks_.size()));
  int64_t total = 0;
  visit([&](const ParamSpec& spec, Param&) {
    parameters_ += spec.size();
    total += padded(spec.size());
  });
  weights_ = Buffer<float>(static_cast<size_t>(total));
  float* at = weights_.data();
  visit([&](const ParamSpec& spec, Param& param) {
    REFRAIN_CHECK(!spec.shape.empty() && spec.shape.size() <= 4);
    param.w.rank = static_cast<int>(spec.shape.size());
    std::copy(spec.shape.begin(), spec.shape.end(), param.w.dim.begin());
    param.w.data = at;
    at += padded(spec.size());
  });
}

void LanguageModel::visit(const ParamVisitor& v) {
  const int64_t V = config_.vocab_size, D = config_.d_model;
  v({"model.embed_tokens.weight", {V, D}, Init::normal(kInitStd), false}, embedding_);
  for (size_t l = 0; l < blocks_.size(); ++l)
    blocks_[l].visit(prefixed(v, "model.layers." + std::to_string(l) + "."));
  v({"model.norm.weight", {D}, Init::constant(1), false}, norm_);
  if (!config_.tie_embeddings) v({"lm_head.weight", {V, D}, Init::normal(kInitStd), true}, head_);
}

void LanguageModel::initialise(uint64_t seed) {
  visit([&](const ParamSpec& spec, Param& param) {
    if (spec.init.kind == Init::kConstant) {
      std::fill(param.w.begin(), param.w.end(), spec.init.value);
      return;
    }
    Random random(mix_key(seed, spec.name));
    for (float& w : param.w) w = static_cast<float>(random.normal()) * spec.init.value;
  });
}

void LanguageModel::allocate_gradients() {
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
  return {lookup_gradient_.data(), {config_.vocab_size, config_.d_model}};
}

void LanguageModel::clear_gradients() {
  for (std::span<float> all : {gradients_.span(), lookup_gradient_.span()})
    parallel_ranges(static_cast<int64_t>(all.size()), 1 << 18, [&](int64_t begin, int64_t end) {
      std::fill(all.data() + begin, all.data() + end, 0.0f);
    });
}

void LanguageModel::finish_gradients() {
  if (config_.tie_embeddings) kernels::add(embedding_.g, lookup_gradient(), embedding_.g);
}

// Rows whose logits exist at a time: a bounded buffer, but enough rows to fill the products.
int64_t LanguageModel::slice_rows(int64_t rows) const {
  constexpr int64_t kFloats = int64_t{1} << 23;
  return std::min(rows, std::max<int64_t>(128, kFloats / config_.vocab_size));
}

void LanguageModel::train(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                          std::span<const int32_t> targets, float scale, float label_smoothing,
                          Recompute recompute, Tensor losses, Arena& saved) {
  Arena::Frame scratch_frame(ctx.scratch), saved_frame(saved);
  const int64_t R = w.rows(), D = config_.d_model, V = config_.vocab_size;
  const size_t L = blocks_.size();
  std::vector<Tensor> x(L + 1);  // x[l]: what block l reads
  for (Tensor& t : x) t = saved.take({R, D});
  std::vector<size_t> marks(L);

  if (!ctx.dry()) kernels::embedding_forward(tokens, embedding_.w, x[0]);
  apply_dropout(ctx, w, x[0], kEmbeddingSite);
  for (size_t l = 0; l < L; ++l) {
    marks[l] = saved.mark();
    blocks_[l].forward(ctx, w, x[l], x[l + 1], nullptr, recompute.blocks ? nullptr : &saved);
  }

  // The head, forward and backward, in slices of rows: the logits never exist whole.
  const Tensor d = ctx.scratch.take({R, D});
  {
    Arena::Frame frame(ctx.scratch);
    const Tensor normed = ctx.scratch.take({R, D}), dnormed = ctx.scratch.take({R, D});
    const Tensor r = ctx.scratch.take({R});
    const int64_t slice = slice_rows(R);
    const Tensor logits = ctx.scratch.take({slice, V});
    if (!ctx.dry())
      kernels::rms_norm_forward(x[L], norm_.w, static_cast<float>(config_.rms_norm_eps), normed, r);
    for (int64_t row = 0; row < R; row += slice) {
      const int64_t n = std::min(slice, R - row);
      const Tensor part_logits = logits.slice(0, n), part_normed = normed.slice(row, n);
      kernels::linear_forward(part_normed, head().w, part_logits, ctx.scratch);
      if (!ctx.dry())
        kernels::softmax_cross_entropy(part_logits, part(targets, row, n), scale, label_smoothing,
                                       losses.slice(row, n));
      kernels::linear_backward_input(part_logits, head().w, dnormed.slice(row, n), ctx.scratch);
      kernels::linear_backward_weight(part_logits, part_normed, head().g, ctx.scratch);
    }
    if (!ctx.dry()) kernels::rms_norm_backward(x[L], norm_.w, r, dnormed, d, norm_.g, false);
  }

  for (size_t l = L; l-- > 0;) {
    saved.rewind(marks[l]);
    if (recompute.blocks) {
      Arena::Frame frame(ctx.scratch);
      const Tensor y = ctx.scratch.take({R, D});
      blocks_[l].forward(ctx, w, x[l], y, nullptr, &saved);
      saved.rewind(marks[l]);
    }
    blocks_[l].backward(ctx, w, x[l], d, nullptr, nullptr, saved);
  }
  apply_dropout(ctx, w, d, kEmbeddingSite);
  if (!ctx.dry()) kernels::embedding_backward(tokens, d, lookup_gradient());
}

Tensor LanguageModel::hidden(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                             std::span<const State> states) const {
  Tensor x = ctx.scratch.take({w.rows(), config_.d_model});
  Tensor y = ctx.scratch.take({w.rows(), config_.d_model});
  if (!ctx.dry()) kernels::embedding_forward(tokens, embedding_.w, x);
  for (size_t l = 0; l < blocks_.size(); ++l) {
    blocks_[l].forward(ctx, w, x, y, states.empty() ? nullptr : &states[l], nullptr);
    std::swap(x, y);
  }
  return x;
}

void LanguageModel::losses(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                           std::span<const int32_t> targets, std::span<const State> states,
                           Tensor losses) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), slice = slice_rows(R);
  const Tensor x = hidden(ctx, w, tokens, states);
  const Tensor normed = ctx.scratch.take({R, config_.d_model}), r = ctx.scratch.take({R});
  const Tensor logits = ctx.scratch.take({slice, config_.vocab_size});
  if (!ctx.dry())
    kernels::rms_norm_forward(x, norm_.w, static_cast<float>(config_.rms_norm_eps), normed, r);
  for (int64_t row = 0; row < R; row += slice) {
    const int64_t n = std::min(slice, R - row);
    kernels::linear_forward(normed.slice(row, n), head().w, logits.slice(0, n), ctx.scratch);
    if (!ctx.dry())
      kernels::cross_entropy_forward(logits.slice(0, n), part(targets, row, n),
                                     losses.slice(row, n));
  }
}

void LanguageModel::logits(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                           std::span<const State> states, std::span<const int32_t> rows,
                           Tensor logits) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t n = static_cast<int64_t>(rows.size()), D = config_.d_model;
  const Tensor x = hidden(ctx, w, tokens, states);
  const Tensor chosen = ctx.scratch.take({n, D}), r = ctx.scratch.take({n});
  if (!ctx.dry()) {
    for (int64_t i = 0; i < n; ++i)
      std::copy_n(x.row(rows[static_cast<size_t>(i)]), D, chosen.row(i));
    kernels::rms_norm_forward(chosen, norm_.w, static_cast<float>(config_.rms_norm_eps), chosen, r);
  }
  kernels::linear_forward(chosen, head().w, logits, ctx.scratch);
}

}  // namespace refrain
