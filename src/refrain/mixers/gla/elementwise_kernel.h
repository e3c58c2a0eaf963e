// Elementwise parts of the gla mixer: functions of some columns of the projections [R, P].
#pragma once
#include "refrain/base/tensor.h"
#include "refrain/mixers/gla/kernel.h"

namespace refrain::kernels {

// Applies f to columns [first, first + count) of x, in place.
void activate_columns(GlaActivation f, ActivationPrecision, Tensor x, int64_t first, int64_t count);

// out [R, N] = n ⊙ silu(z), with z the columns [first, first + N) of x. out may be n.
void swish_gate_forward(ActivationPrecision, ConstTensor n, ConstTensor x, int64_t first,
                        Tensor out);
// dn = dout ⊙ silu(z), dn may be dout; the columns z become dz = dout ⊙ n ⊙ silu'(z).
void swish_gate_backward(ActivationPrecision, ConstTensor n, ConstTensor dout, Tensor x,
                         int64_t first, Tensor dn);

}  // namespace refrain::kernels
