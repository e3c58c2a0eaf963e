// The decoder's loop over time, both ways, for runs in which an output is fed back. Of each step
// only what the next one waits for is inside; weight gradients are made of the rows it leaves.
//
// Matrices are packed once for all steps. The sequences that still run lie side by side in compact
// rows, the longest first; what backward needs goes to the window's rows as well.
#include <algorithm>
#include <numeric>

#include "refrain/autoencoder/decoder.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/elementwise/reduce.h"
#include "refrain/kernels/matmul/skinny_matmul.h"
#include "refrain/layers/dropout.h"

namespace refrain {

using kernels::Cell;
using kernels::SkinnyOutput;
using kernels::SkinnyWeights;

namespace {

class ActiveSequences {
 public:
  explicit ActiveSequences(const RaggedBatch& w)
      : w_(w), order_(static_cast<size_t>(w.sequences())) {
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int64_t a, int64_t b) { return w.length(a) > w.length(b); });
  }
  int64_t steps() const { return order_.empty() ? 0 : w_.length(order_[0]); }
  int64_t sequence(int64_t i) const { return order_[static_cast<size_t>(i)]; }
  // Sequences that have a step t: the first so many.
  int64_t running(int64_t t) const {
    int64_t n = 0;
    while (n < std::ssize(order_) && w_.length(sequence(n)) > t) ++n;
    return n;
  }
  int64_t row(int64_t i, int64_t t) const { return w_.first(sequence(i)) + t; }

  // Where the rows of step t lie in a [R, ...] tensor.
  std::vector<float*> rows(Tensor all, int64_t t, int64_t n, int64_t column = 0) const {
    std::vector<float*> some;
    for (int64_t i = 0; i < n; ++i) some.push_back(all.row(row(i, t)) + column);
    return some;
  }

  // Dropout of what the running sequences have at step t.
  void drop(const ExecutionContext& ctx, std::span<float* const> rows, int64_t width, int64_t t,
            uint64_t site) const {
    if (ctx.dropout.rate == 0 || ctx.planning()) return;
    const uint64_t key = dropout_key(ctx, site);
    for (size_t i = 0; i < rows.size(); ++i)
      kernels::dropout_apply(
          {rows[i], {1, width}}, ctx.dropout.rate, key,
          w_.row_id.subspan(static_cast<size_t>(row(static_cast<int64_t>(i), t)), 1));
  }

 private:
  const RaggedBatch& w_;
  std::vector<int64_t> order_;
};

// Copying a number takes as long as so many operations.
constexpr int64_t kCopy = 32;

void gather(std::span<float* const> from, int64_t width, MatrixView<float> to) {
  const auto n = static_cast<int64_t>(from.size());
  parallel_for(
      n, [&](int64_t i) { std::copy_n(from[static_cast<size_t>(i)], width, to.row(i)); },
      kCopy * n * width);
}
void scatter(MatrixView<float> from, int64_t width, std::span<float* const> to) {
  for (size_t i = 0; i < to.size(); ++i)
    std::copy_n(from.row(static_cast<int64_t>(i)), width, to[i]);
}

std::vector<float*> views_of(MatrixView<float> x, int64_t n) {
  std::vector<float*> rows;
  for (int64_t i = 0; i < n; ++i) rows.push_back(x.row(i));
  return rows;
}

std::vector<const float*> to_read(const std::vector<float*>& rows) {
  return {rows.begin(), rows.end()};
}

// A loop's scratch. Dry, nothing but sizes is right in it.
struct PackedWeights {
  ExecutionContext& ctx;

  MatrixView<float> rows(int64_t n, int64_t width) const {
    const int64_t row = kernels::spaced(width);
    return {ctx.scratch.take({n, row}).data, n, width, row};
  }
  // y = x wᵀ + b
  SkinnyWeights by_rows(const Linear& linear) const {
    return {linear.packed(ctx).w.packed.floats(), linear.out, linear.in,
            linear.bias ? linear.b.w.data : nullptr};
  }
  // y = x w
  SkinnyWeights by_columns(const Linear& linear) const {
    const Tensor to = ctx.scratch.take({kernels::packed_size(linear.in, linear.out)});
    if (!ctx.planning()) kernels::pack_columns(linear.w.w, to.data);
    return {to.data, linear.in, linear.out};
  }
  // The kernels take memory of their own unless they are given packed matrices: dry, any address
  // tells them that they will be.
  const float* given(const SkinnyWeights& w, const Linear& linear) const {
    return ctx.planning() ? linear.w.w.data : w.packed;
  }
  void product(const SkinnyWeights& w, MatrixView<const float> x, int64_t n,
               const SkinnyOutput& out) const {
    if (!ctx.planning()) kernels::skinny_matmul(w, x.row_range(0, n), out);
  }
};

}  // namespace

