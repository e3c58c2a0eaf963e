// Checks that the forms of a model agree, on a sequence of tokens: whole (as in training), chunked
// (the state carried between) and stepped (as in generation) must give the same logits and leave
// the same states, and these and the gradients must be those of plain loops in float64. Keys and
// values have the model's cache type, but for gradients. A program with a mixer of its own checks
// it in this way (examples/custom_mixer).
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "refrain/model/language_model.h"

namespace refrain {

struct FormDifference {
  std::string what, between;         // "logits", "whole, chunked"
  double largest, scale, tolerance;  // largest difference; largest value it is measured by

  bool passed() const;  // what is infinite agrees with nothing
};

struct FormCheck {
  int64_t gradient_tokens = 32;  // of the first tokens, that gradients are taken over; 0 = none
  // Largest difference allowed, as a share of the largest value. With a cache type that rounds, a
  // step of that type is allowed between the forms and float64, not between two forms.
  double tolerance = 1e-4;
  // The same where weights are not stored as float32: what they are multiplied with is rounded too,
  // and a rounding may fall to the other side in another form.
  double rounded_tolerance = 0.05;
  uint64_t seed = 1;  // of the cuts, and of the directions gradients are compared along
};

// Two tokens or more. The model gets memory for gradients, unless its weights are packed: then the
// forms alone are compared. An Error when its logits are no finite numbers.
std::vector<FormDifference> check_forms(LanguageModel&, std::span<const int32_t> tokens,
                                        const FormCheck& = {});
// The gradients alone.
std::vector<FormDifference> check_gradients(LanguageModel&, std::span<const int32_t> tokens,
                                            const FormCheck& = {});

}  // namespace refrain
