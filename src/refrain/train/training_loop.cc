#include "refrain/train/training_loop.h"

#include <chrono>
#include <cmath>

#include "refrain/base/error.h"
#include "refrain/base/process.h"

namespace refrain {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

}  // namespace

double TrainingLoop::optimise(double loss) {
  const double norm = std::isfinite(loss)
                          ? optimizer_.step(learning_rate(config_, state_.step + 1, total_steps_))
                          : loss;
  if (!std::isfinite(loss) || !std::isfinite(norm))
    throw_error(
        "step {}: the {} is not a finite number; the weights of the last checkpoint are "
        "untouched (try a lower --learning-rate or more --warmup-steps)",
        state_.step + 1, std::isfinite(loss) ? "gradient" : "loss");
  return norm;
}

void TrainingLoop::record(const Progress& progress, const io::Json& metrics) const {
  io::Json line = {{"step", progress.step}, {"epoch", progress.epoch}, {"loss", progress.loss}};
  line.update(metrics);
  line.update({{"grad_norm", progress.grad_norm},
               {"learning_rate", progress.learning_rate},
               {"num_input_tokens_seen", progress.tokens_seen},
               {"tokens_per_second", progress.tokens_per_second},
               {"peak_memory_bytes", peak_memory_bytes()}});
  directory_.record(line);
}

void TrainingLoop::evaluate(const TrainerEvents& events) {
  const Score score = learner_.evaluate();
  const Evaluation& result = score.evaluation;
  const bool best = state_.best_step == 0 || result.loss < state_.best_loss;
  if (best) {
    state_.best_loss = result.loss;
    state_.best_step = state_.step;
    state_.evaluations_without_gain = 0;
    directory_.save_best(learner_.write_weights, learner_.describe);
  } else {
    ++state_.evaluations_without_gain;
  }
  io::Json line = {{"step", state_.step}, {"eval_loss", result.loss}};
  line.update(score.metrics);
  line.update({{"eval_tokens", result.tokens}, {"eval_runtime", result.seconds}});
  directory_.record(line);
  events.on_evaluation(state_.step, result, best);
}

void TrainingLoop::save(const TrainerEvents& events) const {
  directory_.save(learner_.write_weights, optimizer_, state_, learner_.describe,
                  config_.save_total_limit);
  events.on_save(state_.step);
}

TrainingEnd TrainingLoop::run(const TrainerEvents& events, int64_t stop_after) {
  const auto begin = Clock::now();
  auto since = begin;
  const int64_t first_step = state_.step;
  int64_t saved_step = state_.step, tokens_since = 0;
  TrainingEnd end = TrainingEnd::kFinished;
  while (state_.step < total_steps_) {
    const Gradient gradient = learner_.next_gradient();
    const double norm = optimise(gradient.loss);
    ++state_.step;
    state_.tokens_seen += gradient.tokens;
    tokens_since += gradient.tokens;
    const Progress progress{
        .step = state_.step,
        .total_steps = total_steps_,
        .epoch = learner_.epoch(),
        .loss = gradient.loss,
        .grad_norm = norm,
        .learning_rate = learning_rate(config_, state_.step, total_steps_),
        .tokens_seen = state_.tokens_seen,
        .tokens_per_second = static_cast<double>(tokens_since) / seconds_since(since),
        .seconds_left = seconds_since(begin) / static_cast<double>(state_.step - first_step) *
                        static_cast<double>(total_steps_ - state_.step)};
    events.on_step(progress);
    const bool last = state_.step == total_steps_;
    if (state_.step % config_.logging_steps == 0 || last) {
      record(progress, gradient.metrics);
      since = Clock::now();
      tokens_since = 0;
    }
    const bool due = config_.eval_steps > 0 && state_.step % config_.eval_steps == 0;
    if (learner_.evaluate && (due || last)) {
      const auto pause = Clock::now();
      evaluate(events);
      since += Clock::now() - pause;
    }
    if (config_.save_steps > 0 && state_.step % config_.save_steps == 0) {
      save(events);
      saved_step = state_.step;
    }
    if (config_.patience > 0 && state_.evaluations_without_gain >= config_.patience) {
      end = TrainingEnd::kPatience;
      break;
    }
    if (!last && (state_.step == stop_after || events.should_stop())) {
      end = TrainingEnd::kStopped;
      break;
    }
  }
  if (saved_step != state_.step) save(events);
  return end;
}

}  // namespace refrain
