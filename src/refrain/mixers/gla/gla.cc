#include "refrain/mixers/gla/gla.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace refrain {
namespace {

constexpr float kNormEps = 1e-5f;

kernels::GlaActivation activation_of(const std::string& setting, const std::string& name,
                                     bool may_be_sigmoid) {
  if (name == "identity") return kernels::GlaActivation::kIdentity;
  if (name == "tanh") return kernels::GlaActivation::kTanh;
  if (name == "sigmoid" && may_be_sigmoid) return kernels::GlaActivation::kSigmoid;
  throw_error("{}: expected identity{} or tanh, found '{}'", setting,
              may_be_sigmoid ? ", sigmoid" : "", name);
}

int64_t kept_states(const RaggedBatch& w, int64_t b, int64_t every) {
  return kernels::gla_kept_states(w.past_length(b), w.length(b), every);
}

std::vector<float*> rows_of(const RaggedBatch& w, const State* state) {
  std::vector<float*> all;
  for (int64_t b = 0; state && b < w.sequences(); ++b) all.push_back(state->row(b));
  return all;
}

void check_range(const GlaConfig& c, const char* setting, int64_t value, int64_t most) {
  if (value < 1 || value > most)
    throw_error("{}.{}: expected 1 to {}, found {}", c.kind, setting, most, value);
}

}  // namespace

GlaLayout::GlaLayout(const MixerDims& s, const GlaConfig& c)
    : heads(c.heads == 0 ? s.heads : c.heads), low_rank(c.gate == "low_rank") {
  check_range(c, "heads", heads, 4096);
  const int64_t width = s.heads * s.head_dim;
  if ((c.key_dim == 0 || c.value_dim == 0) && width % heads != 0)
    throw_error("{}.heads: expected a divisor of {}, found {}; or give key_dim and value_dim",
                c.kind, width, heads);
  key_dim = c.key_dim == 0 ? (width / heads + 3) / 4 * 2 : c.key_dim;
  value_dim = c.value_dim == 0 ? width / heads : c.value_dim;
  check_range(c, "key_dim", key_dim, kernels::kGlaMaxDim);
  check_range(c, "value_dim", value_dim, kernels::kGlaMaxDim);
  if (!low_rank && c.gate != "sigmoid")
    throw_error("{}.gate: expected low_rank or sigmoid, found '{}'", c.kind, c.gate);
  check_range(c, "gate_rank", c.gate_rank, 4096);
  if (!(c.gate_divisor > 0))
    throw_error("{}.gate_divisor: expected a number above 0, found {}", c.kind, c.gate_divisor);
  if (!(c.scale >= 0))
    throw_error("{}.scale: expected 0 or a number above it, found {}", c.kind, c.scale);
  if (c.conv != 0 && (c.conv < 2 || c.conv > kernels::kShortConvMaxTaps))
    throw_error("{}.conv: expected 0 or 2 to {}, found {}", c.kind, kernels::kShortConvMaxTaps,
                c.conv);
  taps = c.conv;
  scale = static_cast<float>(c.scale > 0 ? c.scale : 1 / std::sqrt(static_cast<double>(key_dim)));
  gate_columns = low_rank ? c.gate_rank : keys();
  q = 0;
  k = keys();
  gate = 2 * keys();
  v = gate + gate_columns;
  output_gate = v + values();
  columns = output_gate + (c.output_gate ? values() : 0);
}

