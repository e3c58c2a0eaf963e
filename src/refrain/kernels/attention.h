// Causal softmax attention in O(T) memory, forward and backward.
//
//   S = scale q kᵀ (a query sees the keys up to its own position),  P = softmax(S),  o = P v
//
// Blockwise with a running maximum and sum (Milakov & Gimelshein, 2018; Dao et al., 2022): S and P
// exist only as a tile. Forward leaves lse = log sum exp(S) per query and head; backward
// recomputes P from it:  dV = Pᵀ dO,  dS = P (dP - rowsum(dO o)),  dQ = scale dS k,  dK = scale dSᵀ
// q.
//
// Blocks of keys stand at absolute multiples of a fixed length, so what a query gives does not
// depend on which other queries come in the same call: whole, chunked and stepped are the same to
// the bit. Grouped queries: query head h reads key/value head h / (heads / kv_heads).
#pragma once
#include <span>

#include "refrain/base/arena.h"
#include "refrain/base/tensor.h"

namespace refrain::kernels {

struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  float scale;
  // Floats from one token's row to the next in q, k and v, o. Within a row, heads lie one after
  // another.
  int64_t q_row, kv_row, o_row;
};

// One sequence: `queries` new tokens, the last of `keys` tokens. Rows of k and v start at token 0.
struct AttentionSequence {
  int64_t queries, keys;
  const float *q, *k, *v;
  float* o;
  float* lse;  // [heads, queries]
};

// Writes o and lse of every sequence. Takes scratch; does nothing else when it only counts.
void attention_forward(const AttentionShape&, std::span<const AttentionSequence>, Arena& scratch);

// Gradients of one sequence, in rows like those of q, k, v.
struct AttentionGradients {
  const float* d_o;  // rows at o_row
  float* dq;         // rows at dq_row, overwritten
  float *dk, *dv;    // rows at dkv_row for all keys; overwritten, or added to with `add_kv`
};

void attention_backward(const AttentionShape&, std::span<const AttentionSequence>,
                        std::span<const AttentionGradients>, int64_t dq_row, int64_t dkv_row,
                        bool add_kv, Arena& scratch);

}  // namespace refrain::kernels
