// The training loop for any task: steps of the optimiser, progress and records, evaluations on
// held-out data, checkpoints, and the end of the run (by max_steps, patience, or a stop).
//
// Weights after n steps are a function of the data, the settings and the seed. Threads,
// micro-batches, recomputation, and where a run was stopped and resumed change the speed and the
// memory, never a bit (docs/decisions/0003-fixed-order-products.md). The one exception is a run
// that is limited by minutes: its last step, and a schedule that falls, follow the clock. A resumed
// run goes on with the time that it has used.
//
// A finished step is never lost. If a checkpoint and an evaluation are due together, the checkpoint
// comes first. The state records the step of the last evaluation, so a run that ended in between
// evaluates when it is resumed. After an error in an evaluation, a record or the next gradient, the
// last whole step is saved before the error is thrown on.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>

#include "refrain/base/clock.h"
#include "refrain/io/json.h"
#include "refrain/train/config.h"
#include "refrain/train/optimizer.h"
#include "refrain/train/plan.h"
#include "refrain/train/run_directory.h"
#include "refrain/train/training_task.h"

namespace refrain {

// What a listener gets after a step, an evaluation, a checkpoint.
struct Progress {
  int64_t step = 0, total_steps = 0;  // estimated where minutes limit the run
  double epoch = 0;
  double loss = 0, grad_norm = 0, learning_rate = 0;
  int64_t tokens_seen = 0;       // by the run
  double tokens_per_second = 0;  // over the steps since the last record
  double seconds_per_epoch = 0;  // by the same; 0: unknown
  double seconds_left = 0;
};

struct TrainerEvents {
  std::function<void(const Progress&)> on_step = [](const Progress&) {};
  std::function<void(int64_t step, const EvaluationResult&, bool best)> on_evaluation =
      [](int64_t, const EvaluationResult&, bool) {};
  std::function<void(int64_t step)> on_save = [](int64_t) {};
  // Asked after every step and during evaluations. A stopped evaluation is repeated by the resumed
  // run.
  ShouldStop should_stop = [] { return false; };
};

// In this order: the whole run; `patience`, too many evaluations without a better loss;
// `stop_after`; should_stop().
enum class TrainingEnd { kFinished, kPatience, kStopped, kInterrupted };

class Trainer {
 public:
  // With a budget in the plan, all memory for activations is allocated now. An Error if the
  // settings ask for evaluations and there is no held-out data.
  Trainer(TrainingTask&, const TrainConfig&, const RunDirectory&, const Plan&);

  // Continues from the newest checkpoint; false if there is none.
  bool resume();

  // Trains to the end, or for at most `stop_after` steps of the whole run (0 = no such limit);
  // saves at the end. A loss, a gradient or a weight that is not a finite number stops the run with
  // an Error that names the step and leaves the checkpoints as they are.
  TrainingEnd run(const TrainerEvents&, int64_t stop_after = 0);

  const TrainerState& state() const { return state_; }
  bool finished() const;
  int64_t total_steps() const { return total_steps_; }  // kEndless where minutes limit the run

 private:
  TrainingEnd train(const TrainerEvents&, int64_t stop_after);
  void make_step(const TrainerEvents&);
  double optimise(double loss, double learning_rate);  // the gradients' norm
  double learning_rate_of_next_step() const;
  double share_of_time() const { return std::min(1.0, state_.seconds / most_seconds_); }
  Progress progress() const;
  void record(const Progress&, const io::Json& metrics) const;
  bool evaluation_is_due() const;
  bool save_is_due() const;
  bool evaluate(const TrainerEvents&);  // false: it was stopped
  void save(const TrainerEvents&);
  void check_weights();
  [[noreturn]] void diverged(const std::string& what, int64_t step);

  TrainingTask& task_;
  const TrainConfig config_;
  const RunDirectory& directory_;
  const int64_t total_steps_;
  const double most_seconds_;  // of the run; 0: steps limit it
  Optimizer optimizer_;
  TaskMemory memory_;

  TrainerState state_;      // after the last whole step; weights and moments are of it when
  bool can_save_ = true;    // this is so
  int64_t saved_step_ = 0;  // of the newest checkpoint
  int64_t first_step_ = 0;
  double first_seconds_ = 0;         // of the run when this process began
  Clock::time_point begin_, since_;  // of the run; of the last record
  Clock::time_point saved_;          // of the last checkpoint, or the run
  int64_t tokens_since_ = 0;
  double epoch_since_ = 0;
};

}  // namespace refrain
