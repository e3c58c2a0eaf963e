// FLOPs of a model's formulas, as MFU and plans count them. They do not depend on what the code
// avoids or repeats. The unit is operations per token, forward; a multiply-add is 2.
#pragma once
#include <cstdint>
#include <vector>

#include "refrain/model/language_model.h"

namespace refrain {

// Training counts as three forward passes: backward has two products for each product of forward.
inline constexpr double kTrainingPasses = 3;

struct BlockOperations {
  double mixer = 0, feed_forward = 0;  // 2 for every parameter, and the mixing
};
std::vector<BlockOperations> block_operations(LanguageModel&, int64_t length);

double head_operations(const ModelConfig&);
// The default number of rows whose logits exist at a time: few enough for the cache, and enough to
// fill the products.
int64_t head_rows(const ModelConfig&);

// Blocks and head. The embedding is only looked up, so it does not count.
double model_operations(LanguageModel&, int64_t length);

}  // namespace refrain
