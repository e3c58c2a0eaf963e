// AdamW (Loshchilov & Hutter, 2019) over all weights of a model, as docs of kernels/adamw.h define
// the step. Moments have the layout of the weights: tensors in visiting order.
#pragma once
#include <string>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/model/language_model.h"
#include "refrain/train/config.h"

namespace refrain {

class Optimizer {
 public:
  Optimizer(LanguageModel&, const TrainConfig&);

  // One step from the gradients that have been gathered. Returns the global norm of the gradients
  // before clipping; when it is not finite nothing is changed.
  double step(double learning_rate);

  int64_t steps() const { return steps_; }

  // Both moments, float32, as "m.<name>" and "v.<name>" in visiting order.
  void save(const std::string& path) const;
  void load(const std::string& path, int64_t steps);

 private:
  LanguageModel& model_;
  TrainConfig config_;
  Buffer<float> m_, v_;
  int64_t steps_ = 0;
};

}  // namespace refrain
