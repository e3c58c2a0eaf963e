// A training run as the program shows it, whatever its task: the plan for its memory, where it
// begins, its progress, signals, and how it ends.
#pragma once
#include <cstdint>
#include <functional>

#include "cli/command.h"
#include "refrain/train/trainer.h"

namespace refrain::cli {

struct TrainingRun {
  const CommandLine& line;
  const RunDirectory& directory;
  bool goes_on;
  int64_t stop_after;
  const TrainConfig& training;
  io::Json settings;  // as the run records them
};

// By what the settings and this process leave of memory.
Plan plan_by(const TrainConfig&, const std::function<Plan(const Room&)>& make);

// Trains the task until the run's end, from where it stands; `remarks` is called once all of it has
// proved possible, before the first step. The program's exit code.
int train_task(const TrainingRun&, TrainingTask&, const Plan&,
               const std::function<void()>& remarks);

}  // namespace refrain::cli
