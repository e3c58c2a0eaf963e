// The loop around the optimiser's steps, whatever learns in them: what is told and recorded, when
// held-out data is looked at, when checkpoints are written, and when the run ends.
//
// No step that was made is lost to what comes after it. Where a checkpoint and an evaluation are
// due together the checkpoint is first; the state says which step was evaluated last, so a run that
// ended in between evaluates when it goes on. After an error in an evaluation, a record or the
// making of the next gradient, the last whole step is saved before the error goes its way.
#pragma once
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>

#include "refrain/io/json.h"
#include "refrain/train/config.h"
#include "refrain/train/optimizer.h"
#include "refrain/train/run_directory.h"

namespace refrain {

struct Evaluation {
  double loss = 0;     // nats per supervised token, or the task's loss per word
  int64_t tokens = 0;  // that it is the mean of
  double seconds = 0;
  bool stopped = false;  // before its end: the other numbers say nothing
};

using ShouldStop = std::function<bool()>;  // asked now and then; none = go on

// What a listener is told after a step, an evaluation, a checkpoint.
struct Progress {
  int64_t step = 0, total_steps = 0;
  double epoch = 0;
  double loss = 0, grad_norm = 0, learning_rate = 0;
  int64_t tokens_seen = 0;       // by the run
  double tokens_per_second = 0;  // over the steps since the last record
  double seconds_left = 0;
};

struct TrainerEvents {
  std::function<void(const Progress&)> on_step = [](const Progress&) {};
  std::function<void(int64_t step, const Evaluation&, bool best)> on_evaluation =
      [](int64_t, const Evaluation&, bool) {};
  std::function<void(int64_t step)> on_save = [](int64_t) {};
  // Asked after every step, and all through an evaluation, which is left to the run that goes on.
  ShouldStop should_stop = [] { return false; };
};

// The whole run; too many evaluations without gain; `stop_after`; should_stop().
enum class TrainingEnd { kFinished, kPatience, kStopped, kInterrupted };

// An Error when evaluations are asked for and there is nothing to evaluate on.
void check_evaluations(const TrainConfig&, bool has_held_out);

class TrainingLoop {
 public:
  struct Gradient {
    double loss = 0;                        // mean of the step's tokens
    int64_t tokens = 0;                     // that the step has seen
    io::Json metrics = io::Json::object();  // of the step, beside the loss
  };
  struct Score {
    Evaluation evaluation;
    io::Json metrics = io::Json::object();  // beside the loss
  };
  struct Learner {
    // Leaves in the optimiser's gradients those of the step that comes after state.step.
    std::function<Gradient()> next_gradient;
    std::function<double()> epoch;                       // passes over the data so far
    std::function<Score(const ShouldStop&)> evaluate{};  // empty when no data is held out
    RunDirectory::WriteWeights write_weights;
    std::function<void(const std::string& directory)> describe;  // a model directory's small files
  };

  TrainingLoop(Learner learner, const TrainConfig& config, int64_t total_steps,
               const RunDirectory& directory, Optimizer& optimizer, TrainerState& state)
      : learner_(std::move(learner)),
        config_(config),
        total_steps_(total_steps),
        directory_(directory),
        optimizer_(optimizer),
        state_(state) {}

  // Trains to the end, or for at most `stop_after` steps of the whole run (0 = no such limit);
  // saves at the end. A loss, a gradient or a weight that is not a finite number stops the run with
  // an Error that names the step and leaves the checkpoints as they are.
  TrainingEnd run(const TrainerEvents&, int64_t stop_after);

 private:
  TrainingEnd train(const TrainerEvents&, int64_t stop_after);
  void make_step(const TrainerEvents&);
  double optimise(double loss);  // the gradients' norm
  void record(const Progress&, const io::Json& metrics) const;
  bool evaluation_is_due() const;
  bool save_is_due() const;
  bool evaluate(const TrainerEvents&);  // false: it was stopped
  void save(const TrainerEvents&);
  void check_weights();
  void settle();
  [[noreturn]] void diverged(const std::string& what, int64_t step);

  using Clock = std::chrono::steady_clock;

  Learner learner_;
  const TrainConfig& config_;
  int64_t total_steps_;
  const RunDirectory& directory_;
  Optimizer& optimizer_;
  TrainerState& state_;

  TrainerState settled_;    // after the last whole step; weights and moments are of it when
  bool can_save_ = true;    // this is so
  int64_t saved_step_ = 0;  // of the newest checkpoint
  int64_t first_step_ = 0;
  Clock::time_point begin_, since_;  // of the run; of the last record
  Clock::time_point saved_;          // of the last checkpoint, or the run
  int64_t tokens_since_ = 0;
};

}  // namespace refrain
