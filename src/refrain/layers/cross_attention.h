// Cross attention as a layer: the rows of a decoder read the rows of a memory (the states of an
// encoder), with any number of heads.
//
//   q = x W_qᵀ,   [k v] = m W_kvᵀ,   o = softmax(q kᵀ / √d) v  in every head
//
// x [R, D], m [M, D_m], o [R, heads d]. A memory is a RaggedBatch with one chunk per sequence and
// no padding; rows that a mask hides are left out. Keys and values are projected and packed once
// (project). Then they are read any number of times, by all rows at once or one at a time. Their
// gradients are summed until finish() passes them on to W_kv and m. What follows o, an output
// projection or the next layer, is the caller's.
#pragma once
#include <span>
#include <vector>

#include "refrain/kernels/attention/cross_attention.h"
#include "refrain/layers/linear.h"

namespace refrain {

class CrossAttention {
 public:
  // Which keys a row sees, by its place in its sequence (kernels/attention/cross_attention.h).
  struct Pattern {
    int64_t window = 0, stride = 0;
  };
  // head_dim 0: d_query / heads, and an Error where heads do not divide it.
  CrossAttention(int64_t d_query, int64_t d_memory, int64_t heads, int64_t head_dim,
                 Pattern pattern);
  CrossAttention(int64_t d_query, int64_t d_memory, int64_t heads, int64_t head_dim = 0)
      : CrossAttention(d_query, d_memory, heads, head_dim, {}) {}

  // q_proj.weight, k_proj.weight, v_proj.weight
  void visit(const ParamVisitor&);

  const kernels::CrossShape& shape() const { return shape_; }
  const Linear& query() const { return q_; }
  const Linear& key_value() const { return kv_; }

  // Projected, and laid out for products, in the arenas it was made with.
  struct PackedKeyValues {
    Tensor kv;  // [M, 2 width]: a row's keys, then its values
    std::vector<kernels::CrossMemory> sequences;
  };
  // With `for_backward` laid out as backward reads it, too.
  PackedKeyValues project(ExecutionContext& ctx, const RaggedBatch& memory, ConstTensor m,
                          bool for_backward, Arena& arena) const {
    return pack_kv(ctx, memory, project_only(ctx, m, arena), for_backward, arena);
  }
  // Its two halves.
  Tensor project_only(ExecutionContext&, ConstTensor m, Arena&) const;
  PackedKeyValues pack_kv(ExecutionContext&, const RaggedBatch& memory, Tensor kv,
                          bool for_backward, Arena&) const;

  // What rows that ask leave.
  struct QueryState {
    Tensor q, softmax;    // [R, width], [R, 2 heads]
    MatrixView<float> o;  // [R, width], where the caller wants it
    Tensor kept{};        // [R, heads, longest memory]: P, if it is kept
  };
  QueryState layout(Arena&, int64_t rows, MatrixView<float> o, const RaggedBatch& memory,
                    bool keep) const;
  // Rows [first, first + count), of one sequence, in which the first of them has a position.
  kernels::CrossQueries queries(const QueryState&, int64_t first, int64_t count,
                                int64_t position) const;

  // All rows of a batch: its chunk b reads sequence b of the memory.
  struct Pass {
    const RaggedBatch &batch, &memory;
    const PackedKeyValues& kv;
    const QueryState& query;
  };
  // Writes the pass's q, softmax and o.
  void forward(ExecutionContext&, ConstTensor x, const Pass&) const;
  // d_o [R, width] -> dx overwritten, dkv [M, 2 width] added to; W_q gets its gradient.
  void backward(ExecutionContext&, ConstTensor x, const Pass&, MatrixView<const float> d_o,
                Tensor dx, Tensor dkv) const;
  // After all of them: W_kv gets its gradient, dm [M, D_m] is overwritten.
  void finish(ExecutionContext& ctx, ConstTensor m, ConstTensor dkv, Tensor dm) const {
    kv_.backward(ctx, m, dkv, dm);
  }

 private:
  std::vector<kernels::CrossQueries> queries(const Pass&) const;
  std::vector<kernels::CrossGradients> gradients(const Pass&, MatrixView<const float> d_o,
                                                 Tensor dq, Tensor dkv) const;

  kernels::CrossShape shape_;
  Linear q_, kv_;
};

}  // namespace refrain
