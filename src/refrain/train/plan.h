// How a training step is cut to fit a budget of memory: into micro-batches, and what of it backward
// computes again. Every plan gives the same weights, to the bit; they differ in bytes and time.
//
// Bytes are counted by running the step dry (model/workspace.h), so a plan cannot differ from its
// use. Time is compared by operations: those of the formulas, those computed again, and what small
// products lose. The cheapest plan that fits is taken.
#pragma once
#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "refrain/io/json.h"
#include "refrain/model/language_model.h"
#include "refrain/model/recompute.h"
#include "refrain/model/workspace.h"
#include "refrain/train/config.h"

namespace refrain {

struct Plan {
  // The most that a micro-batch holds; the one that batches are not counted by is 0.
  int64_t sequences = 0, tokens = 0;
  int64_t evaluation_sequences = 0;  // of a batch of evaluation
  Recompute recompute;
  int64_t head_rows = 0;    // TrainingOptions
  int64_t logits_rows = 0;  // whose logits exist at a time

  size_t budget = 0;      // 0: none was named, and activations take what they need
  size_t process = 0;     // program, libraries, tokenizer, data, as resident when it was made
  size_t model = 0;       // weights, gradients, moments
  size_t batch = 0;       // ids, and the states that truncated backpropagation carries
  StepBytes step;         // of a training step
  size_t evaluation = 0;  // activations of an evaluation, in the step's place
  double cost = 0;        // operations a token; comparable between plans of one model

  size_t activations() const { return std::max(step.total(), evaluation) + 2 * Arena::kAlign; }
  size_t total() const { return process + model + batch + activations(); }
};

// What there is to plan with.
struct Room {
  size_t budget = 0;   // 0: none was named
  size_t process = 0;  // resident now, without the model
  size_t taken = 0;    // most that the process has taken until now, as when it read the data
  const char* flag = "memory";  // that named the budget
};

// An Error for a budget that is less than what the least plan needs or what was taken already: it
// names the least that will do. `parts` says what that depends on.
[[noreturn]] void refuse_budget(const Room&, const Plan& least, const std::string& parts);

// What any run takes besides: stacks of its threads, and the heap for small things.
size_t overhead_bytes();

io::Json to_json(const Plan&);
std::string to_text(const Recompute&);  // as --gradient-checkpointing takes it

class Planner {
 public:
  // `process`: resident bytes of the process without the model. The model needs no memory.
  Planner(LanguageModel&, const TrainConfig&, bool evaluates, size_t process, size_t taken = 0);

  // With the settings' micro-batch, or parts of it where larger ones are no faster, and their
  // recomputation, whatever it takes.
  Plan unbounded() const;
  // The cheapest within the budget. When none is, an Error that names the smallest budget and what
  // the rest depends on.
  Plan within(size_t budget, const char* flag = "memory") const;
  // Those that no other beats in both bytes and cost, by bytes.
  const std::vector<Plan>& frontier() const&;
  std::vector<Plan> frontier() && { return frontier(); }  // outlives a Planner that was made for it

 private:
  Plan measured(Plan) const;
  int64_t enough_rows() const;
  RaggedBatch batch_of(RaggedBatchBuilder&, int64_t sequences, int64_t length) const;
  StepBytes step_bytes(const Plan&, int64_t sequences, int64_t length) const;
  size_t evaluation_bytes(int64_t sequences) const;
  double cost(const Plan&) const;

  LanguageModel& model_;
  const TrainConfig config_;
  bool evaluates_;
  size_t process_, taken_;
  int64_t longest_;  // tokens of a sequence in a micro-batch
  int64_t optimiser_sequences_ = 0, optimiser_tokens_ = 0;
  mutable std::vector<Plan> all_;
};

// How evaluations cut long sequences: in chunks of so many tokens, 0 = not. A function of the
// model and the settings alone.
int64_t evaluation_chunk(const LanguageModel&, const TrainConfig&);

}  // namespace refrain
