// A causal depthwise convolution over time, then silu: every channel sees its own last N values.
//
//   z[t, c] = Σ_{i<N} w[c, i] p[t-i, c]          y = silu(z) = z σ(z)
//
// An output is one chain over the taps, the newest first. So a sequence gives the same bits whole,
// cut anywhere and row by row. The same holds for a gradient of p; its chain continues where a
// sequence is cut. Short filters before linear attention: Poli et al., 2023 (arXiv 2302.10866), Gu
// and Dao, 2023 (arXiv 2312.00752).
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"
#include "refrain/base/matrix_view.h"
#include "refrain/base/tensor.h"
#include "refrain/kernels/elementwise/activation.h"

namespace refrain::kernels {

inline constexpr int64_t kShortConvMaxTaps = 16;

// Rows first .. first + rows of every matrix, a stretch of a sequence. The N - 1 rows of p before
// it, [N-1, channels], the oldest first, are what it carries; null: zeros, or not wanted.
struct ShortConvChunk {
  int64_t first, rows;
  const float* initial_state = nullptr;
  float* final_state = nullptr;  // forward writes what the next chunk finds; may be `initial_state`
  float* dstate = nullptr;       // backward: in, of what it left; out, of what it found
};

// w [channels, N], N from 2 to kShortConvMaxTaps, and the precision of silu.
struct ShortConvFilter {
  ShortConvFilter(ConstTensor weights, ActivationPrecision of_silu = {})
      : w(weights), precision(of_silu) {}

  ConstTensor w;
  ActivationPrecision precision;
};

// Chunks end to end from row 0. Both take their
// buffers from `scratch` and do nothing else when it only counts.
void short_conv_forward(const ShortConvFilter&, std::span<const ShortConvChunk>,
                        MatrixView<float> p, MatrixView<float> y, Arena& scratch);
// dp takes the place of p, and dy is used up. dw, which may be null, is added to: one chain per
// element down all rows.
void short_conv_backward(const ShortConvFilter&, Tensor dw, std::span<const ShortConvChunk>,
                         MatrixView<float> p, MatrixView<float> dy, Arena& scratch);

}  // namespace refrain::kernels
