// The arithmetic that a model's formulas ask for, whatever is done to get around it: what MFU
// counts.
#pragma once
#include <cstdint>
#include <string>

#include "refrain/mixers/mixer.h"
#include "refrain/mixers/shape.h"
#include "refrain/model/language_model.h"

namespace refrain::cli::bench {

// Training counts the forward pass three times: backward has two products for each of its own.
inline constexpr double kTrainingPasses = 3;

// What a mixer does with a token of a sequence of `length`, forward, beside its projections:
// attention, scores and values of the keys that a query sees, on average; others, a decayed
// update and a reading of their state, 4 operations a number.
double mixing_operations(const std::string& kind, const MixerShape&, const Options&, int64_t length,
                         size_t state_bytes);

// Of a token, forward: 2 for every parameter but an untied embedding's, which are only looked up,
// and the mixing.
double model_operations(const LanguageModel&, int64_t length);

}  // namespace refrain::cli::bench
