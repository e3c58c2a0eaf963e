// What a model's steps are held to before they are timed: the losses of single rows and the whole
// gradient, against plain loops in float64. A mean over a batch proves nothing where a fresh model
// gives every token the same probability, so weights are of a size at which each part shows.
#pragma once
#include <complex>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bench/checks/check.h"
#include "bench/checks/planted.h"
#include "refrain/model/reference.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {

// Adds a normal number to every weight: of deviation 1 / sqrt(columns) in matrices, where it
// keeps what flows through them at its size, and 0.1 in vectors.
void spread_weights(const std::function<void(const ParamVisitor&)>& visit);
inline void spread_weights(LanguageModel& model) {
  spread_weights([&](const ParamVisitor& v) { model.parameters().visit(v); });
}

// The first rows of `tokens`, trained as the options say (but for their scale),
// against the complex step, which is exact: each row's loss, and all gradients together along a
// random direction, where an error of e is seen as about |e|. The gradients are left in the model.
class StepCheck {
 public:
  // Copies the weights: what is planted in them afterwards is found.
  StepCheck(LanguageModel& model, std::span<const int32_t> tokens,
            std::span<const int32_t> targets);

  Check check(LanguageModel& model, TrainingOptions options, const Planted& planted);

 private:
  std::vector<int32_t> tokens_, targets_;
  std::map<std::string, std::vector<float>> signs_;  // the direction
  std::vector<double> losses_;
  double along_ = 0;    // of the losses' sum, along the direction
  double largest_ = 0;  // of the logits, less their row's mean
};

}  // namespace refrain::bench
