#include "bench/reports/language_model_pass.h"

#include <algorithm>

#include "bench/sections/setup.h"

namespace refrain::bench {

LanguageModelPass::LanguageModelPass(const ModelConfig& config, const PassShape& shape,
                                     const Planted& planted)
    : config_(config),
      shape_(shape),
      planted_(planted),
      model_(planted.in_model(config)),
      tokens_(random_tokens(shape.sequences * shape.tokens + 1, config.vocab_size, 2)) {
  REFRAIN_CHECK(shape.sequences % shape.batch == 0);
  model_.initialise(1);
  spread_weights(model_);
  std::vector<int32_t> cu_seqlens;
  for (int64_t i = 0; i <= shape.batch; ++i)
    cu_seqlens.push_back(static_cast<int32_t>(i * shape.tokens));
  if (shape.batch > 1) planted.in_boundaries(cu_seqlens);
  batch_ = data_.set(cu_seqlens, std::vector<int32_t>(static_cast<size_t>(shape.batch)));
  losses_.resize(static_cast<size_t>(batch_.rows()));
}

Check LanguageModelPass::check(Agreement& agreement, std::optional<StepCheck>& step) {
  // Forward alone has the model of its gradients, too.
  const auto length = static_cast<size_t>(shape_.tokens);
  model_.allocate_gradients();
  if (!step) {
    const std::unique_ptr<LanguageModel> right = planted_.model ? spread_model(config_) : nullptr;
    step.emplace(right ? *right : model_, std::span(tokens_).first(length),
                 std::span(tokens_).subspan(1, length));
  }
  planted_.in_weights(model_.parameters().weights());
  Check check = step->check(
      model_, {.compute_type = shape_.compute_type, .recompute = shape_.recompute}, planted_);
  if (!check.passed()) return check;
  std::vector<float> losses(static_cast<size_t>(tokens()));
  run(losses);
  planted_.in_output(losses);
  agreement.check(check, "the loss of token", losses);
  return check;
}

void LanguageModelPass::step(ExecutionContext& ctx, Arena& saved, size_t row) {
  const auto n = static_cast<size_t>(batch_.rows());
  const auto inputs = std::span(tokens_).subspan(row, n),
             targets = std::span(tokens_).subspan(row + 1, n);
  const Tensor losses(losses_.data(), {batch_.rows()});
  if (shape_.backward)
    model_.train(ctx, batch_, {inputs, targets},
                 {.compute_type = shape_.compute_type, .recompute = shape_.recompute}, losses,
                 saved);
  else
    model_.losses(ctx, batch_, inputs, targets, {}, losses);
}

void LanguageModelPass::run(std::span<float> all) {
  if (shape_.backward) model_.clear_gradients();
  for (int64_t row = 0; row < tokens(); row += batch_.rows()) {
    workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      step(ctx, saved, static_cast<size_t>(row));
    });
    if (!all.empty()) std::ranges::copy(losses_, all.begin() + row);
  }
  if (shape_.backward) model_.finish_gradients();
}

size_t LanguageModelPass::activation_bytes() {
  return count_bytes([&](ExecutionContext& ctx, Arena& saved) { step(ctx, saved, 0); }).total();
}

size_t LanguageModelPass::bytes() {
  const size_t weights = model_.parameters().weights().size_bytes();
  return (shape_.backward ? 2 : 1) * weights + activation_bytes();
}

}  // namespace refrain::bench
