// The norm of rms_norm.h of each head of a row by itself, with one weight for all heads: of queries
// and keys before their product (Henry et al., 2020; Qwen3).
//
//   y_h = w * x_h * r_h,   r_h = 1 / sqrt(mean(x_h^2) + eps)
//
// x, y: [R, heads d], rows at any distance, w: [d], r: [R, heads]. Forward writes r for backward.
// The result of a row depends on that row alone.
#pragma once
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/elementwise/rms_norm.h"

namespace refrain::kernels {

// y may be x.
void head_norm_forward(MatrixView<const float> x, const RmsNorm&, MatrixView<float> y, Tensor r);

// d: dy in, dx out. dw is added to, one chain in ascending order of rows and heads, or null.
void head_norm_backward(MatrixView<const float> x, ConstTensor w, ConstTensor r,
                        MatrixView<float> d, Tensor dw);

}  // namespace refrain::kernels