Gla::Gla(const MixerDims& s, const GlaConfig& c)
    : shape_(s),
      config_(c),
      layout_(s, c),
      qkgv_{s.d_model, layout_.columns},
      gate_{layout_.gate_columns, layout_.keys(), true},
      o_{layout_.values(), s.d_model, c.bias} {
  const GlaLayout& l = layout_;
  kernel_ = {l.heads,
             l.key_dim,
             l.value_dim,
             l.scale,
             l.low_rank ? static_cast<float>(c.gate_divisor) : 1.0f,
             activation_of(c.kind + ".key_act", c.key_act, true),
             activation_of(c.kind + ".value_act", c.value_act, false),
             l.qkv_columns(),
             l.low_rank ? l.keys() : l.columns,
             l.values(),
             s.activation_precision};
  sections_ = {{"q_proj", l.q, l.keys(), c.bias, {}},
               {"k_proj", l.k, l.keys(), c.bias, {}},
               {l.low_rank ? "gk_proj.0" : "gk_proj", l.gate, l.gate_columns, !l.low_rank, {}},
               {"v_proj", l.v, l.values(), c.bias, {}}};
  if (c.output_gate) sections_.push_back({"g_proj", l.output_gate, l.values(), c.bias, {}});
  const auto add_filter = [&](const char* name, int64_t from, int64_t to, int64_t channels) {
    filters_.push_back({name, from, to, channels, l.matrices() + (l.taps - 1) * to, {}});
  };
  if (l.taps > 0) {
    add_filter("q_conv1d", l.q, l.q, l.keys());
    add_filter("k_conv1d", l.k, l.k, l.keys());
    add_filter("v_conv1d", l.v, l.qkv_v(), l.values());
  }
}

void Gla::visit(const ParamVisitor& v) {
  const GlaLayout& l = layout_;
  std::vector<ParamPart> parts;
  for (const Section& s : sections_) parts.push_back({s.name + ".weight", s.columns});
  qkgv_.visit(v, "qkgv_proj.weight", Init::matrix(qkgv_.in), parts);
  // Channels start with memories of every length: a few tokens to some hundred.
  for (Section& s : sections_)
    if (s.biased)
      v({s.name + ".bias",
         {s.columns},
         s.first == l.gate ? Init::gate_bias(shape_.d_model, 2, 2) : Init::bias(shape_.d_model),
         false},
        s.b);
  // Independent rows keep their size in a sum with taps of 1 / sqrt(taps); twice that, since silu
  // halves what is small.
  for (Filter& f : filters_)
    v({f.name + ".weight",
       {f.channels, l.taps},
       Init::normal(2 / std::sqrt(static_cast<float>(l.taps))),
       true},
      f.w);
  if (l.low_rank) {
    v({"gk_proj.1.weight", {gate_.out, gate_.in}, Init::matrix(gate_.in), true}, gate_.w);
    v({"gk_proj.1.bias", {gate_.out}, Init::normal(6, -4), false}, gate_.b);
  }
  if (config_.output_norm) v({"g_norm.weight", {l.value_dim}, Init::constant(1), false}, norm_);
  o_.visit(v, "o_proj.weight", Init::output(o_.in, shape_.blocks, first_output_size()));
}

// The root mean square of what W_o reads in a bare stack, where inputs and projections have one
// of 1. C holds what one token wrote under sigmoid gates as they start there, and as much as some
// 80 independent ones under low_rank; tanh makes 0.63 of it, sigmoid 0.54, silu 0.6.
float Gla::first_output_size() const {
  const float tokens = layout_.low_rank ? 80 : 1;
  float size = 1;
  if (!config_.output_norm) {
    size = layout_.scale * std::sqrt(tokens * static_cast<float>(layout_.key_dim));
    for (const std::string& act : {config_.key_act, config_.value_act})
      size *= act == "tanh" ? 0.63f : act == "sigmoid" ? 0.54f : 1;
  }
  return config_.output_gate ? 0.6f * size : size;
}

size_t Gla::state_bytes(int64_t) const {
  return static_cast<size_t>(layout_.state_size()) * sizeof(float);
}

// Convolved rows are never kept: to make them again is little beside the projections.
Gla::Rows Gla::layout(Arena& scratch, Arena& a, int64_t rows) const {
  const GlaLayout& l = layout_;
  Rows r;
  r.x = a.take({rows, l.columns});
  r.qkv = l.taps > 0 ? scratch.take({rows, l.qkv_columns()}) : r.x;
  if (l.low_rank) r.logits = a.take({rows, l.keys()});
  r.o = a.take({rows, l.values()});
  return r;
}

