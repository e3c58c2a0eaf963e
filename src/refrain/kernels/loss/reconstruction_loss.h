// How far a vector is from the one it should be, row by row:
//
//   cosine   0.9 (1 - cos(y, x)) + 0.1 mean((y - x/|x|)²)
//   mse      mean((y - x)²)
//
// and its gradient by y. x is given, not learned through this. A row without length has no
// direction: its cosine is 0, and so is the gradient of it.
#pragma once
#include "refrain/base/tensor.h"

namespace refrain::kernels {

enum class ReconstructionLoss { kCosine, kMse };

inline constexpr double kCosineShare = 0.9, kDistanceShare = 0.1;

// y, x [R, E]; losses and cosines [R] unscaled; dy [R, E] = scale dloss/dy, overwritten, or
// nothing.
void reconstruction_loss(ReconstructionLoss, ConstTensor y, ConstTensor x, float scale,
                         Tensor losses, Tensor cosines, Tensor dy = {});

}  // namespace refrain::kernels
