#include "refrain/autoencoder/decoder.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/parallel.h"
#include "refrain/kernels/attention/cross_attention_ref.h"
#include "refrain/kernels/elementwise/activation.h"
#include "refrain/layers/dropout.h"
#include "refrain/model/recompute.h"

namespace refrain {

using kernels::Cell;

namespace {

int64_t longest(const RaggedBatch& w) {
  int64_t rows = 0;
  for (int64_t b = 0; b < w.sequences(); ++b) rows = std::max(rows, w.length(b));
  return rows;
}

// Position codes make up most of what the rectifier reads, and half of their numbers are cosines of
// small angles: 1, whatever the words are. So with biases of 0, half of the units would start
// negative for every word, and a few large steps, which move a unit alike for all words, would turn
// off most of the others. Such a unit learns nothing any more, and with fewer units than numbers in
// a vector, directions of the vectors are lost. The codes' part has a deviation of
// sqrt(H / 2 / (H + attention's width)), 0.5 to 0.6; from this bias, units start on.
constexpr float kRectifierBias = 2;

Init normal_for(int64_t in) { return Init::normal(1 / std::sqrt(static_cast<float>(in))); }

}  // namespace

void position_codes(Tensor codes) {
  const int64_t D = codes.cols();
  std::vector<double> frequency(static_cast<size_t>((D + 1) / 2));
  for (size_t i = 0; i < frequency.size(); ++i)
    frequency[i] = std::pow(10000.0, -2.0 * static_cast<double>(i) / static_cast<double>(D));
  parallel_for(
      codes.rows(),
      [&](int64_t t) {
        for (int64_t j = 0; j < D; ++j) {
          const double angle = static_cast<double>(t) * frequency[static_cast<size_t>(j / 2)];
          codes.row(t)[j] = static_cast<float>(j % 2 == 0 ? std::sin(angle) : std::cos(angle));
        }
      },
      64 * codes.size());
}

void add_position_codes(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor rows,
                        MatrixView<float> out) {
  Arena::Frame frame(ctx.scratch);
  const Tensor codes = ctx.scratch.take({longest(w), rows.cols()});
  if (ctx.planning()) return;
  position_codes(codes);
  for (int64_t row = 0; row < rows.rows(); ++row) {
    const float *from = rows.row(row), *code = codes.row(w.position[static_cast<size_t>(row)]);
    for (int64_t j = 0; j < rows.cols(); ++j) out.row(row)[j] = from[j] + code[j];
  }
}

Decoder::Decoder(const AutoencoderConfig& c)
    : config_(c),
      start_{c.bottleneck, c.layers * kernels::states_of(c.kind_of_cell()) * c.hidden, true},
      context_{c.hidden + c.attention_width(), c.hidden, true},
      out_{c.hidden, c.width, true} {
  for (int64_t l = 0; l < c.layers; ++l)
    cells_.emplace_back(c.kind_of_cell(), l == 0 ? c.width : c.hidden, c.hidden);
  if (c.reads_encoder())
    cross_.emplace(c.hidden, c.hidden, c.heads, c.head_dim,
                   CrossAttention::Pattern{c.window, c.stride});
  if (c.reads_itself()) self_.emplace(Linear{c.hidden, 3 * c.attention_width()});
}

void Decoder::visit(const ParamVisitor& v) {
  start_.visit(v, "start.weight", normal_for(start_.in));
  for (size_t l = 0; l < cells_.size(); ++l)
    cells_[l].visit(prefixed(v, "cells." + std::to_string(l) + "."));
  if (cross_) cross_->visit(prefixed(v, "attention."));
  if (self_)
    self_->visit(v, "attention.qkv_proj.weight", normal_for(self_->in),
                 {{"attention.q_proj.weight", attention_width()},
                  {"attention.k_proj.weight", attention_width()},
                  {"attention.v_proj.weight", attention_width()}});
  if (config_.has_attention()) {
    v({"context.weight", {context_.out, context_.in}, normal_for(context_.in), true}, context_.w);
    v({"context.bias", {context_.out}, Init::constant(kRectifierBias), false}, context_.b);
  }
  out_.visit(v, "out.weight", normal_for(out_.in));
}

kernels::AttentionShape Decoder::self_shape() const {
  const int64_t d = attention_width() / config_.heads;
  return {config_.heads, config_.heads, d, 1 / std::sqrt(static_cast<float>(d)),
          self_->out,    joined_width()};
}

Decoder::Activations Decoder::layout(const RaggedBatch& w, bool keep_probabilities,
                                     Arena& a) const {
  const int64_t R = w.rows(), H = hidden();
  Activations run;
  run.start = a.take({w.sequences(), start_.out});
  for (const Recurrent& cell : cells_) {
    kernels::RecurrentRows rows{a.take({R, cell.recurrence().out}), a.take({R, H})};
    if (cell.cell() != Cell::kRnn) rows.extra = a.take({R, H});
    run.cells.push_back(rows);
  }
  run.y = a.take({R, config_.width});
  if (!config_.has_attention()) return run;
  run.joined = a.take({R, joined_width()});
  run.s = a.take({R, H});
  if (cross_)
    run.query = cross_->layout(a, R, attention_columns(run.joined), w, keep_probabilities);
  if (self_) {
    run.qkv = a.take({R, self_->out});
    run.softmax = a.take({2 * R * config_.heads});
  }
  return run;
}

// By one product, or one for each layer's vectors.
void Decoder::start(ExecutionContext& context, ConstTensor z, Tensor start) const {
  ExecutionContext ctx = context.in_float32();  // its rows are few
  Arena::Frame frame(ctx.scratch);
  const int64_t parts = config_.fused ? 1 : start_.out / hidden(), n = start_.out / parts;
  for (int64_t i = 0; i < parts; ++i)
    start_.outputs(i * n, n).forward(ctx, z, MatrixView<float>(start).col_range(i * n, n));
  if (ctx.planning()) return;
  kernels::activation_forward(kernels::Activation::kTanh, start, start);
}

kernels::RecurrentWeights Decoder::weights(int64_t layer) const {
  const Recurrent& cell = cells_[static_cast<size_t>(layer)];
  const Linear& w = cell.recurrence();
  return {cell.cell(), w.w.w, w.b.w, w.w.packed};
}

std::vector<kernels::RecurrentChunk> Decoder::chunks(const RaggedBatch& w, const Activations& run,
                                                     int64_t layer) const {
  std::vector<kernels::RecurrentChunk> all;
  for (int64_t b = 0; b < w.sequences(); ++b)
    all.push_back({w.first(b), w.length(b), start_of(run.start, b, layer)});
  return all;
}

Tensor Decoder::inputs(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                       const Activations& run) const {
  const int64_t E = config_.width;
  const Tensor u = ctx.scratch.take({w.rows(), E});
  if (ctx.planning()) return u;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    std::fill_n(u.row(w.first(b)), E, 0.0f);
    for (int64_t t = 1; t < w.length(b); ++t) {
      const int64_t row = w.first(b) + t;
      std::copy_n(in.is_forced(t) ? in.x.row(row - 1) : run.y.row(row - 1), E, u.row(row));
    }
  }
  return u;
}

