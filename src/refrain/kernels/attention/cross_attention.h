// Attention to the rows of another sequence (Bahdanau et al., 2015; Vaswani et al., 2017): every
// query sees all rows of its sequence's memory, or those near its own place, head by head.
//
//   S = scale q kᵀ,  P = softmax(S) over the keys that the query sees,  o = P v
//
// With a window w, the query at position t sees keys t - ⌊w / 2⌋ to t + ⌊(w - 1) / 2⌋: w of them,
// fewer at the ends (the local-m attention of Luong et al., 2015). With a stride s as well it sees
// every key j with (j + 1) % s = 0, as in attention.h. Behind the end of the memory, t is its last
// row, so every query sees a key.
//
// Keys and values are packed once (cross_pack). Then any number of queries read them, all at once
// or one at a time. The result of a query does not depend on the others.
//
// Like causal attention (attention.h) this works block by block with a running maximum and sum, and
// saves them per query and head, so that backward can compute P again. Or it saves P whole, which
// is faster and needs memory of queries x keys. The allowed size of queries and keys is the same.
//
//   dV = Pᵀ dO,   dS = P (dP - rowsum(dO o)),  dP = dO Vᵀ,   dQ = scale dS K,   dK = scale dSᵀ Q
//
// dK and dV are chains in ascending order of the queries.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"
#include "refrain/kernels/matmul/skinny_matmul.h"

namespace refrain::kernels {

struct CrossShape {
  int64_t heads, head_dim;
  float scale;
  int64_t window = 0, stride = 0;  // 0: all keys; none but those of the window
  int64_t width() const { return heads * head_dim; }
};

// Keys or values of a sequence, [rows, width]: as rows of whole vectors, and transposed in panels.
struct CrossPack {
  float *rows = nullptr, *panels = nullptr;  // either may be null if nobody reads it
};
int64_t cross_pack_floats(const CrossShape&, int64_t rows);  // of each of the two
void cross_pack(const CrossShape&, MatrixView<const float> from, const CrossPack& to);

// What the queries of a call see, sequence by sequence. Forward reads keys.panels and values.rows,
// backward the others as well.
struct CrossMemory {
  int64_t rows;
  CrossPack keys, values;
};

// Queries of one sequence; heads lie side by side in a row.
struct CrossQueries {
  MatrixView<const float> q;
  MatrixView<float> o;
  float* softmax;            // [queries, 2, heads]: as in attention.h
  MatrixView<float> kept{};  // P, or null: head h at h * kept_head in a query's row
  int64_t kept_head = 0;
  int64_t first = 0;  // position of the first query, for the window

  int64_t count() const { return q.rows; }
};

// Memory and queries in pairs. A sequence with queries has a memory of at least one row.
void cross_forward(const CrossShape&, std::span<const CrossMemory>, std::span<const CrossQueries>,
                   Arena& scratch);

struct CrossGradients {
  MatrixView<const float> d_o;
  MatrixView<float> dq;      // overwritten
  MatrixView<float> dk, dv;  // added to
};

void cross_backward_queries(const CrossShape&, std::span<const CrossMemory>,
                            std::span<const CrossQueries>, std::span<const CrossGradients>,
                            Arena& scratch);
void cross_backward_memory(const CrossShape&, std::span<const CrossMemory>,
                           std::span<const CrossQueries>, std::span<const CrossGradients>,
                           Arena& scratch);

}  // namespace refrain::kernels
