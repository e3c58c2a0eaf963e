// AdamW (Loshchilov & Hutter, 2019) over all weights of a model, as docs of kernels/adamw.h define
// the step. Moments have the layout of the weights: tensors in visiting order.
#pragma once
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/model/language_model.h"
#include "refrain/train/config.h"

namespace refrain {

// What is learned of a model, which must stay where it is.
struct LearnedWeights {
  std::function<void(const ParamVisitor&)> visit;
  std::function<std::span<float>()> weights, gradients;  // as a model lays them out
};

class Optimizer {
 public:
  Optimizer(LearnedWeights, const TrainConfig&);
  Optimizer(LanguageModel&, const TrainConfig&);

  // One step from the gradients that have been gathered. Returns the global norm of the gradients
  // before clipping; when it is not finite nothing is changed.
  double step(double learning_rate);

  int64_t steps() const { return steps_; }

  // A finite gradient can lead to weights that are not: a learning rate or a decay without measure.
  bool weights_are_finite() const;

  // Both moments, float32, as "m.<name>" and "v.<name>" in visiting order.
  void save(const std::string& path) const;
  void load(const std::string& path, int64_t steps);

 private:
  LearnedWeights model_;
  TrainConfig config_;
  Buffer<float> m_, v_;
  int64_t steps_ = 0;
};

}  // namespace refrain
