#include "refrain/train/trainer.h"

#include <cmath>
#include <exception>

#include "refrain/base/error.h"
#include "refrain/base/process.h"

namespace refrain {
namespace {

// The seconds that a run may take; 0 without such a limit.
double seconds_of(const std::string& max_steps) {
  constexpr double kMinute = 60;
  const TrainingLength length = parse_length(max_steps);
  return length.unit == TrainingLength::kMinutes ? kMinute * length.amount : 0;
}

void check_evaluations(const TrainConfig& config, bool has_held_out) {
  if (has_held_out) return;
  for (const auto& [name, value] :
       {std::pair{"patience", config.patience}, {"eval_steps", config.eval_steps}})
    if (value > 0) throw_error("{}: expected held-out data to evaluate on, found none", name);
}

}  // namespace

Trainer::Trainer(TrainingTask& task, const TrainConfig& config, const RunDirectory& directory,
                 const Plan& plan)
    : task_(task),
      config_(config),
      directory_(directory),
      total_steps_(task.total_steps()),
      most_seconds_(seconds_of(config.max_steps)),
      optimizer_(task.parameters(), config),
      memory_{{}, io::ScratchFile(directory.path())} {
  config_.check();
  check_evaluations(config_, task_.has_held_out());
  if (plan.budget > 0) memory_.workspace.fix(plan.activations());
}

bool Trainer::resume() {
  const std::optional<TrainerState> state = directory_.load_newest(task_, optimizer_);
  if (state) state_ = *state;
  return state.has_value();
}

void Trainer::diverged(const std::string& what, int64_t step) {
  can_save_ = false;
  throw_error(
      "step {}: the {} not a finite number; the weights of the last checkpoint are untouched (a "
      "lower learning rate or a longer warm-up may help)",
      step, what);
}

bool Trainer::finished() const {
  return most_seconds_ > 0 ? state_.seconds >= most_seconds_ : state_.step >= total_steps_;
}

double Trainer::learning_rate_of_next_step() const {
  const int64_t step = state_.step + 1;
  return learning_rate(
      config_,
      {.step = step,
       .done = most_seconds_ > 0 ? share_of_time() : share_of_steps(config_, step, total_steps_),
       .reductions = state_.lr_reductions});
}

double Trainer::optimise(double loss, double learning_rate) {
  if (!std::isfinite(loss)) diverged("loss is", state_.step + 1);
  can_save_ = false;  // while weights and moments change
  const double norm = optimizer_.step(learning_rate);
  if (!std::isfinite(norm)) diverged("gradient is", state_.step + 1);
  return norm;
}

void Trainer::record(const Progress& progress, const io::Json& metrics) const {
  io::Json line = {{"step", progress.step}, {"epoch", progress.epoch}, {"loss", progress.loss}};
  line.update(metrics);
  line.update({{"grad_norm", progress.grad_norm},
               {"learning_rate", progress.learning_rate},
               {"num_input_tokens_seen", progress.tokens_seen},
               {"tokens_per_second", progress.tokens_per_second},
               {"peak_memory_bytes", peak_memory_bytes()}});
  if (progress.seconds_per_epoch > 0) line["seconds_per_epoch"] = progress.seconds_per_epoch;
  directory_.record(line);
}

void Trainer::check_weights() {
  if (!optimizer_.weights_are_finite()) diverged("weights hold what is", state_.step);
}

bool Trainer::evaluation_is_due() const {
  if (!task_.has_held_out() || state_.step == 0 || state_.evaluated_step == state_.step)
    return false;
  return finished() || (config_.eval_steps > 0 && state_.step % config_.eval_steps == 0);
}

bool Trainer::save_is_due() const {
  if (saved_step_ == state_.step) return false;
  if (finished()) return true;
  if (config_.save_steps > 0) return state_.step % config_.save_steps == 0;
  constexpr double kMinute = 60;
  return config_.save_minutes > 0 && seconds_since(saved_) >= kMinute * config_.save_minutes;
}

bool Trainer::evaluate(const TrainerEvents& events) {
  const auto begin = Clock::now();
  const EvaluationResult result = task_.evaluate(memory_, events.should_stop);
  if (result.stopped) return false;
  REFRAIN_CHECK(result.metrics.is_object());
  // What is not a number is never the best, nor does it keep a later one from being it.
  const bool best =
      std::isfinite(result.loss) && (state_.best_step == 0 || result.loss < state_.best_loss);
  if (best) check_weights();
  TrainerState after = state_;
  after.evaluated_step = state_.step;
  after.evaluations_without_gain = best ? 0 : state_.evaluations_without_gain + 1;
  if (!best && config_.reduces_on_plateau()) ++after.lr_reductions;
  if (best) {
    after.best_loss = result.loss;
    after.best_step = state_.step;
    directory_.save_best(task_);
  }
  io::Json line = {{"step", state_.step}, {"eval_loss", result.loss}};
  line.update(result.metrics);
  line.update({{"eval_tokens", result.tokens}, {"eval_runtime", result.seconds}});
  directory_.record(line);
  state_ = after;
  if (saved_step_ == state_.step) directory_.save_state(state_);
  since_ += Clock::now() - begin;
  events.on_evaluation(state_.step, result, best);
  return true;
}

void Trainer::save(const TrainerEvents& events) {
  check_weights();
  directory_.save(task_, optimizer_, state_, config_.save_total_limit);
  saved_step_ = state_.step;
  saved_ = Clock::now();
  events.on_save(state_.step);
}

Progress Trainer::progress() const {
  const double epoch = task_.epoch(state_), epochs = epoch - epoch_since_;
  Progress progress{.step = state_.step,
                    .total_steps = total_steps_,
                    .epoch = epoch,
                    .tokens_seen = state_.tokens_seen,
                    .tokens_per_second = static_cast<double>(tokens_since_) / seconds_since(since_),
                    .seconds_per_epoch = epochs > 0 ? seconds_since(since_) / epochs : 0,
                    .seconds_left = seconds_since(begin_) /
                                    static_cast<double>(state_.step - first_step_) *
                                    static_cast<double>(total_steps_ - state_.step)};
  if (most_seconds_ > 0) {
    progress.total_steps = state_.step;
    if (!finished())
      progress.total_steps +=
          1 + static_cast<int64_t>(static_cast<double>(state_.step) * (1 / share_of_time() - 1));
    progress.seconds_left = std::max(0.0, most_seconds_ - state_.seconds);
  }
  return progress;
}

void Trainer::make_step(const TrainerEvents& events) {
  const StepGradient gradient = task_.next_gradient(state_, memory_);
  REFRAIN_CHECK(gradient.metrics.is_object());
  const double rate = learning_rate_of_next_step();
  const double norm = optimise(gradient.loss, rate);
  ++state_.step;
  state_.position = gradient.position;
  state_.tokens_seen += gradient.tokens;
  if (most_seconds_ > 0) state_.seconds = first_seconds_ + seconds_since(begin_);
  can_save_ = true;
  tokens_since_ += gradient.tokens;
  Progress progress = this->progress();
  progress.loss = gradient.loss;
  progress.grad_norm = norm;
  progress.learning_rate = rate;
  events.on_step(progress);
  if (state_.step % config_.logging_steps == 0 || finished()) {
    record(progress, gradient.metrics);
    since_ = Clock::now();
    tokens_since_ = 0;
    epoch_since_ = progress.epoch;
  }
}

TrainingEnd Trainer::train(const TrainerEvents& events, int64_t stop_after) {
  for (;;) {
    if (save_is_due()) save(events);
    if (evaluation_is_due() && (events.should_stop() || !evaluate(events)))
      return TrainingEnd::kInterrupted;
    if (config_.patience > 0 && state_.evaluations_without_gain >= config_.patience)
      return TrainingEnd::kPatience;
    if (finished()) return TrainingEnd::kFinished;
    if (state_.step == stop_after && state_.step > first_step_) return TrainingEnd::kStopped;
    if (events.should_stop()) return TrainingEnd::kInterrupted;
    make_step(events);
  }
}

TrainingEnd Trainer::run(const TrainerEvents& events, int64_t stop_after) {
  directory_.check_room(state_.step, total_steps_);
  // A process that died may have left one more than it was to keep.
  directory_.prune(state_.step, config_.save_total_limit);
  begin_ = since_ = saved_ = Clock::now();
  first_step_ = saved_step_ = state_.step;
  first_seconds_ = state_.seconds;
  tokens_since_ = 0;
  epoch_since_ = task_.epoch(state_);
  try {
    const TrainingEnd end = train(events, stop_after);
    if (saved_step_ != state_.step) save(events);
    return end;
  } catch (...) {
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
