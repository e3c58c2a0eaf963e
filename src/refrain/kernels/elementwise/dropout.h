// Dropout (Srivastava et al., 2014): an element is zeroed with probability p, or else divided by
// 1 - p. The same call on a gradient is the backward pass.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/tensor.h"

namespace refrain::kernels {

// x [R, D] in place, 0 <= p < 1. Element j of row r is kept if word j % 4 of philox
// (base/random.h), with `key` and the counter (row_ids[r], j / 4), scaled to [0, 1), is at least p.
// So the mask is a function of key, row id and j.
void dropout_apply(Tensor x, float p, uint64_t key, std::span<const uint64_t> row_ids);

}  // namespace refrain::kernels