bool Decoder::needs_no_loop(const RaggedBatch& w, const Input& in) const {
  if (!config_.cached || config_.reads_itself()) return false;
  for (int64_t t = 1, steps = std::max(in.longest, longest(w)); t < steps; ++t)
    if (!in.is_forced(t)) return false;
  return true;
}

ConstTensor Decoder::layer_input(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                                 const Activations& run, size_t l) const {
  if (l > 0 && ctx.dropout.rate == 0) return run.cells[l - 1].h;
  Tensor x;
  if (l == 0) {
    x = inputs(ctx, w, in, run);
  } else {
    const Tensor below = run.cells[l - 1].h;
    x = ctx.scratch.take({w.rows(), hidden()});
    if (!ctx.planning()) std::copy_n(below.data, below.size(), x.data);
  }
  apply_dropout(ctx, w, x, decoder_site(l));
  return x;
}

Decoder::Activations Decoder::forward(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                                      bool for_backward, Arena& arena) const {
  const bool keeps = !config_.flash && for_backward && !ctx.recomputes(Recompute::kProbabilities);
  Activations run = layout(w, keeps, arena);
  start(ctx, in.z, run.start);
  if (cross_ && config_.cached)
    run.memory.push_back(cross_->project(ctx, w, in.m, for_backward, arena));
  if (needs_no_loop(w, in))
    forward_rows(ctx, w, in, run);
  else
    forward_steps(ctx, w, in, for_backward, run, arena);
  return run;
}

void Decoder::lend_probabilities(ExecutionContext& ctx, const RaggedBatch& w,
                                 const Activations& run,
                                 std::span<kernels::CrossQueries> queries) const {
  if (!lends_probabilities(run)) return;
  const int64_t columns = longest(w), row = config_.heads * columns;
  for (kernels::CrossQueries& one : queries) {
    one.kept = {ctx.scratch.take({one.count(), row}).data, one.count(), row};
    one.kept_head = columns;
  }
}

