// Products of training with frozen weights as they are stored (storage.h). They are unpacked block
// by block where products pack their operands, so that the matrix is never there in another form.
// They give the bits that rows of float32 of the same values would give, for any number of rows.
#pragma once
#include "refrain/kernels/matmul/gemm.h"

namespace refrain::kernels {

// w [N, K], of any type but float32.
struct StoredMatrix {
  PackedWeights w;
  int64_t N, K;
};

// y [M, N] = x wᵀ and dx [M, K] = dy w, of operands in float32 or bfloat16 (ComputeType).
void stored_linear_forward(const Operand& x, const StoredMatrix&, MatrixView<float> y,
                           Arena& scratch, const MatmulOptions& = {});
void stored_linear_backward_input(const Operand& dy, const StoredMatrix&, MatrixView<float> dx,
                                  Arena& scratch, const MatmulOptions& = {});

}  // namespace refrain::kernels
