// Attention alone, forward and backward over one sequence: blockwise, in memory linear in its
// length, and plain, while all scores fit.
#include "refrain/kernels/attention/attention.h"

#include <cmath>

#include "bench/sections/plain_attention.h"
#include "bench/sections/sections.h"
#include "refrain/mixers/attention/attention.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {
namespace {

constexpr double kMostPlainBytes = 2.0 * (1 << 30);

// Inputs and what a form makes of them, all [T, heads d].
struct Inputs {
  Inputs(const Planted& planted_, int64_t tokens, int64_t heads_, int64_t head_dim_,
         int64_t window_ = 0, int64_t stride_ = 0)
      : planted(planted_),
        T(tokens),
        heads(heads_),
        head_dim(head_dim_),
        window(window_),
        stride(stride_) {
    // Scores of standard deviation 2: their softmax is neither flat nor a single one.
    for (Buffer<float>* values : {&q, &k})
      for (float& value : values->span()) value *= 2.45f;
  }
  int64_t row() const { return heads * head_dim; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(head_dim)); }

  // What the query at position i sees of the keys up to its own (kernels/attention/attention.h).
  bool sees(int64_t i, int64_t j) const {
    return window == 0 || j > i - window || (stride > 0 && (j + 1) % stride == 0);
  }
  double pairs() const {
    double all = 0;
    for (int64_t i = 0; i < T; ++i) {
      const int64_t behind = window > 0 ? std::max<int64_t>(0, i + 1 - window) : 0;
      all += static_cast<double>(i + 1 - behind + (stride > 0 ? behind / stride : 0));
    }
    return all;
  }

  const Planted& planted;
  int64_t T, heads, head_dim, window, stride;
  Buffer<float> q = uniform(T * heads * head_dim, 1), k = uniform(T * heads * head_dim, 2),
                v = uniform(T * heads * head_dim, 3), d_o = uniform(T * heads * head_dim, 4);
};

struct Outputs {
  explicit Outputs(const Inputs& in)
      : o(in.q.size()), dq(in.q.size()), dk(in.q.size()), dv(in.q.size()) {}
  Buffer<float> o, dq, dk, dv;
};

class Blockwise {
 public:
  explicit Blockwise(const Inputs& in)
      : in_(in), softmax_(static_cast<size_t>(2 * in.heads * in.T)) {}

  void run(Outputs& out) {
    workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
      const int64_t row = in_.row();
      kernels::AttentionShape shape{.heads = in_.heads,
                                    .kv_heads = in_.heads,
                                    .head_dim = in_.head_dim,
                                    .scale = in_.scale(),
                                    .q_row = row,
                                    .o_row = row,
                                    .window = in_.window,
                                    .stride = in_.stride};
      in_.planted.in_mask(shape);
      const kernels::AttentionSequence sequence{.queries = in_.T,
                                                .start = 0,
                                                .q = in_.q.data(),
                                                .keys = {.own = {in_.k.data(), in_.v.data(), row}},
                                                .o = out.o.data(),
                                                .softmax = softmax_.data()};
      const kernels::AttentionGradients gradients{
          .d_o = in_.d_o.data(),
          .dq = out.dq.data(),
          .dq_row = row,
          .keys = {.own = {out.dk.data(), out.dv.data(), row}}};
      kernels::attention_forward(shape, {&sequence, 1}, ctx.scratch);
      kernels::attention_backward(shape, {&sequence, 1}, {&gradients, 1}, ctx.scratch);
    });
  }
  // Beside inputs and outputs.
  size_t bytes() const { return workspace_.bytes() + softmax_.size() * sizeof(float); }

 private:
  const Inputs& in_;
  Buffer<float> softmax_;
  Workspace workspace_;
};

class Plain {
 public:
  explicit Plain(const Inputs& in) : in_(in), plain_(in.T, in.heads, in.head_dim, in.scale()) {}

  void run(Outputs& out) {
    workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
      const PlainAttention::Rows rows{in_.q.data(), in_.k.data(), in_.v.data(), out.o.data()};
      plain_.forward(rows, out.o.data(), ctx.scratch);
      plain_.backward(rows, {in_.d_o.data(), out.dq.data(), out.dk.data(), out.dv.data()},
                      ctx.scratch);
    });
  }
  size_t bytes() const {
    return workspace_.bytes() + static_cast<size_t>(PlainAttention::bytes(in_.T, in_.heads));
  }

 private:
  const Inputs& in_;
  PlainAttention plain_;
  Workspace workspace_;
};

