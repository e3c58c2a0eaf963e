// The progress of a run, beside weights and moments: all that it needs to continue as if it had
// never stopped. It is the trainer_state.json of a checkpoint.
#pragma once
#include <cstdint>
#include <string>

#include "refrain/data/batches.h"
#include "refrain/io/json.h"

namespace refrain {

struct TrainerState {
  int64_t step = 0;
  data::Batches::Position position;
  int64_t tokens_seen = 0;
  double best_loss = 0;   // finite
  int64_t best_step = 0;  // 0: no evaluation has been the best yet
  int64_t evaluations_without_gain = 0;
  int64_t evaluated_step = 0;  // of the last evaluation
  int64_t lr_reductions = 0;   // reduce_lr_on_plateau: how often the rate was divided
  double seconds = 0;          // of wall time, where it limits the run
};

io::Json to_json(const TrainerState&);
// Checks each value against what a run of so many steps can have; an Error begins with `name`.
TrainerState parse_trainer_state(const io::Json&, const std::string& name);

// The same for a run whose steps have at most so many tokens each.
void check_tokens_seen(const TrainerState&, int64_t most_of_step, const std::string& name);

}  // namespace refrain
