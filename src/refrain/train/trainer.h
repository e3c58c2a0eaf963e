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
#include "refrain/train/training_loop.h"

namespace refrain {

// Mean cross entropy over all of `data`, in file order. The result does not depend on batch_size,
// which only bounds memory. `stretch`: run sequences so many tokens at a time, the state carried
// between; 0 = whole.
Evaluation evaluate(const LanguageModel&, const data::DataSet&, const data::BatchConfig&,
                    Workspace&, int64_t stretch = 0, const ShouldStop& = {});

// The batch as the optimiser sees it: all of its micro-batches together.
data::BatchConfig optimiser_batch(const TrainConfig&, int64_t context);

class Trainer {
 public:
  // `describe` writes the small files of a model directory (config, tokenizer) into a directory.
  Trainer(LanguageModel&, const data::DataSet& train, std::optional<data::DataSet> valid,
          const TrainConfig&, const RunDirectory&, const Plan&,
          std::function<void(const std::string& directory)> describe);

  // Goes on from the newest checkpoint; false when there is none.
  bool resume();

  TrainingEnd run(const TrainerEvents&, int64_t stop_after = 0);

  const TrainerState& state() const { return state_; }
  int64_t total_steps() const { return total_steps_; }
  data::BatchConfig batch_config() const { return batch_config_; }
  const data::Batches& batches() const { return batches_; }
  std::optional<Evaluation> last_evaluation() const { return last_evaluation_; }

 private:
  TrainingLoop::Gradient next_gradient();
  Evaluation evaluate_held_out(const ShouldStop&);
  void check_state(const TrainerState&, const std::string& name);

  LanguageModel& model_;
  std::optional<data::DataSet> valid_;
  TrainConfig config_;
  Plan plan_;
  const RunDirectory& directory_;
  std::function<void(const std::string&)> describe_;
  data::BatchConfig batch_config_;
  bool batches_by_length_;  // so that epochs have any number of them
  data::Batches batches_;
  data::Batch batch_;
  Optimizer optimizer_;
  Workspace workspace_;
  std::optional<io::ScratchFile> spill_;
  std::vector<SequenceState> states_;  // of the batch's sequences, with tbptt
  TrainerState state_;
  int64_t total_steps_ = 0;
  std::optional<Evaluation> last_evaluation_;
};

}  // namespace refrain
