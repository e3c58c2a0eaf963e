// The training task of a language model: from batches to gradients, and the loss on held-out data.
#pragma once
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "refrain/data/batches.h"
#include "refrain/data/dataset.h"
#include "refrain/model/language_model.h"
#include "refrain/model/sequence_state.h"
#include "refrain/train/config.h"
#include "refrain/train/evaluate.h"
#include "refrain/train/plan.h"
#include "refrain/train/training_task.h"

namespace refrain {

// The batch of the optimiser: all of its micro-batches together.
data::BatchConfig optimiser_batch(const TrainConfig&, int64_t context);

class LanguageModelTask : public TrainingTask {
 public:
  using WriteModelFiles = std::function<void(const std::string& directory)>;

  // The model must have its gradients. `write_model_files` as in TrainingTask.
  LanguageModelTask(LanguageModel&, const data::DataSet& train, std::optional<data::DataSet> valid,
                    const TrainConfig&, const Plan&, WriteModelFiles write_model_files);

  const data::Batches& batches() const { return batches_; }

  ParameterStore& parameters() override { return model_.trained(); }
  const char* weights_file() const override {
    return model_.lora() ? kAdapterWeights : kModelWeights;
  }
  int64_t total_steps() const override { return total_steps_; }
  StepGradient next_gradient(const TrainerState&, TaskMemory&) override;
  double epoch(const TrainerState&) const override;
  bool has_held_out() const override { return valid_.has_value(); }
  EvaluationResult evaluate(TaskMemory&, const ShouldStop&) override;
  void resume_from(const TrainerState&, const std::string& name) override;
  void save_progress(const std::string& directory) const override;
  void load_progress(const std::string& directory) override;
  void write_weights(const std::string& path) const override;
  void load_weights(const std::string& directory) override;
  void write_model_files(const std::string& to) const override { write_model_files_(to); }

 private:
  LanguageModel& model_;
  std::optional<data::DataSet> valid_;
  TrainConfig config_;
  Plan plan_;
  WriteModelFiles write_model_files_;
  data::BatchConfig batch_config_;
  bool batches_by_length_;  // so that epochs have any number of them
  data::Batches batches_;
  data::Batch batch_;
  std::vector<SequenceState> states_;  // of the batch's sequences, with tbptt; of the streams
  bool streams_are_whole_ = true;      // after the last step; not when it failed
  int64_t total_steps_ = 0;
};

}  // namespace refrain