template <class F>
void Decoder::each_cross_group(ExecutionContext& ctx, const RaggedBatch& w, const Activations& run,
                               const InnerGradients* g, F&& f) const {
  constexpr int64_t kSequencesLent = 4;
  const int64_t B = w.sequences(), width = attention_width();
  const int64_t together = lends_probabilities(run) ? kSequencesLent : std::max<int64_t>(B, 1);
  for (int64_t first = 0; first < B; first += together) {
    Arena::Frame frame(ctx.scratch);
    std::vector<kernels::CrossQueries> queries;
    std::vector<kernels::CrossGradients> gradients;
    const int64_t last = std::min(B, first + together);
    for (int64_t b = first; b < last; ++b) {
      const int64_t row = w.first(b), n = w.length(b);
      queries.push_back(cross_->queries(run.query, row, n, 0));
      if (!g) continue;
      const MatrixView<float> dkv = MatrixView<float>(g->kv).row_range(row, n);
      gradients.push_back({attention_columns(g->joined).row_range(row, n),
                           MatrixView<float>(g->q).row_range(row, n), dkv.col_range(0, width),
                           dkv.col_range(width, width)});
    }
    lend_probabilities(ctx, w, run, queries);
    const auto memory = std::span<const kernels::CrossMemory>(run.memory[0].sequences)
                            .subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
    if (g && lends_probabilities(run))
      kernels::cross_forward(cross_->shape(), memory, queries, ctx.scratch);
    f(CrossGroup{memory, queries, gradients});
  }
}

void Decoder::forward_rows(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                           const Activations& run) const {
  Arena::Frame frame(ctx.scratch);
  for (size_t l = 0; l < cells_.size(); ++l) {
    Arena::Frame input_frame(ctx.scratch);
    const auto layer = static_cast<int64_t>(l);
    cells_[l].input().forward(ctx, layer_input(ctx, w, in, run, l), run.cells[l].gates);
    kernels::recurrent_forward(chunks(w, run, layer), weights(layer), run.cells[l], ctx.scratch);
  }
  const ConstTensor x = run.cells.back().h;
  if (!config_.has_attention()) return out_.forward(ctx, x, run.y);
  const MatrixView<float> queried = state_columns(run.joined);
  add_position_codes(ctx, w, x, queried);
  cross_->query().forward(ctx, queried, run.query.q);
  each_cross_group(ctx, w, run, nullptr, [&](const CrossGroup& group) {
    kernels::cross_forward(cross_->shape(), group.memory, group.queries, ctx.scratch);
  });
  context_.forward(ctx, run.joined, run.s);
  if (!ctx.planning())
    for (float& s : run.s) s = std::max(s, 0.0f);
  out_.forward(ctx, run.s, run.y);
}

void Decoder::backward(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                       const Activations& run, const Gradients& gradients) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), H = hidden();
  InnerGradients g{gradients};
  g.start = ctx.scratch.take({w.sequences(), start_.out});
  for (size_t l = 0; l < cells_.size(); ++l)
    g.p.push_back(cells_[l].cell() == Cell::kGru ? ctx.scratch.take({R, cells_[l].recurrence().out})
                                                 : run.cells[l].gates);
  if (config_.has_attention()) {
    g.context = ctx.scratch.take({R, H});
    g.joined = ctx.scratch.take({R, joined_width()});
  }
  if (cross_) {
    g.q = ctx.scratch.take({R, attention_width()});
    g.kv = ctx.scratch.take({R, 2 * attention_width()});
  }
  if (self_) g.qkv = ctx.scratch.take({R, self_->out});
  if (!ctx.planning())
    for (const Tensor& t : {g.start, g.kv, g.qkv, g.dm})
      if (t) std::fill(t.begin(), t.end(), 0.0f);
  if (needs_no_loop(w, in))
    backward_rows(ctx, w, run, g);
  else
    backward_steps(ctx, w, in, run, g);
  backward_weights(ctx, w, in, run, g);
}

