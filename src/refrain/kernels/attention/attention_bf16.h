// attention.h on units for bfloat16 (format_bf16.h): what enters a product, q, k, v, dO, the
// probabilities and dS, is rounded; scores, softmax, and all sums stay float32.
//
// Of what a product reduces, groups stand at absolute places: features from 0 on, keys by their
// number in their list, queries by their position. What is not seen is a zero of P and dS, and rows
// that do not exist are zeros. So a query's o and dQ do not depend on which others come in the same
// call, in forward wherever it is cut, in backward at positions that are multiples of 64.
#pragma once
#include <span>

#include "refrain/kernels/attention/attention.h"
#include "refrain/kernels/matmul/format_bf16.h"

namespace refrain::kernels {

void attention_forward_bf16(const Microkernel&, const AttentionShape&,
                            std::span<const AttentionSequence>, Arena& scratch);
void attention_backward_bf16(const Microkernel&, const AttentionShape&,
                             std::span<const AttentionSequence>,
                             std::span<const AttentionGradients>, Arena& scratch);

}  // namespace refrain::kernels