// A query's row of one head by the formula, in float64.
struct Query {
  std::vector<double> p, ds;  // of the keys up to its own
};
Query query(const Inputs& in, int64_t h, int64_t i) {
  const int64_t d = in.head_dim, row = in.row();
  const auto dot = [&](const Buffer<float>& a, int64_t ra, const Buffer<float>& b, int64_t rb) {
    double sum = 0;
    for (int64_t c = h * d; c < (h + 1) * d; ++c)
      sum += static_cast<double>(a[static_cast<size_t>(ra * row + c)]) *
             static_cast<double>(b[static_cast<size_t>(rb * row + c)]);
    return sum;
  };
  Query out;
  double top = -INFINITY, sum = 0, mean = 0;
  for (int64_t j = 0; j <= i; ++j) {
    out.p.push_back(static_cast<double>(in.scale()) * dot(in.q, i, in.k, j));
    if (!in.sees(i, j)) out.p.back() = -INFINITY;
    top = std::max(top, out.p.back());
  }
  for (double& p : out.p) sum += p = std::exp(p - top);
  for (int64_t j = 0; j <= i; ++j) {
    double& p = out.p[static_cast<size_t>(j)];
    p /= sum;
    out.ds.push_back(dot(in.d_o, i, in.v, j));
    mean += p * out.ds.back();
  }
  for (size_t j = 0; j < out.p.size(); ++j)
    out.ds[j] = static_cast<double>(in.scale()) * out.p[j] * (out.ds[j] - mean);
  return out;
}

// Some queries' o and dq, and dk and dv of the last keys, which few queries see.
Check against_formula(const Inputs& in, const Outputs& out) {
  Check check;
  const int64_t d = in.head_dim, row = in.row(), last = std::max<int64_t>(0, in.T - 3);
  const auto near = [&](const char* name, const Buffer<float>& got, int64_t i, int64_t c,
                        double want) {
    check.near(fmt::format("{}[{}, {}]", name, i, c),
               static_cast<double>(got[static_cast<size_t>(i * row + c)]), want,
               1e-4 * std::max(1.0, std::abs(want)));
  };
  const auto at = [&](const Buffer<float>& from, int64_t i, int64_t c) {
    return static_cast<double>(from[static_cast<size_t>(i * row + c)]);
  };
  sample(in.heads, 2, [&](int64_t h) {
    sample(in.T, 7, [&](int64_t i) {
      const Query a = query(in, h, i);
      for (int64_t c = h * d; c < (h + 1) * d; ++c) {
        double o = 0, dq = 0;
        for (int64_t j = 0; j <= i; ++j) {
          o += a.p[static_cast<size_t>(j)] * at(in.v, j, c);
          dq += a.ds[static_cast<size_t>(j)] * at(in.k, j, c);
        }
        near("o", out.o, i, c, o);
        near("dq", out.dq, i, c, dq);
      }
    });
    std::vector<Query> seeing;
    for (int64_t i = last; i < in.T; ++i) seeing.push_back(query(in, h, i));
    for (int64_t j = last; j < in.T; ++j)
      for (int64_t c = h * d; c < (h + 1) * d; ++c) {
        double dk = 0, dv = 0;
        for (int64_t i = j; i < in.T; ++i) {
          const Query& a = seeing[static_cast<size_t>(i - last)];
          dk += a.ds[static_cast<size_t>(j)] * at(in.q, i, c);
          dv += a.p[static_cast<size_t>(j)] * at(in.d_o, i, c);
        }
        near("dk", out.dk, j, c, dk);
        near("dv", out.dv, j, c, dv);
      }
  });
  return check;
}

// All of both forms, where both are there.
void against_each_other(Check& check, const Outputs& got, const Outputs& want) {
  const auto compare = [&](const char* name, const Buffer<float>& a, const Buffer<float>& b) {
    double scale = 1, difference = 0;
    for (size_t i = 0; i < a.size(); ++i) {
      const double d = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
      if (!(d <= difference)) difference = std::isnan(d) ? INFINITY : d;
      scale = std::max(scale, std::abs(static_cast<double>(b[i])));
    }
    check.near(fmt::format("{}, blockwise less plain", name), difference, 0, 1e-4 * scale);
  };
  compare("o", got.o, want.o);
  compare("dq", got.dq, want.dq);
  compare("dk", got.dk, want.dk);
  compare("dv", got.dv, want.dv);
}