void Decoder::backward_rows(ExecutionContext& ctx, const RaggedBatch& w, const Activations& run,
                            const InnerGradients& g) const {
  Arena::Frame frame(ctx.scratch);
  const int64_t R = w.rows(), H = hidden(), E = config_.width;
  const Tensor dh = ctx.scratch.take({R, H});
  if (!config_.has_attention()) {
    out_.backward_input(ctx, g.dy, dh);
  } else {
    out_.backward_input(ctx, g.dy, g.context);
    for (int64_t i = 0; i < g.context.size() && !ctx.planning(); ++i)
      if (!(run.s.data[i] > 0)) g.context.data[i] = 0;
    context_.backward_input(ctx, g.context, g.joined);
    each_cross_group(ctx, w, run, &g, [&](const CrossGroup& group) {
      kernels::cross_backward_queries(cross_->shape(), group.memory, group.queries, group.gradients,
                                      ctx.scratch);
    });
    cross_->query().backward_input(ctx, g.q, state_columns(g.joined), true);
    for (int64_t row = 0; row < R && !ctx.planning(); ++row)
      std::copy_n(g.joined.row(row), H, dh.row(row));
  }
  for (size_t l = cells_.size(); l-- > 0;) {
    const auto layer = static_cast<int64_t>(l);
    std::vector<float*> dstate;
    for (int64_t b = 0; b < w.sequences(); ++b) dstate.push_back(start_of(g.start, b, layer));
    kernels::recurrent_backward(chunks(w, run, layer), weights(layer), run.cells[l],
                                {dh, dstate, g.p[l]}, ctx.scratch);
    if (l == 0) continue;
    cells_[l].input().backward_input(ctx, run.cells[l].gates, dh);
    apply_dropout(ctx, w, dh, decoder_site(l));
  }
  if (g.dx.rank == 0) return;
  const Tensor du = ctx.scratch.take({R, E});
  cells_[0].input().backward_input(ctx, run.cells[0].gates, du);
  apply_dropout(ctx, w, du, decoder_site(0));
  for (int64_t row = 1; row < R && !ctx.planning(); ++row)
    if (w.position[static_cast<size_t>(row)] > 0)
      for (int64_t j = 0; j < E; ++j) g.dx.row(row - 1)[j] += du.row(row)[j];
}

void Decoder::backward_weights(ExecutionContext& ctx, const RaggedBatch& w, const Input& in,
                               const Activations& run, const InnerGradients& g) const {
  out_.backward_weight(ctx, config_.has_attention() ? run.s : run.cells.back().h, g.dy);
  if (config_.has_attention()) {
    context_.backward_weight(ctx, run.joined, g.context);
    const Tensor dq = cross_ ? g.q : g.qkv;
    query_proj().backward_weight(ctx, state_columns(run.joined), dq);
  }
  if (cross_ && config_.cached) {
    each_cross_group(ctx, w, run, &g, [&](const CrossGroup& group) {
      kernels::cross_backward_memory(cross_->shape(), group.memory, group.queries, group.gradients,
                                     ctx.scratch);
    });
    cross_->finish(ctx, in.m, g.kv, g.dm);
  }
  for (size_t l = 0; l < cells_.size(); ++l) {
    Arena::Frame frame(ctx.scratch);
    const ConstTensor x = layer_input(ctx, w, in, run, l);
    const Recurrent::Activations of_layer{
        run.cells[l], chunks(w, run, static_cast<int64_t>(l)), {}, {}};
    const Tensor h_before = cells_[l].states_before(ctx, of_layer);
    cells_[l].backward_weights(ctx, x, h_before, run.cells[l].gates, g.p[l]);
  }
  for (int64_t i = 0; i < g.start.size() && !ctx.planning(); ++i)  // tanh' = 1 - tanh²
    g.start.data[i] *= 1 - run.start.data[i] * run.start.data[i];
  start_.backward(ctx.in_float32().over({}), in.z, g.start, g.dz);
}

std::vector<float> Decoder::attention_weights(const RaggedBatch& w, const Activations& run,
                                              int64_t b, int64_t t) const {
  REFRAIN_CHECK(cross_ && run.memory.size() == 1);
  const kernels::CrossShape& shape = cross_->shape();
  const int64_t d = shape.head_dim, keys = w.length(b);
  std::vector<float> sum(static_cast<size_t>(keys), 0.0f);
  std::vector<double> q(static_cast<size_t>(d)), k(static_cast<size_t>(keys * d)), o(q.size()),
      weights(sum.size());
  for (int64_t h = 0; h < shape.heads; ++h) {
    std::copy_n(run.query.q.row(w.first(b) + t) + h * d, d, q.begin());
    for (int64_t j = 0; j < keys; ++j)
      std::copy_n(run.memory[0].kv.row(w.first(b) + j) + h * d, d, k.begin() + j * d);
    const kernels::CrossHeadRef head{1, keys, d, double{shape.scale}, shape.window, shape.stride,
                                     t};
    head.forward(q.data(), k.data(), k.data(), o.data(), weights.data());
    for (size_t j = 0; j < sum.size(); ++j)
      sum[j] += static_cast<float>(weights[j] / static_cast<double>(shape.heads));
  }
  return sum;
}

}  // namespace refrain
