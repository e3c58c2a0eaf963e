// AdamW (Loshchilov and Hutter, 2019, arXiv 1711.05101) in the form of Adam's section 2: at step t
//
//   m = β1 m + (1 - β1) g      v = β2 v + (1 - β2) g^2      α_t = α sqrt(1 - β2^t) / (1 - β1^t)
//   θ = θ - α_t m / (sqrt(v) + ε) - α λ θ
//
// stochastic gradient descent with momentum as PyTorch has it, without moments when μ = 0
//
//   m = μ m + g + λ θ      θ = θ - α m
//
// and the norm of the gradients, which clipping needs.
#pragma once
#include <cstdint>
#include <limits>
#include <span>

namespace refrain::kernels {

struct AdamwStep {
  int64_t step;  // t, from 1
  double learning_rate, beta1, beta2, eps;
  double weight_decay;    // λ of these parameters: 0 for norms, biases and embeddings
  double grad_scale = 1;  // clipping by global norm: g is multiplied by it first
  double clip_value = std::numeric_limits<double>::infinity();  // then cut to [-c, c]
};

// All spans have one length. Elements are independent of one another.
void adamw_step(std::span<float> params, std::span<const float> grads, std::span<float> m,
                std::span<float> v, const AdamwStep& s);

struct SgdStep {
  double learning_rate, momentum, weight_decay;  // α, μ, λ
  double grad_scale = 1;                         // as in AdamwStep
  double clip_value = std::numeric_limits<double>::infinity();
};

// All spans have one length; without momentum m is empty.
void sgd_step(std::span<float> params, std::span<const float> grads, std::span<float> m,
              const SgdStep& s);

// The sum in double, in an order that depends on the length alone. Not finite if an element is not.
double sum_of_squares(std::span<const float> x);

}  // namespace refrain::kernels
