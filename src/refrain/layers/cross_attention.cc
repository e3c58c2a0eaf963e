#include "refrain/layers/cross_attention.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/parallel.h"

namespace refrain {

namespace {

kernels::CrossShape shape_of(int64_t d_query, int64_t heads, int64_t head_dim,
                             CrossAttention::Pattern pattern) {
  if (heads < 1) throw_error("heads: expected 1 or more, found {}", heads);
  if (head_dim < 0) throw_error("head_dim: expected 0 or more, found {}", head_dim);
  if (head_dim == 0) {
    if (d_query % heads != 0)
      throw_error("heads: expected a divisor of the width {}, or a head_dim, found {}", d_query,
                  heads);
    head_dim = d_query / heads;
  }
  return {heads, head_dim, 1 / std::sqrt(static_cast<float>(head_dim)), pattern.window,
          pattern.stride};
}

int64_t longest(const RaggedBatch& w) {
  int64_t rows = 0;
  for (int64_t b = 0; b < w.sequences(); ++b) rows = std::max(rows, w.length(b));
  return rows;
}

}  // namespace

CrossAttention::CrossAttention(int64_t d_query, int64_t d_memory, int64_t heads, int64_t head_dim,
                               Pattern pattern)
    : shape_(shape_of(d_query, heads, head_dim, pattern)),
      q_{d_query, shape_.width()},
      kv_{d_memory, 2 * shape_.width()} {}

void CrossAttention::visit(const ParamVisitor& v) {
  const auto normal = [](int64_t in) {
    return Init::normal(1 / std::sqrt(static_cast<float>(in)));
  };
  q_.visit(v, "q_proj.weight", normal(q_.in));
  kv_.visit(v, "kv_proj.weight", normal(kv_.in),
            {{"k_proj.weight", shape_.width()}, {"v_proj.weight", shape_.width()}});
}

Tensor CrossAttention::project_only(ExecutionContext& ctx, ConstTensor m, Arena& arena) const {
  const Tensor kv = arena.take({m.rows(), kv_.out});
  kv_.forward(ctx, m, kv);
  return kv;
}

CrossAttention::PackedKeyValues CrossAttention::pack_kv(ExecutionContext& ctx, const RaggedBatch& w,
                                                        Tensor kv, bool for_backward,
                                                        Arena& arena) const {
  PackedKeyValues memory{kv, {}};
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const auto pack = [&] {
      return arena.take({kernels::cross_pack_floats(shape_, w.length(b))}).data;
    };
    kernels::CrossMemory one{w.length(b), {nullptr, pack()}, {pack(), nullptr}};
    if (for_backward) {
      one.keys.rows = pack();
      one.values.panels = pack();
    }
    memory.sequences.push_back(one);
  }
  if (ctx.planning()) return memory;
  parallel_for(
      w.sequences(),
      [&](int64_t b) {
        const kernels::CrossMemory& one = memory.sequences[static_cast<size_t>(b)];
        const int64_t width = shape_.width();
        const auto rows = MatrixView<const float>(memory.kv).row_range(w.first(b), one.rows);
        kernels::cross_pack(shape_, rows.col_range(0, width), one.keys);
        kernels::cross_pack(shape_, rows.col_range(width, width), one.values);
      },
      16 * memory.kv.size());
  return memory;
}

CrossAttention::QueryState CrossAttention::layout(Arena& arena, int64_t rows, MatrixView<float> o,
                                                  const RaggedBatch& memory, bool keep) const {
  QueryState query{arena.take({rows, q_.out}), arena.take({rows, 2 * shape_.heads}), o, {}};
  if (keep) query.kept = arena.take({rows, shape_.heads, longest(memory)});
  return query;
}

kernels::CrossQueries CrossAttention::queries(const QueryState& query, int64_t first, int64_t count,
                                              int64_t position) const {
  const int64_t kept_row = query.kept.rank > 0 ? shape_.heads * query.kept.cols() : 0;
  return {MatrixView<const float>(query.q).row_range(first, count),
          query.o.row_range(first, count),
          query.softmax.row(first),
          {query.kept.data ? query.kept.data + first * kept_row : nullptr, count, kept_row},
          query.kept.cols(),
          position};
}

std::vector<kernels::CrossQueries> CrossAttention::queries(const Pass& pass) const {
  std::vector<kernels::CrossQueries> all;
  for (int64_t b = 0; b < pass.batch.sequences(); ++b)
    all.push_back(
        queries(pass.query, pass.batch.first(b), pass.batch.length(b), pass.batch.past_length(b)));
  return all;
}

std::vector<kernels::CrossGradients> CrossAttention::gradients(const Pass& pass,
                                                               MatrixView<const float> d_o,
                                                               Tensor dq, Tensor dkv) const {
  const int64_t width = shape_.width();
  std::vector<kernels::CrossGradients> all;
  for (int64_t b = 0; b < pass.batch.sequences(); ++b) {
    const int64_t first = pass.batch.first(b), n = pass.batch.length(b);
    const auto rows = MatrixView<float>(dkv).row_range(pass.memory.first(b), pass.memory.length(b));
    all.push_back({d_o.row_range(first, n), MatrixView<float>(dq).row_range(first, n),
                   rows.col_range(0, width), rows.col_range(width, width)});
  }
  return all;
}

void CrossAttention::forward(ExecutionContext& ctx, ConstTensor x, const Pass& pass) const {
  q_.forward(ctx, x, pass.query.q);
  kernels::cross_forward(shape_, pass.kv.sequences, queries(pass), ctx.scratch);
}

void CrossAttention::backward(ExecutionContext& ctx, ConstTensor x, const Pass& pass,
                              MatrixView<const float> d_o, Tensor dx, Tensor dkv) const {
  Arena::Frame frame(ctx.scratch);
  const Tensor dq = ctx.scratch.take({x.rows(), q_.out});
  const auto all = queries(pass);
  const auto g = gradients(pass, d_o, dq, dkv);
  kernels::cross_backward_queries(shape_, pass.kv.sequences, all, g, ctx.scratch);
  kernels::cross_backward_memory(shape_, pass.kv.sequences, all, g, ctx.scratch);
  q_.backward(ctx, x, dq, dx);
}

}  // namespace refrain
