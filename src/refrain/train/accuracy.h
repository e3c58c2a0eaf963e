// How often a model's likeliest token is the target, over supervised rows.
#pragma once
#include "refrain/data/batches.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"

namespace refrain {

struct Accuracy {
  int64_t total = 0, correct = 0;          // supervised rows
  int64_t sequences = 0, exact_match = 0;  // those without a mistake
};

// Over all of `data`, in file order. Logits of a whole batch's supervised rows exist at a time.
Accuracy measure_accuracy(const LanguageModel&, const data::DataSet& data, const data::BatchConfig&,
                          Workspace&);

}  // namespace refrain