// A form with its outputs, and whether they are right.
template <class Form>
struct Trial {
  explicit Trial(const Inputs& in_) : in(in_), out(in), form(in) {
    form.run(out);
    for (Buffer<float>* made : {&out.o, &out.dq, &out.dk, &out.dv})
      in.planted.in_output(made->span());
    check = against_formula(in, out);
  }
  const Inputs& in;
  Outputs out;
  Form form;
  Check check;
};

// The rows of one length and shape, in turns; the first is what the others' ratios are over.
class Group {
 public:
  Group(const Setup& setup, Report& report) : setup_(setup), report_(report) {}

  template <class Form>
  void add(const std::string& name, Trial<Form>& trial) {
    entries_.push_back({name, trial.in, trial.check, trial.form.bytes()});
    if (trial.check.passed()) works_.emplace_back([&] { trial.form.run(trial.out); });
  }

  void time() {
    const std::vector<Timing> timings =
        works_.empty() ? std::vector<Timing>() : time_in_turns(setup_.repetitions, works_);
    size_t at = 0;
    for (const Entry& entry : entries_) {
      const Inputs& in = entry.in;
      Row row{.section = "attention",
              .name = entry.name,
              .shape = fmt::format("{} tokens, {} x {}", in.T, in.heads, in.head_dim)};
      row.unit = "GFLOP/s";
      row.ceiling = setup_.ceilings.fastest() / 1e9;
      row.peak_mib = mebibytes(entry.bytes);
      if (entry.check.passed()) {
        row.timing = timings[at++];
        // Two products forward and five backward, over the pairs that the mask leaves.
        row.rate = 7 * 2 * in.pairs() * static_cast<double>(in.row()) / row.timing.median / 1e9;
        if (entries_.size() > 1 && entries_[0].check.passed())
          row.ratio = timings[0].median / row.timing.median;
      }
      report_.add(row, entry.check);
    }
  }

 private:
  struct Entry {
    std::string name;
    const Inputs& in;
    const Check& check;
    size_t bytes;
  };
  const Setup& setup_;
  Report& report_;
  std::vector<Entry> entries_;
  std::vector<Work> works_;
};

void time_length(const Setup& setup, Report& report, int64_t T, int64_t heads, int64_t head_dim,
                 bool with_plain) {
  const Inputs in(setup.planted, T, heads, head_dim);
  Trial<Blockwise> blockwise(in);
  std::optional<Trial<Plain>> plain;
  Group group(setup, report);
  if (with_plain) {
    plain.emplace(in);
    if (plain->check.passed()) against_each_other(blockwise.check, blockwise.out, plain->out);
    group.add("plain", *plain);
  }
  group.add("blockwise", blockwise);
  group.time();
}

// All keys beside a window of them.
void time_sparse(const Setup& setup, Report& report, int64_t T, const ModelConfig& model,
                 const AttentionConfig& sparse) {
  const Inputs all(setup.planted, T, model.heads, model.head_dim);
  const Inputs some(setup.planted, T, model.heads, model.head_dim, sparse.window, sparse.stride);
  Trial<Blockwise> full(all), part(some);
  Group group(setup, report);
  group.add("blockwise", full);
  group.add(sparse.stride > 0 ? fmt::format("window of {}, stride {}", sparse.window, sparse.stride)
                              : fmt::format("window of {}", sparse.window),
            part);
  group.time();
}

}  // namespace

void time_attention(const Setup& setup, Report& report) {
  ModelConfig model = setup.model_of("attention", 1);
  model.resolve();
  const auto sparse = model.mixers[0].as<AttentionConfig>();
  for (const int64_t T : setup.lengths) {
    const bool fits = PlainAttention::bytes(T, model.heads) <= kMostPlainBytes;
    time_length(setup, report, T, model.heads, model.head_dim, fits);
    if (sparse.window > 0 && sparse.window < T) time_sparse(setup, report, T, model, sparse);
    for (const int64_t heads : {4, 6, 8})
      if (heads != model.heads && model.d_model % heads == 0)
        time_length(setup, report, T, heads, model.d_model / heads, false);
  }
  report.end_section();
}

}  // namespace refrain::bench
