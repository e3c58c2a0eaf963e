// Gated linear attention (Yang et al., 2024, arXiv 2312.06635), forward and backward. Per head,
// with a matrix state C [K, V] and a gate g = σ(z)^(1/divisor) in (0, 1) per key channel:
//
//   C[t] = diag(g[t]) C[t-1] + k[t]ᵀ v[t]          o[t] = scale q[t] C[t]
//
// Forward is this recurrence, with tiles of C in registers: a sequence gives the same bits whole,
// cut anywhere and token by token. Backward works in chunks of 16 rows (kGlaChunk) at absolute
// positions, as matrix products. With E_ij the product of the gates of rows j+1 .. i of a chunk,
// G_i that of all rows up to i and D_j that of all after j, a chunk is
//
//   o_i   = scale [ (q_i ⊙ G_i) C_in + Σ_{j<=i} A_ij v_j ],   A_ij = Σ_k q_ik k_jk E_ijk
//   C_out = diag(G_n) C_in + Σ_j (k_j ⊙ D_j)ᵀ v_j
//
// E, G and D are computed by multiplying gates. Nothing is ever divided by a product of gates, so
// nothing overflows at any length. docs/models/gla.md derives the gradients.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"
#include "refrain/kernels/elementwise/activation.h"

namespace refrain::kernels {

inline constexpr int64_t kGlaChunk = 16;     // rows: the size of a chunk in backward
inline constexpr int64_t kGlaMaxDim = 1024;  // of keys and values

// k and v are f(projection). Backward goes through f.
enum class GlaActivation { kIdentity, kSigmoid, kTanh };

struct GlaShape {
  int64_t heads, key_dim, value_dim;
  float scale, gate_divisor;
  GlaActivation key_act, value_act;
  // Floats from a token's row to the next in q, k and v, in the gate logits, and in o. Within a
  // row, heads lie one after another.
  int64_t row, gate_row, o_row;
  ActivationPrecision precision = ActivationPrecision::kAccurate;  // of key_act and value_act

  int64_t state_size() const { return heads * key_dim * value_dim; }
};

// Tokens start .. start + tokens of a sequence.
struct GlaSequence {
  int64_t start, tokens;
  const float *q, *k, *v, *gate;
  const float* initial_state = nullptr;  // [heads, K, V]: the state before them; null: zero
};

// The number of states that backward starts from: those at multiples of `every` (itself a multiple
// of 16) inside the sequence, without its ends.
inline int64_t gla_kept_states(int64_t start, int64_t tokens, int64_t every) {
  return tokens > 0 ? (start + tokens - 1) / every - start / every : 0;
}

struct GlaOutputs {
  float* o;
  float* final_state = nullptr;  // [heads, K, V]; may be `initial_state`; null: not wanted
  float* kept = nullptr;         // [gla_kept_states, heads, K, V]; null: not wanted
};

// They take scratch; if scratch only counts, they do nothing else. A task is a head of a sequence.
void gla_forward(const GlaShape&, std::span<const GlaSequence>, std::span<const GlaOutputs>,
                 int64_t every, Arena& scratch);

// Gradients in rows like those of q, k, v and the gate logits. They may overwrite these.
struct GlaGradients {
  const float* d_o;
  float *dq, *dk, *dv, *dgate;
  const float* kept;        // as forward wrote it
  float* dstate = nullptr;  // [heads, K, V]: of the final state, then of the initial state; or null
};

void gla_backward(const GlaShape&, std::span<const GlaSequence>, std::span<const GlaGradients>,
                  int64_t every, Arena& scratch);

}  // namespace refrain::kernels
