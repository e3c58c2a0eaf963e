// Training of a sequence autoencoder: windows of words drawn from documents, by a curriculum.
//
// Window i of step s is a function of (seed, s, i). It starts at a random word of the data, among
// those with room for the shortest window after them. Its length is that of the stage of the
// curriculum, or as many words as its document has left. Whether step t of the decoder is forced is
// a random draw by (seed, s, t), the same for all windows, and so is dropout by (seed, s) and the
// window. An epoch is as many words as the documents have. So threads, micro-batches, and where a
// run was stopped and resumed never change a bit.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "refrain/autoencoder/curriculum.h"
#include "refrain/autoencoder/word_autoencoder.h"
#include "refrain/train/config.h"
#include "refrain/train/plan.h"
#include "refrain/train/training_task.h"

namespace refrain {

class ReconstructionTask : public TrainingTask {
 public:
  ReconstructionTask(WordAutoencoder&, Documents train, Documents valid, const TrainConfig&,
                     const Curriculum&, const Plan&);

  ParameterStore& parameters() override { return model_.model->parameters(); }
  int64_t total_steps() const override { return total_steps_; }
  StepGradient next_gradient(const TrainerState&, TaskMemory&) override;
  double epoch(const TrainerState&) const override;
  bool has_held_out() const override { return !valid_.empty(); }
  EvaluationResult evaluate(TaskMemory&, const ShouldStop&) override;
  void resume_from(const TrainerState&, const std::string& name) override;
  void write_weights(const std::string& path) const override;
  void load_weights(const std::string& directory) override;
  void write_model_files(const std::string& directory) const override;

 private:
  int64_t batch() const { return config_.batch_size * config_.gradient_accumulation_steps; }
  int64_t steps_of(const TrainingLength&) const;
  std::span<const int32_t> draw_window(int64_t step, int64_t i) const;

  WordAutoencoder& model_;
  Documents train_, valid_;
  std::vector<int64_t> places_before_;  // of each document: in those before it
  int64_t places_ = 0;                  // where windows may start
  double words_ = 0;                    // of an epoch: of the documents that have a window
  TrainConfig config_;
  Stages stages_;
  Plan plan_;
  int64_t total_steps_ = 0;
};

}  // namespace refrain
