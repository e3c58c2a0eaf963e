// Sums: of two arrays, and over the rows of a matrix.
#pragma once
#include "refrain/base/matrix_view.h"

namespace refrain::kernels {

// out = a + b, of any one shape; out may be a or b.
void add(ConstTensor a, ConstTensor b, Tensor out);
// x = x * by
void scale(Tensor x, float by);
// y [R, N] += b [N] in every row
void add_row(MatrixView<float> y, ConstTensor b);
// y = x less the mean of its row; x, y [R, N], y may be x. It is its own gradient: dx = dy less the
// mean of its row.
void center_rows(ConstTensor x, Tensor y);
// to = from
void copy(ConstTensor from, Tensor to);

// db [N] += sum over rows of dy [R, N], the gradient of a bias: one chain in ascending row order
// per element, so that rows may come in several calls. db may be null: nobody wants it.
void column_sum_add(MatrixView<const float> dy, Tensor db);

}  // namespace refrain::kernels
