// Attention with one query that is the same for all tokens, as a recurrent network (Feng et al.,
// 2024, arXiv 2405.13956). Per head, of scores s[t] and values v[t]:
//
//   m[t] = max(m[t-1], s[t])
//   c[t] = c[t-1] e^(m[t-1] - m[t]) +      e^(s[t] - m[t])
//   a[t] = a[t-1] e^(m[t-1] - m[t]) + v[t] e^(s[t] - m[t])        o[t] = a[t] / c[t]
//
// The state is a, c and m. c = 0 means that nothing was seen yet, whatever m is, so zeros are an
// empty state. No exponent is ever positive. o is computed as a moving average:
//
//   o[t] = keep[t] o[t-1] + share[t] v[t]
//   keep[t] = c[t-1] e^(m[t-1] - m[t]) / c[t],  share[t] = e^(s[t] - m[t]) / c[t]
//
// The states of two neighbouring spans of tokens combine into that of both, associatively. So
// blocks of 64 tokens are reduced independently, a short fold carries states from block to block,
// and then each block computes its outputs from its initial state. Backward works in the same way
// from right to left. Blocks are at absolute positions: cutting a sequence at multiples of 64
// changes no bit. docs/models/attention_rnn.md has the derivation.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"

namespace refrain::kernels {

inline constexpr int64_t kScanBlock = 64;

struct ScanShape {
  int64_t heads, head_dim;

  int64_t width() const { return heads * head_dim; }
  // Floats of a state: a [width], c [heads], m [heads].
  int64_t state_size() const { return width() + 2 * heads; }
};

// The rows [first, first + tokens) of all tensors: tokens of one sequence from position `start`.
struct ScanChunk {
  int64_t first, tokens, start;          // tokens > 0
  const float* initial_state = nullptr;  // the state before them; null: empty
  float* final_state =
      nullptr;              // the state after them, which forward writes; may be `initial_state`
  float* dstate = nullptr;  // backward: dL/d(final state) in, dL/d(initial state) out; or null
};

// The number of blocks that a chunk touches.
inline int64_t scan_blocks(int64_t start, int64_t tokens) {
  return tokens > 0 ? (start + tokens - 1) / kScanBlock - start / kScanBlock + 1 : 0;
}

struct ScanRows {
  Tensor s;            // [R, heads]
  Tensor v, o;         // [R, width]
  Tensor keep, share;  // [R, heads]
  Tensor carries;      // [blocks of all chunks, state_size]: the initial state of each
};

// Writes o, keep, share, carries and the final states. Takes scratch; if scratch only counts, does
// nothing else.
void attention_scan_forward(const ScanShape&, std::span<const ScanChunk>, const ScanRows&,
                            Arena& scratch);

struct ScanGradients {
  ConstTensor d_o;  // [R, width]
  Tensor ds;        // [R, heads], overwritten
  Tensor dv;        // [R, width], overwritten; may be v
};

// A chunk with a dstate has `final_state` as forward wrote it.
void attention_scan_backward(const ScanShape&, std::span<const ScanChunk>, const ScanRows&,
                             const ScanGradients&, Arena& scratch);

}  // namespace refrain::kernels
