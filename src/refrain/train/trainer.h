// The training loop: batches in, weights out, and what happens on the way.
//
// Weights after n steps are a function of the data, the settings and the seed. Threads,
// micro-batches, recomputation, and where a run was stopped and resumed change the speed and the
// memory, never a bit (docs/decisions/0003-fixed-order-products.md).
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "refrain/data/batches.h"
#include "refrain/data/dataset.h"
#include "refrain/io/scratch_file.h"
#include "refrain/model/language_model.h"
#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"
#include "refrain/train/config.h"
#include "refrain/train/optimizer.h"
#include "refrain/train/plan.h"
#include "refrain/train/run_directory.h"

namespace refrain {

struct Evaluation {
  double loss = 0;     // nats per supervised token
  int64_t tokens = 0;  // supervised
  double seconds = 0;
};

// Mean cross entropy over all of `data`, in file order. The result does not depend on batch_size,
// which only bounds memory. `stretch`: run sequences so many tokens at a time, the state carried
// between; 0 = whole.
Evaluation evaluate(const LanguageModel&, const data::DataSet&, const data::BatchConfig&,
                    Workspace&, int64_t stretch = 0);

// The batch as the optimiser sees it: all of its micro-batches together.
data::BatchConfig optimiser_batch(const TrainConfig&, int64_t context);

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
  std::function<bool()> should_stop = [] { return false; };  // asked after every step
};

enum class TrainingEnd { kFinished, kPatience, kStopped };

class Trainer {
 public:
  // `describe` writes the small files of a model directory (config, tokenizer) into a directory.
  Trainer(LanguageModel&, const data::DataSet& train, std::optional<data::DataSet> valid,
          const TrainConfig&, const RunDirectory&, const Plan&,
          std::function<void(const std::string& directory)> describe);

  // Goes on from the newest checkpoint; false when there is none.
  bool resume();

  // Trains to the end, or for at most `stop_after` steps of the whole run (0 = no such limit);
  // saves at the end. A loss that is not a number stops the run with an Error that names the step
  // and leaves the checkpoints as they are.
  TrainingEnd run(const TrainerEvents&, int64_t stop_after = 0);

  const TrainerState& state() const { return state_; }
  int64_t total_steps() const { return total_steps_; }
  data::BatchConfig batch_config() const { return batch_config_; }
  const data::Batches& batches() const { return batches_; }
  std::optional<Evaluation> last_evaluation() const { return last_evaluation_; }

 private:
  struct StepResult {
    double loss, grad_norm;
  };
  StepResult step(const data::Batch&);
  void evaluate_and_keep(const TrainerEvents&);
  void save(const TrainerEvents&);

  LanguageModel& model_;
  std::optional<data::DataSet> valid_;
  TrainConfig config_;
  Plan plan_;
  const RunDirectory& directory_;
  std::function<void(const std::string&)> describe_;
  data::BatchConfig batch_config_;
  data::Batches batches_;
  Optimizer optimizer_;
  Workspace workspace_;
  std::optional<io::ScratchFile> spill_;
  std::vector<SequenceState> states_;  // of the batch's sequences, with tbptt
  TrainerState state_;
  int64_t total_steps_ = 0, saved_step_ = -1;
  std::optional<Evaluation> last_evaluation_;
};

}  // namespace refrain
