#include "refrain/model/language_model.h"

#include <algorithm>
#include <cstring>

#include "refrain/base/parallel.h"
#include "refrain/base/random.h"
#include "refrain/kernels/cross_entropy.h"
#include "refrain/kernels/embedding.h"
#include "refrain/kernels/gemm.h"
#include "refrain/kernels/gemm_bf16.h"
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

std::vector<int32_t> supervised(std::span<const int32_t> targets) {
  std::vector<int32_t> rows;
  for (size_t i = 0; i < targets.size(); ++i)
    if (targets[i] >= 0) rows.push_back(static_cast<int32_t>(i));
  return rows;
}

std::vector<int32_t> chosen(std::span<const int32_t> all, std::span<const int32_t> rows) {
  std::vector<int32_t> some;
  for (const int32_t row : rows) some.push_back(all[static_cast<size_t>(row)]);
  return some;
}

// Of the rows with a target: where those of each piece begin, [B + 1].
std::vector<int32_t> chosen_offsets(const Window& w, std::span<const int32_t> targets) {
  std::vector<int32_t> offsets = {0};
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const auto piece = part(targets, w.first(b), w.length(b));
    offsets.push_back(offsets.back() +
                      static_cast<int32_t>(std::count_if(piece.begin(), piece.end(),
                                                         [](int32_t t) { return t >= 0; })));
  }
  return offsets;
}

// Offsets of the pieces that rows [row, end) are of. Ends earlier where a piece would be cut
// elsewhere than after a multiple of the rows that a product sums at a time.
std::vector<int32_t> slice_pieces(std::span<const int32_t> offsets, int64_t row, int64_t end) {
  const auto next = std::upper_bound(offsets.begin(), offsets.end() - 1, end);
  const int64_t piece = *(next - 1);
  if (end < *next) end = piece + (end - piece) / kernels::kGrain * kernels::kGrain;
  std::vector<int32_t> pieces = {0};
  for (const int32_t offset : offsets)
    if (offset > row && offset < end) pieces.push_back(static_cast<int32_t>(offset - row));
  pieces.push_back(static_cast<int32_t>(end - row));
  return pieces;
}

// What a block's states hold before a window, for running the window again.
class StateCopies {
 public:
  StateCopies() = default;
  StateCopies(const Context& ctx, const Window& w, const Block& block, const State& from,
              Arena& arena) {
    for (int64_t b = 0; b < w.sequences(); ++b) {
      // Room for the window too; what there is to copy is what its start needs.
      const size_t bytes = block.state_bytes(w.begins_at(b) + w.length(b));
      const auto to = arena.take<std::byte>({static_cast<int64_t>(bytes)});
      rows_.push_back(to.data);
      if (!ctx.dry() && bytes > 0)
        std::memcpy(to.data, from.row(b), block.state_bytes(w.begins_at(b)));
    }
  }
  State state() const { return {rows_}; }

 private:
  std::vector<std::byte*> rows_;
};

}  // namespace

