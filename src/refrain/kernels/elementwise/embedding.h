// Looks up rows of a table by token, out[r] = table[tokens[r]], and computes the gradient of the
// table.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/tensor.h"

namespace refrain::kernels {

// table [V, D], out [R, D]; every token in [0, V) (a CHECK).
void embedding_forward(std::span<const int32_t> tokens, ConstTensor table, Tensor out);

// dtable[tokens[r]] += dout[r], in ascending row order for every element. dtable may be null.
void embedding_backward(std::span<const int32_t> tokens, ConstTensor dout, Tensor dtable);

}  // namespace refrain::kernels