void Decoder::forward_steps(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                            bool for_backward, Activations& run, Arena& arena) const {
  Arena::Frame frame(ctx.scratch);
  const PackedWeights weights{ctx};
  const ActiveSequences places(w);
  const int64_t B = w.sequences(), H = hidden(), E = config_.width, J = joined_width();
  const int64_t state_floats = cells_[0].state_floats();
  std::vector<SkinnyWeights> to_gates, recurrent;
  std::vector<MatrixView<float>> state;
  for (const Recurrent& cell : cells_) {
    to_gates.push_back(weights.by_rows(cell.input()));
    recurrent.push_back(weights.by_rows(cell.recurrence()));
    state.push_back(weights.rows(B, state_floats));
  }
  const SkinnyWeights to_y = weights.by_rows(out_);
  SkinnyWeights to_q{}, to_s{};
  const MatrixView<float> u = weights.rows(B, E), joined = weights.rows(B, J),
                          s = weights.rows(B, H);
  const bool drops = ctx.dropout.rate > 0;
  const MatrixView<float> below = weights.rows(drops ? B : 0, H);
  Tensor codes;
  if (config_.has_attention()) {
    to_q = weights.by_rows(query_proj());
    to_s = weights.by_rows(context_);
    codes = ctx.scratch.take({places.steps(), H});
  }
  if (!ctx.planning()) {
    if (codes) position_codes(codes);
    for (int64_t i = 0; i < B; ++i)
      for (size_t l = 0; l < state.size(); ++l)
        std::copy_n(start_of(run.start, places.sequence(i), static_cast<int64_t>(l)), state_floats,
                    state[l].row(i));
  }

  for (int64_t t = 0; t < places.steps(); ++t) {
    const int64_t n = places.running(t);
    const Arena::Frame step_frame(ctx.scratch);
    for (int64_t i = 0; i < n && !ctx.planning(); ++i) {
      const int64_t before = places.row(i, t) - 1;
      if (t == 0)
        std::fill_n(u.row(i), E, 0.0f);
      else
        std::copy_n(in.is_forced(t) ? in.x.row(before) : run.y.row(before), E, u.row(i));
    }
    for (size_t l = 0; l < cells_.size(); ++l) {
      const kernels::RecurrentRows& rows = run.cells[l];
      MatrixView<float> x = l == 0 ? u : state[l - 1].col_range(0, H);
      if (drops && l > 0) {
        for (int64_t i = 0; i < n && !ctx.planning(); ++i) std::copy_n(x.row(i), H, below.row(i));
        x = below;
      }
      places.drop(ctx, views_of(x, n), x.cols, t, decoder_site(l));
      weights.product(to_gates[l], x, n, {.also = places.rows(rows.gates, t, n)});
      std::vector<kernels::RecurrentChunk> chunks;
      for (int64_t i = 0; i < n; ++i) chunks.push_back({places.row(i, t), 1, state[l].row(i)});
      const Linear& w_hh = cells_[l].recurrence();
      kernels::recurrent_forward(
          chunks, {cells_[l].cell(), w_hh.w.w, w_hh.b.w, weights.given(recurrent[l], w_hh)}, rows,
          ctx.scratch);
      if (ctx.planning()) continue;
      gather(places.rows(rows.h, t, n), H, state[l]);
      if (state_floats > H) gather(places.rows(rows.extra, t, n), H, state[l].col_range(H, H));
    }
    const MatrixView<float> h = state.back().col_range(0, H);
    const std::vector<float*> y = places.rows(run.y, t, n);
    if (!config_.has_attention()) {
      weights.product(to_y, h, n, {.also = y});
      continue;
    }
    const std::vector<float*> joined_rows = places.rows(run.joined, t, n);
    if (!ctx.planning())
      parallel_for(
          n,
          [&](int64_t i) {
            kernels::add({h.row(i), {H}}, {codes.row(t), {H}}, {joined.row(i), {H}});
            std::copy_n(joined.row(i), H, joined_rows[static_cast<size_t>(i)]);
          },
          2 * kCopy * n * H);
    weights.product(to_q, joined.col_range(0, H), n,
                    {.also = places.rows(cross_ ? run.query.q : run.qkv, t, n)});
    if (cross_) {
      if (!config_.cached) {
        // What backward needs is kept for every step; how it is laid out goes with the step.
        const Tensor kv = cross_->project_only(ctx, in.m, for_backward ? arena : ctx.scratch);
        if (!for_backward) run.memory.clear();
        run.memory.push_back(cross_->pack_kv(ctx, w, kv, false, ctx.scratch));
      }
      std::vector<kernels::CrossMemory> memory;
      std::vector<kernels::CrossQueries> queries;
      for (int64_t i = 0; i < n; ++i) {
        memory.push_back(run.memory.back().sequences[static_cast<size_t>(places.sequence(i))]);
        queries.push_back(cross_->queries(run.query, places.row(i, t), 1, t));
      }
      lend_probabilities(ctx, w, run, queries);
      kernels::cross_forward(cross_->shape(), memory, queries, ctx.scratch);
    } else {
      kernels::attention_forward(self_shape(), self_steps(w, run, t), ctx.scratch);
    }
    if (!ctx.planning())
      gather(places.rows(run.joined, t, n, H), J - H, joined.col_range(H, J - H));
    const std::vector<float*> s_rows = places.rows(run.s, t, n);
    if (config_.fused) {
      weights.product(to_s, joined, n, {.y = s, .also = s_rows, .relu = true});
    } else {
      SkinnyWeights part = to_s;
      part.bias = nullptr;
      part.panel_depth = J;
      part.K = H;
      weights.product(part, joined.col_range(0, H), n, {.y = s});
      part.bias = to_s.bias;
      part.packed = to_s.packed + H * kernels::kWeightPanel;
      part.K = J - H;
      weights.product(part, joined.col_range(H, J - H), n,
                      {.y = s, .also = s_rows, .relu = true, .add = true});
    }
    weights.product(to_y, s, n, {.also = y});
  }
}