Gla::History Gla::carve_history(const ExecutionContext& ctx, Arena& a, const RaggedBatch& w,
                                bool state) const {
  History h;
  if (ctx.checkpoint_interval > 0) h.every = ctx.checkpoint_interval;
  if (h.every % kernels::kGlaChunk != 0)
    throw_error("gradient_checkpointing: expected a multiple of {} for {}, found {}",
                kernels::kGlaChunk, config_.kind, h.every);
  int64_t kept = 0;
  for (int64_t b = 0; b < w.sequences(); ++b) kept += kept_states(w, b, h.every);
  h.kept = a.take({kept, kernel_.state_size()});
  if (state) h.initial_state = a.take({w.sequences(), layout_.state_size()});
  return h;
}

// Rows [first, first + count) of the window, of chunk b.
kernels::GlaSequence Gla::sequence(const RaggedBatch& w, const Rows& rows, int64_t b, int64_t first,
                                   int64_t count) const {
  const GlaLayout& l = layout_;
  const float* qkv = rows.qkv.row(first);
  return {w.past_length(b) + first - w.first(b),
          count,
          qkv + l.q,
          qkv + l.k,
          qkv + l.qkv_v(),
          l.low_rank ? rows.logits.row(first) : rows.x.row(first) + l.gate,
          nullptr};
}

// Columns of x that one product makes.
std::vector<Gla::Range> Gla::products() const {
  if (config_.fused) return {{0, layout_.columns}};
  std::vector<Range> all;
  for (const Section& s : sections_) all.push_back({s.first, s.columns});
  return all;
}

void Gla::project(ExecutionContext& ctx, ConstTensor x, const Rows& rows) const {
  Arena::Frame frame(ctx.scratch);
  const GlaLayout& l = layout_;
  const MatrixView<float> projected = rows.x;
  for (const auto& [first, count] : products())
    qkgv_.outputs(first, count).forward(ctx, x, projected.col_range(first, count));
  const Tensor bias = ctx.scratch.take({l.columns});
  if (!ctx.planning() && biased()) {
    std::fill(bias.begin(), bias.end(), 0.0f);
    for (const Section& s : sections_)
      if (s.biased) std::copy(s.b.w.begin(), s.b.w.end(), bias.data + s.first);
    kernels::add_row(rows.x, bias);
  }
  if (l.low_rank) gate_.forward(ctx, projected.col_range(l.gate, l.gate_columns), rows.logits);
}

// What a filter runs over. `initial_state`: a state for each chunk, or none.
std::vector<kernels::ShortConvChunk> Gla::chunks(const RaggedBatch& w, const Filter& f,
                                                 std::span<float* const> found) const {
  std::vector<kernels::ShortConvChunk> all;
  for (int64_t b = 0; b < w.sequences(); ++b)
    all.push_back({w.first(b), w.length(b),
                   found.empty() ? nullptr : found[static_cast<size_t>(b)] + f.past});
  return all;
}

// From projections to what the recurrence takes: convolved, k and v activated. With `advance` the
// states go on to the rows of this window.
void Gla::activate(ExecutionContext& ctx, const RaggedBatch& w, const Rows& rows,
                   std::span<float* const> found, bool advance) const {
  const GlaLayout& l = layout_;
  for (const Filter& f : filters_) {
    std::vector<kernels::ShortConvChunk> all = chunks(w, f, found);
    for (size_t b = 0; advance && b < all.size(); ++b) all[b].final_state = found[b] + f.past;
    kernels::short_conv_forward(
        {f.w.w, kernel_.precision}, all, MatrixView<float>(rows.x).col_range(f.from, f.channels),
        MatrixView<float>(rows.qkv).col_range(f.to, f.channels), ctx.scratch);
  }
  if (ctx.planning()) return;
  kernels::activate_columns(kernel_.key_act, kernel_.precision, rows.qkv, l.k, l.keys());
  kernels::activate_columns(kernel_.value_act, kernel_.precision, rows.qkv, l.qkv_v(), l.values());
}

