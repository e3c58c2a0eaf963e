// Elementwise parts of the gla mixer: functions of some columns of the projections [R, P].
#pragma once
#include "refrain/base/tensor.h"
#include "refrain/kernels/elementwise/rms_norm.h"
#include "refrain/mixers/gla/kernel.h"

namespace refrain::kernels {

// Applies f to columns [first, first + count) of x, in place.
void activate_columns(GlaActivation f, ActivationPrecision, Tensor x, int64_t first, int64_t count);

// What heads read on its way to the output projection, in one pass: its RMSNorm per head, then
// silu of the columns z [R, N] of x, each by choice.
//
//   out [R, N] = norm(o) ⊙ silu(z)
struct GlaReadout {
  ActivationPrecision precision;
  int64_t value_dim;  // of a head
  RmsNorm norm;       // w [value_dim]; null: none
  int64_t gate = -1;  // the first column of z; -1: none
};
void gla_read_forward(const GlaReadout&, ConstTensor o, ConstTensor x, Tensor out);

struct GlaReadoutGradients {
  Tensor d;    // [R, N]: of out; then of norm(o)
  Tensor d_o;  // [R, N]; not written without a norm, where it is what d becomes
  Tensor out;  // [R, N]: as forward had it
  Tensor dw;   // is added to, one chain in ascending order of rows and heads; or null
  Tensor r;    // [R heads]: of the norm
};
// Columns z of x become their gradient.
void gla_read_backward(const GlaReadout&, ConstTensor o, Tensor x, const GlaReadoutGradients&);

}  // namespace refrain::kernels
