// Root-mean-square norm over the last dimension (Zhang and Sennrich, 2019, arXiv 1910.07467):
//
//   y = w * x * r,   r = 1 / sqrt(mean(x^2) + eps)
//
// x, y: [R, D], w: [D], r: [R]. Forward writes r for backward. The result of a row depends on that
// row alone.
#pragma once
#include "refrain/base/tensor.h"

namespace refrain::kernels {

struct RmsNorm {
  ConstTensor w;
  float eps;
};

// y may be x.
void rms_norm_forward(ConstTensor x, const RmsNorm&, Tensor y, Tensor r);

// sum = x + delta, y = norm(sum), in one pass. sum may be x or delta.
void residual_rms_norm_forward(ConstTensor x, ConstTensor delta, const RmsNorm&, Tensor sum,
                               Tensor y, Tensor r);

// Computes y again from the r of forward, with the same bits.
void rms_norm_apply(ConstTensor x, ConstTensor w, ConstTensor r, Tensor y);

// dx is overwritten, or added to with `add`: the dx of a block already holds the gradient of the
// residual path. dw is added to, or null.
struct RmsNormGradients {
  Tensor dx, dw;
  bool add = false;
};
// dx = r (w dy - x r^2 mean(w dy x)),  dw = sum over rows of dy x r: one chain in ascending row
// order per element, so rows may come in several calls. dx is not x or dy.
void rms_norm_backward(ConstTensor x, ConstTensor w, ConstTensor r, ConstTensor dy,
                       const RmsNormGradients&);

}  // namespace refrain::kernels