// rows.qkv holds gradients of convolved rows; those of projections take their place in rows.x.
void Gla::convolve_backward(ExecutionContext& ctx, const RaggedBatch& w, const Rows& rows,
                            std::span<float* const> found, const State* dstate) const {
  for (const Filter& f : filters_) {
    std::vector<kernels::ShortConvChunk> all = chunks(w, f, found);
    for (int64_t b = 0; dstate && b < w.sequences(); ++b)
      all[static_cast<size_t>(b)].dstate = dstate->row(b) + f.past;
    kernels::short_conv_backward({f.w.w, kernel_.precision}, f.w.g, all,
                                 MatrixView<float>(rows.x).col_range(f.from, f.channels),
                                 MatrixView<float>(rows.qkv).col_range(f.to, f.channels),
                                 ctx.scratch);
  }
}

// rows.x and rows.logits hold gradients, but for the columns of a low_rank gate.
void Gla::project_backward(ExecutionContext& ctx, ConstTensor x, const Rows& rows,
                           Tensor dx) const {
  Arena::Frame frame(ctx.scratch);
  const GlaLayout& l = layout_;
  const MatrixView<float> projected = rows.x;
  if (l.low_rank) {
    const MatrixView<float> small = projected.col_range(l.gate, l.gate_columns);
    gate_.backward_weight(ctx, small, rows.logits);
    gate_.backward_input(ctx, rows.logits, small);
  }
  for (const auto& [first, count] : products())
    qkgv_.outputs(first, count).backward(ctx, x, projected.col_range(first, count), dx, first > 0);
  // Sums go on from what earlier rows gave: one chain over all rows of a batch.
  const Tensor bias = ctx.scratch.take({l.columns});
  if (ctx.planning() || !biased()) return;
  std::fill(bias.begin(), bias.end(), 0.0f);
  for (const Section& s : sections_)
    if (s.b.g) std::copy(s.b.g.begin(), s.b.g.end(), bias.data + s.first);
  kernels::column_sum_add(rows.x, bias);
  for (const Section& s : sections_)
    if (s.b.g) std::copy_n(bias.data + s.first, s.columns, s.b.g.data);
}

kernels::GlaReadout Gla::readout() const {
  return {kernel_.precision,
          layout_.value_dim,
          {norm_.w, kNormEps},
          config_.output_gate ? layout_.output_gate : -1};
}

void Gla::forward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, Tensor y,
                  const State* state, Arena* saved) const {
  Arena::Frame frame(ctx.scratch);
  const bool keeps_rows = saved && ctx.checkpoint_interval == 0;
  const Rows rows = layout(ctx.scratch, keeps_rows ? *saved : ctx.scratch, w.rows());
  History history;
  if (saved) history = carve_history(ctx, *saved, w, state != nullptr);
  const std::vector<float*> states = rows_of(w, state);
  if (saved && !ctx.planning())
    for (size_t b = 0; b < states.size(); ++b)
      std::copy_n(states[b], layout_.state_size(),
                  history.initial_state.row(static_cast<int64_t>(b)));
  project(ctx, x, rows);
  activate(ctx, w, rows, states, state != nullptr);
  std::vector<kernels::GlaSequence> sequences;
  std::vector<kernels::GlaOutputs> outputs;
  float* kept = history.kept.data;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) == 0) continue;
    kernels::GlaSequence s = sequence(w, rows, b, w.first(b), w.length(b));
    kernels::GlaOutputs to{rows.o.row(w.first(b)), nullptr, nullptr};
    if (state) s.initial_state = to.final_state = state->row(b);
    if (saved) {
      to.kept = kept;
      kept += kept_states(w, b, history.every) * kernel_.state_size();
    }
    sequences.push_back(s);
    outputs.push_back(to);
  }
  kernels::gla_forward(kernel_, sequences, outputs, history.every, ctx.scratch);
  if (!reads_through()) return o_.forward(ctx, rows.o, y);
  const Tensor out = ctx.scratch.take({w.rows(), layout_.values()});
  if (!ctx.planning()) kernels::gla_read_forward(readout(), rows.o, rows.x, out);
  o_.forward(ctx, out, y);
}

