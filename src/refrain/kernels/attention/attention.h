// Causal softmax attention in O(T) memory, forward and backward, over all keys or a sparse part.
//
//   S = scale q kᵀ (a query sees the keys up to its own position),  P = softmax(S),  o = P v
//
// With a window w, the query at position t sees positions t - w + 1 .. t. With a stride s as well
// (Child et al., 2019), it also sees every s-th of the positions before: those p with (p + 1) % s
// == 0. Keys that are not seen are skipped, not masked. The cost is T w, or T (w + T / s), products
// instead of T².
//
// It works block by block with a running maximum and sum (Milakov & Gimelshein, 2018; Dao et al.,
// 2022): S and P exist only as a tile. Forward saves the maximum and the sum of each query and head
// separately, because a float32 log-sum-exp of scores in the millions has no digits after the
// point. Backward computes the same scores to the bit and from them P:  dV = Pᵀ dO,  dS = P (dP -
// rowsum(dO o)), dQ = scale dS k,  dK = scale dSᵀ q.
//
// Queries may be as large as float32 allows, keys up to 1e28 / head_dim: no score overflows.
//
// With dropout (Vaswani et al., 2017), an element of P that multiplies a row of v is zeroed with a
// probability, or else divided by 1 minus it. The sum that normalises P keeps all elements. With m
// the mask, scaled like this:  o = (m P) v,  dV = (m P)ᵀ dO,  dP = m (dO vᵀ), the rest as above.
//
// Blocks of keys are at absolute multiples of a fixed length. So the result of a query does not
// depend on the other queries in the call: whole, chunked and stepped forms are equal to the bit.
// Grouped queries: query head h reads key/value head h / (heads / kv_heads).
#pragma once
#include <span>

#include "refrain/base/arena.h"
#include "refrain/base/tensor.h"
#include "refrain/kernels/attention/kv_cache.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain::kernels {

// Dropout of the probabilities; rate 0 = none. The mask of a query is a row of dropout.h. Its
// columns are the keys, by number in their list (attention_pattern.h), with 2 head + list (0:
// strided, 1: local) as the last word of the counter. So it is a function of key, row id, head and
// position.
struct AttentionDropout {
  float rate = 0;
  uint64_t key = 0;
};

struct AttentionShape {
  int64_t heads, kv_heads, head_dim;
  float scale;
  int64_t q_row, o_row;  // floats from one token's row to the next; heads lie side by side
  int64_t window = 0, stride = 0;  // 0: all, none. A stride needs a window.
  AttentionDropout dropout{};
};

// Rows of keys and values of one sequence, those of the call's tokens and those before them. Within
// a row, heads lie one after another.
template <class T>
struct AttentionKeys {
  struct Rows {  // no matrix view: two of them that always have one stride
    T *k = nullptr, *v = nullptr;
    int64_t row = 0;  // elements from one to the next
  };
  Rows own{};      // of the call's i-th token at row i
  Rows past{};     // of position p before them at row p % window, or p without a window
  Rows strided{};  // of the stride's i-th position, if it is before them, at row i
};

// One sequence: `queries` tokens from position `start` on.
struct AttentionSequence {
  int64_t queries, start;
  const float* q;
  AttentionKeys<const float> keys;
  float* o;
  // [2, heads, queries]: the highest score, as forward multiplied it (scores-inl.h), and log2 of
  // the sum of 2^(score - highest).
  float* softmax;
  const uint64_t* row_ids = nullptr;  // [queries], for dropout only
  // With another type than float32 the past and strided rows are those of `cached`, as kv_cache.h
  // stores them; own rows have values of that type. For inference: products are in float32, and
  // there is no backward.
  CacheType cache_type = CacheType::kFloat32;
  AttentionKeys<const std::byte> cached{};
};

// Writes o and softmax of every sequence. Takes scratch; does nothing else when it only counts.
// With ComputeType::kBf16, products are made by the units there are for that (attention_bf16.h);
// where there are none, and with others, they are in float32.
void attention_forward(const AttentionShape&, std::span<const AttentionSequence>, Arena& scratch,
                       ComputeType = ComputeType::kFloat32);

// Gradients of one sequence, in rows like those of q, k, v.
struct AttentionGradients {
  const float* d_o;  // rows at o_row
  float* dq;         // rows at dq_row, overwritten
  int64_t dq_row;
  // Own rows are overwritten, or added to with `add`; the others are added to, and null if not
  // wanted.
  AttentionKeys<float> keys;
  bool add = false;
};

void attention_backward(const AttentionShape&, std::span<const AttentionSequence>,
                        std::span<const AttentionGradients>, Arena& scratch,
                        ComputeType = ComputeType::kFloat32);

}  // namespace refrain::kernels
