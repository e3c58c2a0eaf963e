// Products of a gated feed-forward layer in bfloat16 together with its activation, which reads each
// block of the product while it is in the first-level cache: neither the product nor its rounded
// copy makes a way through memory of its own.
//
//   y = W2 a,  a = silu(gate) up,  [gate up] = x W1ᵀ
//
// They give the bits of linear_forward(), swiglu_forward_rounded(), linear_backward_input() and
// swiglu_backward() with the results rounded, as the next product would round them.
#pragma once
#include "refrain/base/arena.h"
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/format_bf16.h"

namespace refrain::kernels {

// For R rows of F inner features.
struct SwigluRows {
  TensorOf<BFloat16> gate_up;  // [R, 2F]
  TensorOf<BFloat16> a;        // [R, F]; without data: not wanted
  ActivationPrecision precision = ActivationPrecision::kAccurate;
};

// A matrix as rows, or as it is stored (stored_product.h); then the rows have sizes alone.
struct SwigluWeights {
  MatrixView<const float> rows;
  PackedWeights stored{};

  template <class T>
  requires std::is_constructible_v < MatrixView<const float>,
  const T& > SwigluWeights(const T& rows_, PackedWeights stored_ = {})
      : rows(rows_),
  stored(stored_) {}
};

// There are units for it, and F divides into blocks.
bool can_fuse_swiglu(int64_t features);

// gate_up = x wᵀ and a of it, of x [R, D] and w [2F, D].
void swiglu_linear_forward(MatrixView<const float> x, const SwigluWeights& w, const SwigluRows& to,
                           Arena& scratch);
// a of gate_up, and the gradient of gate_up in its place, of dy [R, D], the gradient of y, and the
// w [D, F] that a meets.
void swiglu_linear_backward(MatrixView<const float> dy, const SwigluWeights& w,
                            const SwigluRows& rows, Arena& scratch);

// The same by this kernel: for tests.
void swiglu_linear_forward(MatrixView<const float> x, const SwigluWeights& w, const SwigluRows& to,
                           const Microkernel&, Arena& scratch);
void swiglu_linear_backward(MatrixView<const float> dy, const SwigluWeights& w,
                            const SwigluRows& rows, const Microkernel&, Arena& scratch);

}  // namespace refrain::kernels
