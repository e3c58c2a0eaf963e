// Activations, element by element, and the gated linear unit of a Llama block (Shazeer, 2020, arXiv
// 2002.05202). All are accurate to a few ulp in value and slope, tails included, and NaN stays NaN.
//
//   silu(x)      x σ(x)                      slope  σ(x) (1 + x (1 - σ(x)))
//   gelu(x)      x Φ(x)                      slope  Φ(x) + x φ(x)        Φ by erf
//   gelu_tanh(x) x (1 + tanh(u)) / 2 = x σ(2u),   u = sqrt(2/π) (x + 0.044715 x^3)
//   sigmoid, tanh
#pragma once
#include "refrain/base/tensor.h"
#include "refrain/kernels/matmul/bf16.h"

namespace refrain::kernels {

enum class Activation { kSilu, kGelu, kGeluTanh, kSigmoid, kTanh };

// y = f(x), any shape; y may be x.
void activation_forward(Activation f, ConstTensor x, Tensor y);
// dx = dy f'(x), overwritten; dx may be x or dy.
void activation_backward(Activation f, ConstTensor x, ConstTensor dy, Tensor dx);

// out [R, F] = silu(gate) * up, where a row of gate_up [R, 2F] is F gate values, then F up values.
void swiglu_forward(ConstTensor gate_up, Tensor out);
// Of gate_up rounded to bfloat16, which bf16 [R, 2F] becomes.
void swiglu_forward_rounded(ConstTensor gate_up, TensorOf<BFloat16> bf16, Tensor out);
// dgate_up [R, 2F] overwritten; it may be gate_up.
void swiglu_backward(ConstTensor gate_up, ConstTensor dout, Tensor dgate_up);
// Both of rounded values.
void swiglu_forward(TensorOf<const BFloat16> gate_up, Tensor out);
void swiglu_backward(TensorOf<const BFloat16> gate_up, ConstTensor dout, Tensor dgate_up);

}  // namespace refrain::kernels
