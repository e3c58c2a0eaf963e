// Activations, element by element, and the gated linear unit of a Llama block (Shazeer, 2020, arXiv
// 2002.05202). All are accurate to a few ulp in value and slope, tails included, and NaN stays NaN.
//
//   silu(x)      x σ(x)                      slope  σ(x) (1 + x (1 - σ(x)))
//   gelu(x)      x Φ(x)                      slope  Φ(x) + x φ(x)        Φ by erf
//   gelu_tanh(x) x (1 + tanh(u)) / 2 = x σ(2u),   u = sqrt(2/π) (x + 0.044715 x^3)
//   sigmoid, tanh
//   relu(x)      max(x, 0)                   slope  1 where x > 0, else 0
//
// With ActivationPrecision::kFast they are other functions, and slopes are those of these functions
// (docs/activations.md):
//
//   tanh(x)      x (27 + x^2) / (27 + 9 x^2) between -3 and 3, beyond them -1 and 1
//   e^x          of x between -88 and 88, beyond them as there
//   sigmoid(x)   1 / (1 + e^-x), and silu and gelu_tanh with it; gelu has neither and stays
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "refrain/base/tensor.h"
#include "refrain/kernels/matmul/bf16.h"

namespace refrain::kernels {

enum class Activation { kSilu, kGelu, kGeluTanh, kSigmoid, kTanh, kRelu };

enum class ActivationPrecision : uint8_t { kAccurate, kFast };
inline constexpr std::array<std::string_view, 2> kActivationPrecisions = {"accurate", "fast"};
constexpr std::optional<ActivationPrecision> activation_precision_named(std::string_view name) {
  if (name == kActivationPrecisions[0]) return ActivationPrecision::kAccurate;
  if (name == kActivationPrecisions[1]) return ActivationPrecision::kFast;
  return std::nullopt;
}

// y = f(x), any shape; y may be x.
void activation_forward(Activation f, ConstTensor x, Tensor y, ActivationPrecision = {});
// dx = dy f'(x), overwritten; dx may be x or dy.
void activation_backward(Activation f, ConstTensor x, ConstTensor dy, Tensor dx,
                         ActivationPrecision = {});

// out [R, F] = silu(gate) * up, where a row of gate_up [R, 2F] is F gate values, then F up values.
void swiglu_forward(ConstTensor gate_up, Tensor out, ActivationPrecision = {});
// Of gate_up rounded to bfloat16, which bf16 [R, 2F] becomes.
void swiglu_forward_rounded(ConstTensor gate_up, TensorOf<BFloat16> bf16, Tensor out,
                            ActivationPrecision = {});
// dgate_up [R, 2F] overwritten; it may be gate_up.
void swiglu_backward(ConstTensor gate_up, ConstTensor dout, Tensor dgate_up,
                     ActivationPrecision = {});
// Both of rounded values.
void swiglu_forward(TensorOf<const BFloat16> gate_up, Tensor out, ActivationPrecision = {});
void swiglu_backward(TensorOf<const BFloat16> gate_up, ConstTensor dout, Tensor dgate_up,
                     ActivationPrecision = {});

}  // namespace refrain::kernels
