#include "bench/checks/model_check.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/random.h"
#include "refrain/formats/checkpoint.h"
#include "refrain/kernels/loss/cross_entropy_ref.h"

namespace refrain::bench {
namespace {

using Complex = std::complex<double>;
constexpr double kStep = 1e-30;
constexpr size_t kRows = 16;
// Smaller logits are alike whatever the weights are.
constexpr double kSmallestLogit = 0.1;

// What a float32 step may err by, and one with rounded operands: 2^-9 each, through the products of
// a stack.
struct Allowed {
  double loss, gradient;  // of the larger of 1 and the loss; of the gradient's norm
};
Allowed allowed(kernels::ComputeType compute_type) {
  if (compute_type == kernels::ComputeType::kFloat32) return {1e-4, 1e-3};
  return {5e-2, 1e-1};
}

}  // namespace

void spread_weights(const std::function<void(const ParamVisitor&)>& visit) {
  uint64_t key = 1000;
  visit([&](const ParamSpec&, Param& p) {
    Random random(++key);
    const double deviation =
        p.w.rank < 2
            ? 0.1
            : 1 / std::sqrt(static_cast<double>(p.w.dim[static_cast<size_t>(p.w.rank) - 1]));
    for (float& w : p.w) w += static_cast<float>(deviation * random.normal());
  });
}

StepCheck::StepCheck(LanguageModel& model, std::span<const int32_t> tokens,
                     std::span<const int32_t> targets) {
  const size_t rows = std::min({kRows, tokens.size(), targets.size()});
  tokens_.assign(tokens.begin(), tokens.begin() + static_cast<long>(rows));
  targets_.assign(targets.begin(), targets.begin() + static_cast<long>(rows));

  ReferenceModel<Complex> reference(model);
  Random random(3);
  for (auto& [name, weights] : reference.weights()) {
    std::vector<float>& signs = signs_[name];
    for (Complex& w : weights) {
      signs.push_back(random.bits() & 1 ? 1.0f : -1.0f);
      w.imag(kStep * static_cast<double>(signs.back()));
    }
  }
  std::vector<Complex> logits = reference.logits(tokens_), losses(rows);
  const int64_t V = model.config().vocab_size;
  const TensorOf<Complex> table(logits.data(), {static_cast<int64_t>(rows), V});
  for (int64_t i = 0; i < table.rows(); ++i) {
    double mean = 0;
    for (int64_t v = 0; v < V; ++v) mean += table.row(i)[v].real() / static_cast<double>(V);
    for (int64_t v = 0; v < V; ++v)
      largest_ = std::max(largest_, std::abs(table.row(i)[v].real() - mean));
  }
  kernels::log_softmax_ref(table, table);
  kernels::cross_entropy_ref(table, targets_, 0.0,
                             TensorOf<Complex>(losses.data(), {static_cast<int64_t>(rows), 1}));
  for (const Complex& loss : losses) {
    losses_.push_back(loss.real());
    along_ += loss.imag() / kStep;
  }
}

Check StepCheck::check(LanguageModel& model, TrainingOptions options, const Planted& planted) {
  const auto rows = static_cast<int64_t>(tokens_.size());
  std::vector<float> losses(tokens_.size());
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(1, rows);
  options.scale = 1;
  model.clear_gradients();
  Workspace().run({}, [&](ExecutionContext& ctx, Arena& saved) {
    model.train(ctx, batch, {tokens_, targets_}, options, {losses.data(), {rows}}, saved);
  });
  model.finish_gradients();
  planted.in_output(model.parameters().gradients());

  const Allowed error = allowed(options.compute_type);
  Check check;
  check.that("the logits are all alike: they tell nothing of the weights",
             model.config().vocab_size == 1 || largest_ >= kSmallestLogit);
  for (size_t i = 0; i < losses.size(); ++i)
    check.near(fmt::format("loss of row {}", i), static_cast<double>(losses[i]), losses_[i],
               error.loss * std::max(1.0, losses_[i]));
  double along = 0, squares = 0;
  for (const auto& [name, shape, w, gradient] : model.parameters().file_tensors()) {
    const std::vector<float>& signs = signs_.at(name);
    for (size_t i = 0; i < signs.size(); ++i) {
      const auto g = static_cast<double>(gradient.data[i]);
      along += g * static_cast<double>(signs[i]);
      squares += g * g;
    }
  }
  check.near("gradients along a direction", along, along_, error.gradient * std::sqrt(squares));
  return check;
}

}  // namespace refrain::bench
