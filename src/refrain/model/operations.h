// The arithmetic that a model's formulas ask for, whatever is done to get around it: what MFU and
// plans count. Operations a token, forward; 2 for a multiply-add.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "refrain/mixers/mixer.h"
#include "refrain/mixers/shape.h"
#include "refrain/model/language_model.h"

namespace refrain {

// Training counts the forward pass three times: backward has two products for each of its own.
inline constexpr double kTrainingPasses = 3;

// What a mixer does with a token of a sequence of `length`, beside its projections: attention,
// scores and values of the keys that a query sees, on average; others, a decayed update and a
// reading of their state, 4 operations a number.
double mixing_operations(const std::string& kind, const MixerShape&, const Options&, int64_t length,
                         size_t state_bytes);

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
