#include "bench/sections/training_run.h"

#include <numeric>

#include "bench/checks/model_check.h"
#include "refrain/model/operations.h"

namespace refrain::bench {
namespace {

constexpr double kLearningRate = 1e-4;

}  // namespace

TrainingRun::TrainingRun(const Setup& setup, const ModelConfig& config,
                         const Recompute& checkpointing, kernels::ComputeType compute_type)
    : planted_(setup.planted),
      model_(config),
      optimizer_(model_.parameters(), TrainConfig()),
      checkpointing_(checkpointing),
      compute_type_(compute_type),
      batch_(data_.whole(setup.sequences(config.context), config.context)),
      tokens_(random_tokens(batch_.rows(), config.vocab_size, 1)),
      targets_(random_tokens(batch_.rows(), config.vocab_size, 2)),
      losses_(tokens_.size()) {
  model_.initialise(1);
  spread_weights(model_);
  model_.allocate_gradients();
}

TrainingOptions TrainingRun::options() const {
  return {.scale = 1 / static_cast<float>(tokens_.size()),
          .compute_type = compute_type_,
          .recompute = checkpointing_};
}

void TrainingRun::forward_backward() {
  model_.clear_gradients();
  workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
    model_.train(ctx, batch_, {tokens_, targets_}, options(), {losses_.data(), {batch_.rows()}},
                 saved);
  });
  model_.finish_gradients();
}

void TrainingRun::step() {
  forward_backward();
  optimizer_.step(kLearningRate);
}

double TrainingRun::loss() {
  std::vector<float> losses(tokens_.size());
  workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
    model_.losses(ctx, batch_, tokens_, targets_, {}, {losses.data(), {batch_.rows()}});
  });
  return std::accumulate(losses.begin(), losses.end(), 0.0);
}

Check TrainingRun::check() {
  const auto length = static_cast<size_t>(batch_.length(0));
  StepCheck step_check(model_, std::span(tokens_).first(length), std::span(targets_).first(length));
  planted_.in_weights(model_.parameters().weights());
  Check check = step_check.check(model_, options(), planted_);
  step();
  const double before = std::accumulate(losses_.begin(), losses_.end(), 0.0);
  check.that("a step does not lower the loss", loss() < before);
  return check;
}

double TrainingRun::operations() {
  return kTrainingPasses * static_cast<double>(tokens()) *
         model_operations(model_, model_.config().context);
}

size_t TrainingRun::bytes() {
  constexpr size_t kCopies = 4;  // weights, gradients, two moments
  return kCopies * model_.parameters().weights().size_bytes() + workspace_.bytes();
}

std::string TrainingRun::shape_text() const {
  const ModelConfig& config = model_.config();
  return fmt::format("{} x {}, {} blocks, {} wide, {} heads, {:.3g} M", batch_.sequences(),
                     config.context, config.layers, config.d_model, config.heads,
                     static_cast<double>(model_.parameters().count()) / 1e6);
}

}  // namespace refrain::bench
