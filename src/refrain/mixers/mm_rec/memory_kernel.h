// Softmax attention of groups of neighbouring queries, where each group has a few slots of its own:
//
//   P = softmax(scale q kᵀ),  o = P v            a slot is a row [k | v], heads side by side
//
// There are few slots and many groups, so backward computes P again. It needs q, but not o.
//
//   dV = Pᵀ dO,  dS = P (dP - rowsum(P dP)),  dQ = scale dS k,  dK = scale dSᵀ q
//
// The result of a query depends on its slots alone, not on its neighbours. The allowed size of
// queries and keys is that of attention.h.
#pragma once
#include <array>
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"
#include "refrain/base/matrix_view.h"

namespace refrain::kernels {

struct MemoryAttentionShape {
  int64_t heads, head_dim;
  float scale;
};

struct SlotGroup {
  struct RowRange {
    int64_t first, count;  // rows
  };
  RowRange queries;
  std::array<RowRange, 3> slots;  // in this order; at least one of them is not empty
};

// Groups of one sequence after another's: those of sequence i are ends[i - 1] .. ends[i]. No two
// sequences have slots in common.
struct SlotGroups {
  std::span<const SlotGroup> all;
  std::span<const size_t> ends;
};

// q and o: a row per query, heads side by side; o may not be q. slots [S, 2 heads head_dim].
void memory_attention_forward(const MemoryAttentionShape&, const SlotGroups&,
                              MatrixView<const float> q, ConstTensor slots, MatrixView<float> o,
                              Arena& scratch);

struct MemoryAttentionGradients {
  ConstTensor d_o;  // a row per query
  Tensor dslots;    // [S, 2 heads head_dim], added to
};

// dq takes the place of q.
void memory_attention_backward(const MemoryAttentionShape&, const SlotGroups&, MatrixView<float> q,
                               ConstTensor slots, const MemoryAttentionGradients&, Arena& scratch);

}  // namespace refrain::kernels
