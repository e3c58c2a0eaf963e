// The loop of kernel.h with its weights rounded to bfloat16 and half of the bytes to read in every
// step. h, the gradients that go from step to step and all sums are float32; rows that wait for
// backward are bfloat16. The product of a step is a chain of fused multiply-adds in ascending
// order, whatever instructions there are for bfloat16. Backward has two, of r and of p, and adds
// them.
#pragma once
#include <span>

#include "refrain/kernels/matmul/bf16.h"
#include "refrain/mixers/mm_rec/kernel.h"

namespace refrain::kernels {

// All [R, D].
struct MmRecBf16Rows {
  TensorOf<const BFloat16> z;
  // Forward finds γ and leaves h, not rounded. Backward finds γ and leaves its gradient.
  Tensor decay;
  TensorOf<BFloat16> r,
      p;  // written by forward; backward leaves the gradients by what σ is taken of
  TensorOf<const BFloat16> h{};  // read by backward
};

// a_r [R, D]: what r reads of the input. The cell has w, not packed.
void mm_rec_forward_bf16(const MmRecCell&, std::span<const RecurrentChunk>, const MmRecBf16Rows&,
                         ConstTensor a_r, Arena& scratch);
void mm_rec_backward_bf16(const MmRecCell&, std::span<const RecurrentChunk>, const MmRecBf16Rows&,
                          const MmRecGradients&, Arena& scratch);

// As in kernel.h, of σ(s_1) and σ(s_2) in tensors of their own. decay may be s1.
void mm_rec_decay_forward(float mu, ConstTensor s1, ConstTensor s2, Tensor decay);
void mm_rec_decay_backward(float mu, Tensor s1, Tensor s2, ConstTensor ddecay);

}  // namespace refrain::kernels