LanguageModel::LanguageModel(ModelConfig config, const Options& mixer_settings)
    : config_(std::move(config)), mixer_settings_(mixer_settings) {
  config_.resolve();
  const MixerShape shape = config_.mixer_shape();
  for (const std::string& kind : config_.mixers())
    blocks_.emplace_back(make_mixer(kind, shape, mixer_settings_), config_,
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
  if (!config_.bare()) v({"model.norm.weight", {D}, Init::constant(1), false}, norm_);
  if (!config_.tie_embeddings) v({"lm_head.weight", {V, D}, Init::normal(kInitStd), true}, head_);
  if (config_.bare()) v({"lm_head.bias", {V}, Init::constant(0), false}, head_bias_);
}

void LanguageModel::initialise(uint64_t seed) {
  visit([&](const ParamSpec& spec, Param& param) {
    if (spec.init.kind == Init::kConstant) {
      for (int64_t i = 0; i < param.w.size(); ++i)
        param.w.data[i] = i >= spec.init.first && i < spec.init.end ? spec.init.value : 0;
      return;
    }
    Random random(mix_key(seed, spec.name));
    for (float& w : param.w)
      w = spec.init.mean + static_cast<float>(random.normal()) * spec.init.value;
  });
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
  return {lookup_gradient_.data(), {config_.vocab_size, config_.d_model}};
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

// Rows whose logits exist at a time: few enough for the cache, but enough to fill the products.
int64_t LanguageModel::slice_rows(int64_t rows) const {
  constexpr int64_t kFloats = int64_t{1} << 18;
  return std::min(rows, std::max<int64_t>(256, kFloats / config_.vocab_size));
}

void LanguageModel::train(const Context& context, const Window& w, const Lesson& lesson,
                          Tensor losses, Arena& saved) {
  Context ctx = context;
  ctx.keep_every = lesson.recompute.keep_every;
  ctx.bf16 = lesson.bf16;
  ctx.pieces = w.offset;
  Arena::Frame scratch_frame(ctx.scratch), saved_frame(saved);
  const int64_t R = w.rows(), D = config_.d_model;
  const size_t L = blocks_.size();
  const bool again = lesson.recompute.blocks;
  std::vector<Tensor> x(L + 1);  // x[l]: what block l reads
  for (Tensor& t : x) t = saved.take({R, D});
  std::vector<StateCopies> found(L);
  std::vector<size_t> marks(L);
  const auto state = [&](size_t l) { return lesson.states.empty() ? nullptr : &lesson.states[l]; };

  if (!ctx.dry()) kernels::embedding_forward(lesson.tokens, embedding_.w, x[0]);
  apply_dropout(ctx, w, x[0], kEmbeddingSite);
  if (again && !lesson.states.empty())
    for (size_t l = 0; l < L; ++l) found[l] = StateCopies(ctx, w, blocks_[l], *state(l), saved);
  for (size_t l = 0; l < L; ++l) {
    marks[l] = saved.mark();
    blocks_[l].forward(ctx, w, x[l], x[l + 1], state(l), again ? nullptr : &saved);
  }

  const Tensor d = ctx.scratch.take({R, D});
  train_head(ctx, w, x[L], lesson, losses, d);

  for (size_t l = L; l-- > 0;) {
    saved.rewind(marks[l]);
    if (again) {
      Arena::Frame frame(ctx.scratch);
      const Tensor y = ctx.scratch.take({R, D});
      const State from_start = found[l].state();
      blocks_[l].forward(ctx, w, x[l], y, state(l) ? &from_start : nullptr, &saved);
      saved.rewind(marks[l]);
    }
    blocks_[l].backward(ctx, w, x[l], d, state(l), nullptr, saved);
  }
  apply_dropout(ctx, w, d, kEmbeddingSite);
  if (!ctx.dry()) kernels::embedding_backward(lesson.tokens, d, lookup_gradient());
}

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

// In slices of the supervised rows, forward and backward at once: the logits never exist whole.
void LanguageModel::train_head(Context& context, const Window& w, ConstTensor x,
                               const Lesson& lesson, Tensor losses, Tensor d) {
  Context ctx = context;
  Arena::Frame frame(ctx.scratch);
  const std::vector<int32_t> rows = supervised(lesson.targets);
  const std::vector<int32_t> targets = chosen(lesson.targets, rows);
  const int64_t n = static_cast<int64_t>(rows.size()), D = config_.d_model;
  const HeadInput in = head_input(ctx, x, rows);
  const Tensor dnormed = ctx.scratch.take({n, D}), row_losses = ctx.scratch.take({n});
  const int64_t slice = slice_rows(n);
  const Tensor logits = ctx.scratch.take({slice, config_.vocab_size});
  const std::vector<int32_t> offsets = chosen_offsets(w, lesson.targets);
  for (int64_t row = 0, count = 0; row < n; row += count) {
    const std::vector<int32_t> pieces = slice_pieces(offsets, row, std::min(n, row + slice));
    ctx.pieces = pieces;
    count = pieces.back();
    const Tensor part_logits = logits.slice(0, count), part_normed = in.normed.slice(row, count);
    head_forward(ctx, part_normed, part_logits);
    if (!ctx.dry())
      kernels::softmax_cross_entropy(part_logits, part(std::span(targets), row, count),
                                     lesson.scale, lesson.label_smoothing,
                                     row_losses.slice(row, count));
    kernels::linear_backward_input(part_logits, head().w, dnormed.slice(row, count), ctx.scratch,
                                   ctx.over_features());
    kernels::linear_backward_weight(part_logits, part_normed, head().g, ctx.scratch,
                                    ctx.over_rows());
    if (config_.bare() && !ctx.dry()) kernels::column_sum_add(part_logits, head_bias_.g);
  }
  if (ctx.dry()) return;
  Tensor dx = dnormed;
  if (!config_.bare()) {
    dx = in.normed;  // which nobody reads any more
    kernels::rms_norm_backward(in.x, norm_.w, in.r, dnormed, dx, norm_.g, false);
  }
  std::fill(d.begin(), d.end(), 0.0f);
  std::fill(losses.begin(), losses.end(), 0.0f);
  for (int64_t i = 0; i < n; ++i) {
    const int32_t row = rows[static_cast<size_t>(i)];
    std::copy_n(dx.row(i), D, d.row(row));
    losses.data[row] = row_losses.data[i];
  }
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
  const std::vector<int32_t> rows = supervised(targets);
  const std::vector<int32_t> wanted = chosen(targets, rows);
  const int64_t n = static_cast<int64_t>(rows.size()), slice = slice_rows(n);
  const HeadInput in = head_input(ctx, hidden(ctx, w, tokens, states), rows);
  const Tensor logits = ctx.scratch.take({slice, config_.vocab_size});
  const Tensor row_losses = ctx.scratch.take({n});
  for (int64_t row = 0; row < n; row += slice) {
    const int64_t count = std::min(slice, n - row);
    head_forward(ctx, in.normed.slice(row, count), logits.slice(0, count));
    if (!ctx.dry())
      kernels::cross_entropy_forward(logits.slice(0, count), part(std::span(wanted), row, count),
                                     row_losses.slice(row, count));
  }
  if (ctx.dry()) return;
  std::fill(losses.begin(), losses.end(), 0.0f);
  for (int64_t i = 0; i < n; ++i) losses.data[rows[static_cast<size_t>(i)]] = row_losses.data[i];
}

void LanguageModel::logits(Context& ctx, const Window& w, std::span<const int32_t> tokens,
                           std::span<const State> states, std::span<const int32_t> rows,
                           Tensor logits) const {
  Arena::Frame frame(ctx.scratch);
  head_forward(ctx, head_input(ctx, hidden(ctx, w, tokens, states), rows).normed, logits);
}

}  // namespace refrain
