// The arithmetic that a model's formulas ask for, whatever is done to get around it: what MFU and
// plans count. Operations a token, forward; 2 for a multiply-add.
#pragma once
#include <cstdint>
#include <vector>

#include "refrain/model/language_model.h"

namespace refrain {

// Training counts the forward pass three times: backward has two products for each of its own.
inline constexpr double kTrainingPasses = 3;

struct BlockOperations {
  double mixer = 0, feed_forward = 0;  // 2 for every parameter, and the mixing
};
std::vector<BlockOperations> block_operations(LanguageModel&, int64_t length);

double head_operations(const ModelConfig&);
// Rows whose logits exist at a time where nothing else is asked for: few enough for the cache, but
// enough to fill the products.
int64_t head_rows(const ModelConfig&);

// Blocks and head. An embedding is only looked up.
double model_operations(LanguageModel&, int64_t length);

}  // namespace refrain
