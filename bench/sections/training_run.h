// Optimiser steps of a model on made tokens, by the calls a Trainer makes.
#pragma once
#include <string>
#include <vector>

#include "bench/checks/check.h"
#include "bench/sections/setup.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "refrain/train/optimizer.h"

namespace refrain::bench {

class TrainingRun {
 public:
  // Sequences of config.context tokens, as many as the setup's batch holds, at least one.
  TrainingRun(const Setup&, const ModelConfig& config, const Recompute&, kernels::ComputeType);
  TrainingRun(const TrainingRun&) = delete;
  TrainingRun& operator=(const TrainingRun&) = delete;

  // Takes a step: losses and gradients of the first tokens must be those of plain loops in float64
  // (model_check.h), and the step must lower the loss.
  Check check();
  void step();

  int64_t tokens() const { return batch_.rows(); }
  int64_t parameters() const { return model_.parameters().count(); }
  double operations();  // of a step, as MFU counts them
  size_t bytes();       // weights, gradients, moments, activations
  std::string shape_text() const;

 private:
  TrainingOptions options() const;
  void forward_backward();
  double loss();  // of the batch, by the weights as they are

  const Planted& planted_;
  LanguageModel model_;
  Optimizer optimizer_;
  Recompute checkpointing_;
  kernels::ComputeType compute_type_;
  RaggedBatchBuilder data_;
  RaggedBatch batch_;
  std::vector<int32_t> tokens_, targets_;
  std::vector<float> losses_;
  Workspace workspace_;
};

}  // namespace refrain::bench
