// AdamW (Loshchilov & Hutter, 2019) or stochastic gradient descent over a model's trainable
// weights, as kernels/elementwise/adamw.h defines their steps. Moments have the layout of the
// gradients: frozen tensors have none. AdamW has two of them, descent with momentum one.
#pragma once
#include <string>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/model/parameters/parameter_store.h"
#include "refrain/train/config.h"

namespace refrain {

class Optimizer {
 public:
  Optimizer(ParameterStore&, const TrainConfig&);

  // One step with the accumulated gradients. Returns their global norm before clipping. If it is
  // not finite, nothing is changed.
  double step(double learning_rate);

  int64_t steps() const { return steps_; }

  // Finite gradients can lead to infinite weights, if the learning rate or the decay is too large.
  bool weights_are_finite() const;

  // The moments, float32, as "m.<name>" and "v.<name>" in visiting order.
  void save(const std::string& path) const;
  void load(const std::string& path, int64_t steps);

 private:
  ParameterStore& parameters_;
  TrainConfig config_;
  std::vector<Buffer<float>> moments_;
  int64_t steps_ = 0;
};

}  // namespace refrain
