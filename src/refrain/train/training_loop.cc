#include "refrain/train/training_loop.h"

#include <cmath>
#include <exception>

#include "refrain/base/error.h"
#include "refrain/base/process.h"

namespace refrain {
namespace {

double seconds_since(std::chrono::steady_clock::time_point t) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - t).count();
}

}  // namespace

void check_evaluations(const TrainConfig& config, bool has_held_out) {
  if (has_held_out) return;
  for (const auto& [name, value] :
       {std::pair{"patience", config.patience}, {"eval_steps", config.eval_steps}})
    if (value > 0)
      throw_error(
          "{}: expected held-out data to evaluate on (--valid, or a --valid-split above 0), found "
          "none",
          name);
}

void TrainingLoop::diverged(const std::string& what, int64_t step) {
  can_save_ = false;
  throw_error(
      "step {}: the {} not a finite number; the weights of the last checkpoint are untouched (try "
      "a lower --learning-rate or more --warmup-steps)",
      step, what);
}

double TrainingLoop::optimise(double loss) {
  if (!std::isfinite(loss)) diverged("loss is", state_.step + 1);
  can_save_ = false;  // while weights and moments change
  const double norm = optimizer_.step(learning_rate(config_, state_.step + 1, total_steps_));
  if (!std::isfinite(norm)) diverged("gradient is", state_.step + 1);
  return norm;
}

// Weights, moments and state belong together.
void TrainingLoop::settle() {
  settled_ = state_;
  can_save_ = true;
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

void TrainingLoop::check_weights() {
  if (!optimizer_.weights_are_finite()) diverged("weights hold what is", state_.step);
}

bool TrainingLoop::evaluation_is_due() const {
  if (!learner_.evaluate || state_.step == 0 || state_.evaluated_step == state_.step) return false;
  return state_.step == total_steps_ ||
         (config_.eval_steps > 0 && state_.step % config_.eval_steps == 0);
}

bool TrainingLoop::save_is_due() const {
  if (saved_step_ == state_.step) return false;
  if (state_.step == total_steps_) return true;
  if (config_.save_steps > 0) return state_.step % config_.save_steps == 0;
  constexpr double kMinute = 60;
  return config_.save_minutes > 0 && seconds_since(saved_) >= kMinute * config_.save_minutes;
}

bool TrainingLoop::evaluate(const TrainerEvents& events) {
  const auto begin = Clock::now();
  const Score score = learner_.evaluate(events.should_stop);
  const Evaluation& result = score.evaluation;
  if (result.stopped) return false;
  // What is not a number is never the best, nor does it keep a later one from being it.
  const bool best =
      std::isfinite(result.loss) && (state_.best_step == 0 || result.loss < state_.best_loss);
  if (best) check_weights();
  TrainerState after = state_;
  after.evaluated_step = state_.step;
  after.evaluations_without_gain = best ? 0 : state_.evaluations_without_gain + 1;
  if (best) {
    after.best_loss = result.loss;
    after.best_step = state_.step;
    directory_.save_best(learner_.write_weights, learner_.describe);
  }
  io::Json line = {{"step", state_.step}, {"eval_loss", result.loss}};
  line.update(score.metrics);
  line.update({{"eval_tokens", result.tokens}, {"eval_runtime", result.seconds}});
  directory_.record(line);
  state_ = after;
  settle();
  if (saved_step_ == state_.step) directory_.save_state(state_);
  since_ += Clock::now() - begin;
  events.on_evaluation(state_.step, result, best);
  return true;
}

void TrainingLoop::save(const TrainerEvents& events) {
  check_weights();
  directory_.save(learner_.write_weights, optimizer_, state_, learner_.describe,
                  config_.save_total_limit);
  saved_step_ = state_.step;
  saved_ = Clock::now();
  events.on_save(state_.step);
}

void TrainingLoop::make_step(const TrainerEvents& events) {
  const Gradient gradient = learner_.next_gradient();
  const double norm = optimise(gradient.loss);
  ++state_.step;
  state_.tokens_seen += gradient.tokens;
  tokens_since_ += gradient.tokens;
  settle();
  const Progress progress{
      .step = state_.step,
      .total_steps = total_steps_,
      .epoch = learner_.epoch(),
      .loss = gradient.loss,
      .grad_norm = norm,
      .learning_rate = learning_rate(config_, state_.step, total_steps_),
      .tokens_seen = state_.tokens_seen,
      .tokens_per_second = static_cast<double>(tokens_since_) / seconds_since(since_),
      .seconds_left = seconds_since(begin_) / static_cast<double>(state_.step - first_step_) *
                      static_cast<double>(total_steps_ - state_.step)};
  events.on_step(progress);
  if (state_.step % config_.logging_steps == 0 || state_.step == total_steps_) {
    record(progress, gradient.metrics);
    since_ = Clock::now();
    tokens_since_ = 0;
  }
}

TrainingEnd TrainingLoop::train(const TrainerEvents& events, int64_t stop_after) {
  for (;;) {
    if (save_is_due()) save(events);
    if (evaluation_is_due() && (events.should_stop() || !evaluate(events)))
      return TrainingEnd::kInterrupted;
    if (config_.patience > 0 && state_.evaluations_without_gain >= config_.patience)
      return TrainingEnd::kPatience;
    if (state_.step >= total_steps_) return TrainingEnd::kFinished;
    if (state_.step == stop_after && state_.step > first_step_) return TrainingEnd::kStopped;
    if (events.should_stop()) return TrainingEnd::kInterrupted;
    make_step(events);
  }
}

TrainingEnd TrainingLoop::run(const TrainerEvents& events, int64_t stop_after) {
  directory_.check_room(state_.step, total_steps_);
  // A process that died may have left one more than it was to keep.
  directory_.prune(state_.step, config_.save_total_limit);
  begin_ = since_ = saved_ = Clock::now();
  first_step_ = saved_step_ = state_.step;
  settle();
  try {
    const TrainingEnd end = train(events, stop_after);
    if (saved_step_ != state_.step) save(events);
    return end;
  } catch (...) {
    state_ = settled_;
    if (can_save_ && saved_step_ != state_.step) {
      try {
        save(events);
      } catch (const std::exception&) {  // the first error says more
      }
    }
    throw;
  }
}

}  // namespace refrain
