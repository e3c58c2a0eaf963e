// What a Trainer trains: a model, its training data, and its evaluation.
//
// The Trainer owns the loop, the optimiser, the run's state and the memory of its steps. A task
// turns the step's number and its data into gradients, and knows its model's files.
#pragma once
#include <cstdint>
#include <functional>
#include <string>

#include "refrain/data/batches.h"
#include "refrain/io/json.h"
#include "refrain/io/scratch_file.h"
#include "refrain/model/parameters/parameter_store.h"
#include "refrain/model/workspace.h"
#include "refrain/train/trainer_state.h"

namespace refrain {

using ShouldStop = std::function<bool()>;  // asked now and then; none = go on

// Memory that a trainer lends its task.
struct TaskMemory {
  Workspace workspace;           // for activations
  io::ScratchFile scratch_file;  // in the run directory; no file until it is written to
};

struct StepGradient {
  double loss = 0;                        // mean of the step's tokens
  int64_t tokens = 0;                     // that the step has seen
  data::Batches::Position position{};     // in the data, behind the step's
  io::Json metrics = io::Json::object();  // beside the loss
};

struct EvaluationResult {
  double loss = 0;     // nats per supervised token, or the task's loss per word
  int64_t tokens = 0;  // that it is the mean of
  double seconds = 0;
  bool stopped = false;                   // before its end: the other numbers say nothing
  io::Json metrics = io::Json::object();  // beside the loss
};

class TrainingTask {
 public:
  static constexpr int64_t kEndless = int64_t{1} << 40;
  static constexpr const char* kStreams = "streams.safetensors";
  static constexpr const char* kModelWeights = "model.safetensors";
  static constexpr const char* kAdapterWeights = "adapter_model.safetensors";

  virtual ~TrainingTask() = default;

  virtual ParameterStore& parameters() = 0;
  virtual int64_t total_steps() const = 0;  // kEndless: minutes limit the run

  // Writes the gradients of the step after `state.step` into the parameters.
  virtual StepGradient next_gradient(const TrainerState& state, TaskMemory&) = 0;
  // Passes over the data up to this state.
  virtual double epoch(const TrainerState&) const = 0;

  virtual bool has_held_out() const = 0;
  // Evaluates on the held-out data.
  virtual EvaluationResult evaluate(TaskMemory&, const ShouldStop&) = 0;

  // Continues from this state: the next gradient is that of the step after it. If steps of this
  // task cannot lead to the state: an Error that begins with `name`.
  virtual void resume_from(const TrainerState&, const std::string& name) = 0;

  // What steps need beside weights, moments and state (states of streams), as files in a
  // checkpoint. It is loaded after resume_from().
  virtual void save_progress(const std::string& directory) const { (void)directory; }
  virtual void load_progress(const std::string& directory) { (void)directory; }

  // The file of the weights in a model directory: kModelWeights or kAdapterWeights.
  virtual const char* weights_file() const { return kModelWeights; }
  virtual void write_weights(const std::string& path) const = 0;
  virtual void load_weights(const std::string& directory) = 0;
  // The small files of a model directory: configuration, tokenizer, words.
  virtual void write_model_files(const std::string& directory) const = 0;
};

}  // namespace refrain
