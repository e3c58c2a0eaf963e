// The distance of each row y from its target x:
//
//   cosine   0.9 (1 - cos(y, x)) + 0.1 mean((y - x/|x|)²)
//   mse      mean((y - x)²)
//
// and its gradient by y. x is a constant here. A row of length zero has no direction: its cosine
// and its gradient are 0.
#pragma once
#include "refrain/base/tensor.h"

namespace refrain::kernels {

enum class ReconstructionLoss { kCosine, kMse };

inline constexpr double kCosineShare = 0.9, kDistanceShare = 0.1;

// dy [R, E] = scale dloss/dy, overwritten, or empty.
struct ReconstructionGradient {
  Tensor dy{};
  float scale = 1;
};

// y, x [R, E]; losses and cosines [R] unscaled.
void reconstruction_loss(ReconstructionLoss, ConstTensor y, ConstTensor x, Tensor losses,
                         Tensor cosines, const ReconstructionGradient& = {});

}  // namespace refrain::kernels
