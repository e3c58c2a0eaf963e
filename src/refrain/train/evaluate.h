// The loss of a language model on a data set.
#pragma once
#include <cstdint>

#include "refrain/data/batches.h"
#include "refrain/data/dataset.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "refrain/train/training_task.h"

namespace refrain {

// Mean cross entropy over all of `data`, in file order. The result does not depend on batch_size,
// which only limits memory. `chunk_length`: run sequences in chunks of so many tokens and carry the
// state; 0 = whole.
EvaluationResult evaluate(const LanguageModel&, const data::DataSet&, const data::BatchConfig&,
                          Workspace&, int64_t chunk_length = 0, const ShouldStop& = {});

// The same over running text that is cut into `streams` parts of equal length, each read from its
// beginning to its end with the state carried. Memory does not grow with the text. The model's
// state must be bounded.
struct StreamOptions {
  int64_t streams = 1;
  int64_t chunk_length = TrainingOptions::kChunkLength;  // rows of a stream in a batch
  int64_t together = 1;  // streams that are read side by side; it limits memory only
};
EvaluationResult evaluate_streams(const LanguageModel&, const data::DataSet&, const StreamOptions&,
                                  Workspace&, const ShouldStop& = {});

}  // namespace refrain