// The recurrence once more, each stretch between kept states on its own.
void Gla::recompute(ExecutionContext& ctx, const RaggedBatch& w, const Rows& rows,
                    const History& history) const {
  std::vector<kernels::GlaSequence> sequences;
  std::vector<kernels::GlaOutputs> outputs;
  const float* kept = history.kept.data;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    const float* found = history.initial_state ? history.initial_state.row(b) : nullptr;
    const int64_t end = w.past_length(b) + w.length(b);
    for (int64_t at = w.past_length(b); at < end;) {
      const int64_t next = std::min(end, (at / history.every + 1) * history.every);
      const int64_t first = w.first(b) + at - w.past_length(b);
      kernels::GlaSequence s = sequence(w, rows, b, first, next - at);
      s.initial_state = found;
      sequences.push_back(s);
      outputs.push_back({rows.o.row(first), nullptr, nullptr});
      if (next < end) {
        found = kept;
        kept += kernel_.state_size();
      }
      at = next;
    }
  }
  kernels::gla_forward(kernel_, sequences, outputs, history.every, ctx.scratch);
}

void Gla::backward(ExecutionContext& ctx, const RaggedBatch& w, ConstTensor x, const State* state,
                   const MixerGradients& given, Arena& saved) const {
  const auto& [dy, dx, dstate] = given;
  Arena::Frame frame(ctx.scratch);
  const bool kept_rows = ctx.checkpoint_interval == 0;
  const Rows rows = layout(ctx.scratch, kept_rows ? saved : ctx.scratch, w.rows());
  const History history = carve_history(ctx, saved, w, state != nullptr);
  std::vector<float*> found;
  for (int64_t b = 0; history.initial_state && b < w.sequences(); ++b)
    found.push_back(history.initial_state.row(b));
  if (!kept_rows) project(ctx, x, rows);
  if (!kept_rows || layout_.taps > 0) activate(ctx, w, rows, found, false);
  if (!kept_rows) recompute(ctx, w, rows, history);

  const GlaLayout& l = layout_;
  const int64_t R = w.rows();
  const Tensor d = ctx.scratch.take({R, l.values()});
  o_.backward_input(ctx, dy, d);
  Tensor d_o = d, out = rows.o;
  if (reads_through()) {
    out = ctx.scratch.take({R, l.values()});
    if (config_.output_norm) d_o = ctx.scratch.take({R, l.values()});
    const Tensor r = ctx.scratch.take({R * l.heads});
    if (!ctx.planning())
      kernels::gla_read_backward(readout(), rows.o, rows.x, {d, d_o, out, norm_.g, r});
  }
  o_.backward_weight(ctx, out, dy);

  std::vector<kernels::GlaSequence> sequences;
  std::vector<kernels::GlaGradients> gradients;
  const float* kept = history.kept.data;
  for (int64_t b = 0; b < w.sequences(); ++b) {
    if (w.length(b) == 0) continue;
    const int64_t first = w.first(b);
    sequences.push_back(sequence(w, rows, b, first, w.length(b)));
    if (state) sequences.back().initial_state = history.initial_state.row(b);
    // Gradients take the place of what they are of.
    float* at = rows.qkv.row(first);
    gradients.push_back({d_o.row(first), at + l.q, at + l.k, at + l.qkv_v(),
                         l.low_rank ? rows.logits.row(first) : rows.x.row(first) + l.gate, kept,
                         dstate ? dstate->row(b) : nullptr});
    kept += kept_states(w, b, history.every) * kernel_.state_size();
  }
  kernels::gla_backward(kernel_, sequences, gradients, history.every, ctx.scratch);
  convolve_backward(ctx, w, rows, found, dstate);
  project_backward(ctx, x, rows, dx);
}

}  // namespace refrain
