// What eval tells of a model, for other verbs.
#pragma once
#include <string>
#include <vector>

#include "cli/inputs.h"
#include "refrain/io/json.h"

namespace refrain::cli {

// The scores of `eval -m MODEL --data DATA`, by the task that the model was trained for. `name`:
// what messages call the model.
io::Json scores_of(const std::string& name, const LoadedModel& model,
                   const std::vector<std::string>& data);

}  // namespace refrain::cli
