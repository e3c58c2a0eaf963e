// AdamW (Loshchilov & Hutter, 2019) over a model's trainable weights, as docs of
// kernels/elementwise/adamw.h define the step. Moments have the layout of the gradients: frozen
// tensors have none.
#pragma once
#include <string>

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

  // Both moments, float32, as "m.<name>" and "v.<name>" in visiting order.
  void save(const std::string& path) const;
  void load(const std::string& path, int64_t steps);

 private:
  ParameterStore& parameters_;
  TrainConfig config_;
  Buffer<float> m_, v_;
  int64_t steps_ = 0;
};

}  // namespace refrain
