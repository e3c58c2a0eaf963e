// The time loop of a multi-memory recurrence (mixers/mm_rec), and its decay. z and γ depend on the
// input alone and are computed before, for all rows at once:
//
//   r = σ(a_r + p_r),  p = σ(a_p + p_p)         full: [p_r p_p] = h[t-1] wᵀ + b, a_p = 0
//                                               linear: p_r, p_p = b
//   n = (1 - r) ⊙ h[t-1] + r ⊙ z + γ ⊙ h[t-1]
//   h[t] = z ⊙ p + γ ⊙ h[t-1] + μ n
//        = z ⊙ (p + μ r) + h[t-1] ⊙ (γ (1 + μ) + μ (1 - r))
//
//   γ = clamp(σ(s_1) ⊙ σ(s_2), 1e-6, (1 - μ) / (1 + μ))
//
// The bound on γ keeps the factor of h[t-1] at 1 - μ r or less. Without it the factor reaches 1 +
// 2μ - μ r, and h grows without limit. Chunks run side by side as in recurrent.h. Every product is
// one chain in ascending order, so no bit depends on threads or on the rest of the batch.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/sequence/recurrent.h"

namespace refrain::kernels {

inline constexpr float kMmRecLeastDecay = 1e-6f;
inline float mm_rec_most_decay(float mu) { return (1 - mu) / (1 + mu); }

// decay [R, D]: γ, from both σ in a row of s [R, 2D].
void mm_rec_decay_forward(float mu, ConstTensor s, Tensor decay);
// Replaces σ(s_1) and σ(s_2) in s by the gradients of s_1 and s_2. They are 0 where γ was clamped.
void mm_rec_decay_backward(float mu, Tensor s, ConstTensor ddecay);

struct MmRecCell {
  float mu;
  ConstTensor b;           // [2D]: of r, of p
  ConstTensor w{};         // [2D, D]; none: linear
  PackedWeights packed{};  // w as it is stored, or none; as RecurrentWeights::packed
  ActivationPrecision precision = ActivationPrecision::kAccurate;  // of σ
};

// One row for every step of every chunk.
struct MmRecRows {
  MatrixView<const float> z;  // [R, D]
  Tensor decay;               // [R, D]; backward leaves its gradient
  Tensor gates;  // [R, 2D]: forward finds a_r, and for linear a_p, and leaves r, p; backward leaves
                 // the gradients by what σ was taken of
  Tensor h;      // [R, D]
};

struct MmRecGradients {
  ConstTensor dh;        // [R, D]: from what reads h
  MatrixView<float> dz;  // [R, D], overwritten
  // Per chunk [D], or none: in, of the h it left; out, of the h it found.
  std::span<float* const> dstate{};
};

// A chunk's `initial_state` is the h before it. Both take their buffers from `scratch` and do
// nothing else when it only counts.
void mm_rec_forward(const MmRecCell&, std::span<const RecurrentChunk>, const MmRecRows&,
                    Arena& scratch);
// `rows` as forward left them. Nothing comes out for w and b: theirs are dgatesᵀ h[t-1] and the sum
// of dgates, products over all rows.
void mm_rec_backward(const MmRecCell&, std::span<const RecurrentChunk>, const MmRecRows& rows,
                     const MmRecGradients&, Arena& scratch);

}  // namespace refrain::kernels