// The sequences that have a step t: one query each, that sees what came before it and itself, or
// the last of these.
std::vector<kernels::AttentionSequence> Decoder::self_steps(const RaggedBatch& w,
                                                            const Activations& run,
                                                            int64_t t) const {
  std::vector<kernels::AttentionSequence> all;
  const int64_t width = attention_width();
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) <= t) continue;
    const int64_t row = w.first(b) + t, before = steps_before(t);
    const float *q = run.qkv.row(row), *past = run.qkv.row(row - before) + width;
    kernels::AttentionSequence one{1,
                                   before,
                                   q,
                                   {},
                                   run.joined.row(row) + hidden(),
                                   run.softmax.data + 2 * row * config_.heads};
    one.keys.own = {q + width, q + 2 * width, self_->out};
    one.keys.past = {past, past + width, self_->out};
    all.push_back(one);
  }
  return all;
}

void Decoder::backward_steps(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                             const Activations& run, const InnerGradients& g) const {
  Arena::Frame frame(ctx.scratch);
  const PackedWeights weights{ctx};
  const ActiveSequences places(w);
  const int64_t B = w.sequences(), H = hidden(), E = config_.width, J = joined_width();
  const int64_t state_floats = cells_[0].state_floats();
  std::vector<SkinnyWeights> from_gates, recurrent;
  for (const Recurrent& cell : cells_) {
    from_gates.push_back(weights.by_columns(cell.input()));
    recurrent.push_back(weights.by_columns(cell.recurrence()));
  }
  const SkinnyWeights from_y = weights.by_columns(out_);
  SkinnyWeights from_q{}, from_s{};
  const int64_t gates = cells_[0].input().out;
  const MatrixView<float> dy_now = weights.rows(B, E), du = weights.rows(B, E);
  const MatrixView<float> ds = weights.rows(B, H), djoined = weights.rows(B, J);
  const MatrixView<float> dq = weights.rows(B, config_.has_attention() ? query_proj().out : 0);
  const MatrixView<float> da = weights.rows(B, gates), before = weights.rows(B, state_floats);
  const Tensor dh = ctx.scratch.take({w.rows(), H});
  if (config_.has_attention()) {
    from_q = weights.by_columns(query_proj());
    from_s = weights.by_columns(context_);
  }

  for (int64_t t = places.steps() - 1; t >= 0; --t) {
    const int64_t n = places.running(t);
    const std::vector<float*> dy_rows = places.rows(g.dy, t, n), dh_rows = places.rows(dh, t, n);
    if (!ctx.planning()) {
      // Those whose next step read this one's output.
      const int64_t fed = in.is_forced(t + 1) ? 0 : places.running(t + 1);
      for (int64_t i = 0; i < fed; ++i)
        for (int64_t j = 0; j < E; ++j) dy_rows[static_cast<size_t>(i)][j] += du.row(i)[j];
      gather(dy_rows, E, dy_now);
    }
    if (!config_.has_attention()) {
      weights.product(from_y, dy_now, n, {.also = dh_rows});
    } else {
      weights.product(from_y, dy_now, n,
                      {.y = ds,
                       .also = places.rows(g.context, t, n),
                       .where_positive = to_read(places.rows(run.s, t, n))});
      weights.product(from_s, ds, n, {.y = djoined, .also = places.rows(g.joined, t, n)});
      if (cross_)
        backward_cross_step(ctx, w, in, run, g, t);
      else
        backward_self_step(ctx, w, run, g, t);
      if (!ctx.planning()) gather(places.rows(cross_ ? g.q : g.qkv, t, n), query_proj().out, dq);
      weights.product(from_q, dq, n, {.y = djoined.col_range(0, H), .add = true});
      if (!ctx.planning()) scatter(djoined, H, dh_rows);
    }
    for (size_t l = cells_.size(); l-- > 0;) {
      const auto layer = static_cast<int64_t>(l);
      const kernels::RecurrentRows& rows = run.cells[l];
      std::vector<kernels::RecurrentChunk> chunks;
      std::vector<float*> dstate;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t row = places.row(i, t);
        chunks.push_back(
            {row, 1, t == 0 ? start_of(run.start, places.sequence(i), layer) : before.row(i)});
        dstate.push_back(start_of(g.start, places.sequence(i), layer));
        if (ctx.planning() || t == 0) continue;
        std::copy_n(rows.h.row(row - 1), H, before.row(i));
        if (state_floats > H) std::copy_n(rows.extra.row(row - 1), H, before.row(i) + H);
      }
      const Linear& w_hh = cells_[l].recurrence();
      kernels::recurrent_backward(
          chunks,
          {cells_[l].cell(), w_hh.w.w, w_hh.b.w, nullptr, weights.given(recurrent[l], w_hh)}, rows,
          {dh, dstate, g.p[l]}, ctx.scratch);
      if (l == 0 && (t == 0 || (in.is_forced(t) && g.dx.rank == 0))) continue;
      if (!ctx.planning()) gather(places.rows(rows.gates, t, n), gates, da);
      if (l > 0)
        weights.product(from_gates[l], da, n, {.also = dh_rows});
      else
        weights.product(from_gates[0], da, n, {.y = du});
      places.drop(ctx, l > 0 ? dh_rows : views_of(du, n), l > 0 ? H : E, t, decoder_site(l));
    }
    if (g.dx.rank == 0 || t == 0 || !in.is_forced(t) || ctx.planning()) continue;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < E; ++j) g.dx.row(places.row(i, t) - 1)[j] += du.row(i)[j];
  }
}

void Decoder::backward_cross_step(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                                  const Activations& run, const InnerGradients& g,
                                  int64_t t) const {
  const int64_t width = attention_width();
  Arena::Frame frame(ctx.scratch);
  const CrossAttention::PackedKeyValues projected =
      config_.cached
          ? run.memory[0]
          : cross_->pack_kv(ctx, w, run.memory[static_cast<size_t>(t)].kv, true, ctx.scratch);
  std::vector<kernels::CrossMemory> memory;
  std::vector<kernels::CrossQueries> queries;
  std::vector<kernels::CrossGradients> gradients;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) <= t) continue;
    const int64_t row = w.first(b) + t;
    const auto memory_gradient = MatrixView<float>(g.kv).row_range(w.first(b), w.length(b));
    memory.push_back(projected.sequences[static_cast<size_t>(b)]);
    queries.push_back(cross_->queries(run.query, row, 1, t));
    gradients.push_back(
        {attention_columns(g.joined).row_range(row, 1), MatrixView<float>(g.q).row_range(row, 1),
         memory_gradient.col_range(0, width), memory_gradient.col_range(width, width)});
  }
  lend_probabilities(ctx, w, run, queries);
  if (lends_probabilities(run))
    kernels::cross_forward(cross_->shape(), memory, queries, ctx.scratch);
  kernels::cross_backward_queries(cross_->shape(), memory, queries, gradients, ctx.scratch);
  if (config_.cached) return;  // keys and values get theirs from all steps at once

  const Tensor dm_now = ctx.scratch.take({w.rows(), hidden()});
  if (!ctx.planning()) std::fill(g.kv.begin(), g.kv.end(), 0.0f);
  kernels::cross_backward_memory(cross_->shape(), memory, queries, gradients, ctx.scratch);
  cross_->finish(ctx, in.m, g.kv, dm_now);
  if (!ctx.planning()) kernels::add(g.dm, dm_now, g.dm);
}

void Decoder::backward_self_step(ExecutionContext& ctx, const RaggedBatch& w,
                                 const Activations& run, const InnerGradients& g, int64_t t) const {
  const int64_t width = attention_width();
  std::vector<kernels::AttentionGradients> gradients;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) <= t) continue;
    const int64_t row = w.first(b) + t;
    float *q = g.qkv.row(row), *past = g.qkv.row(row - steps_before(t)) + width;
    // What later steps sent to this row's key and value is there already: add.
    gradients.push_back({.d_o = g.joined.row(row) + hidden(),
                         .dq = q,
                         .dq_row = self_->out,
                         .keys = {.own = {q + width, q + 2 * width, self_->out},
                                  .past = {past, past + width, self_->out}},
                         .add = true});
  }
  kernels::attention_backward(self_shape(), self_steps(w, run, t), gradients, ctx.scratch);
}

}  // namespace refrain
