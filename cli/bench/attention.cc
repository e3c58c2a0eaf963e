// Attention alone, forward and backward over one sequence: blockwise, in memory linear in its
// length, and plain, while all scores fit.
#include "refrain/kernels/attention.h"

#include <cmath>

#include "cli/bench/plain_attention.h"
#include "cli/bench/sections.h"
#include "refrain/model/workspace.h"

namespace refrain::cli::bench {
namespace {

constexpr double kMostPlainBytes = 2.0 * (1 << 30);

// Inputs and what a form makes of them, all [T, heads d].
struct Inputs {
  Inputs(int64_t tokens, int64_t heads_, int64_t head_dim_)
      : T(tokens), heads(heads_), head_dim(head_dim_) {
    // Scores of standard deviation 2: their softmax is neither flat nor a single one.
    for (Buffer<float>* values : {&q, &k})
      for (float& value : values->span()) value *= 2.45f;
  }
  int64_t row() const { return heads * head_dim; }
  float scale() const { return 1 / std::sqrt(static_cast<float>(head_dim)); }

  int64_t T, heads, head_dim;
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
  explicit Blockwise(const Inputs& in) : in_(in), lse_(static_cast<size_t>(in.heads * in.T)) {}

  void run(Outputs& out) {
    workspace_.run({}, [&](Context& ctx, Arena&) {
      const int64_t row = in_.row();
      const kernels::AttentionShape shape{.heads = in_.heads,
                                          .kv_heads = in_.heads,
                                          .head_dim = in_.head_dim,
                                          .scale = in_.scale(),
                                          .q_row = row,
                                          .o_row = row};
      const kernels::AttentionSequence sequence{.queries = in_.T,
                                                .start = 0,
                                                .q = in_.q.data(),
                                                .keys = {.own = {in_.k.data(), in_.v.data(), row}},
                                                .o = out.o.data(),
                                                .lse = lse_.data()};
      const kernels::AttentionGradients gradients{
          .d_o = in_.d_o.data(),
          .dq = out.dq.data(),
          .keys = {.own = {out.dk.data(), out.dv.data(), row}}};
      kernels::attention_forward(shape, {&sequence, 1}, ctx.scratch);
      kernels::attention_backward(shape, {&sequence, 1}, {&gradients, 1}, row, false, ctx.scratch);
    });
  }
  // Beside inputs and outputs.
  size_t bytes() const { return workspace_.bytes() + lse_.size() * sizeof(float); }

 private:
  const Inputs& in_;
  Buffer<float> lse_;
  Workspace workspace_;
};

class Plain {
 public:
  explicit Plain(const Inputs& in) : in_(in), plain_(in.T, in.heads, in.head_dim, in.scale()) {}

  void run(Outputs& out) {
    workspace_.run({}, [&](Context& ctx, Arena&) {
      plain_.forward(in_.q.data(), in_.k.data(), in_.v.data(), out.o.data(), ctx.scratch);
      plain_.backward(in_.q.data(), in_.k.data(), in_.v.data(), out.o.data(), in_.d_o.data(),
                      out.dq.data(), out.dk.data(), out.dv.data(), ctx.scratch);
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

void time_length(const Setup& setup, Report& report, int64_t T, int64_t heads, int64_t head_dim,
                 bool with_plain) {
  const Inputs in(T, heads, head_dim);
  Outputs blockwise_out(in), plain_out(in);
  Blockwise blockwise(in);
  std::optional<Plain> plain;
  blockwise.run(blockwise_out);
  Check check = against_formula(in, blockwise_out), plain_check;
  if (with_plain) {
    plain.emplace(in);
    plain->run(plain_out);
    plain_check = against_formula(in, plain_out);
    if (plain_check.passed()) against_each_other(check, blockwise_out, plain_out);
  }
  // Two products forward and five backward, over the pairs that the mask leaves.
  const double pairs = 0.5 * static_cast<double>(T) * static_cast<double>(T + 1);
  const double operations = 7 * 2 * pairs * static_cast<double>(in.row());
  Row row{.section = "attention",
          .shape = fmt::format("{} tokens, {} x {}", T, in.heads, in.head_dim)};
  row.unit = "GFLOP/s";
  row.ceiling = setup.ceilings.products / 1e9;
  std::vector<Work> works;
  if (check.passed()) works.emplace_back([&] { blockwise.run(blockwise_out); });
  const bool both = plain && plain_check.passed();
  if (both) works.emplace_back([&] { plain->run(plain_out); });
  const std::vector<Timing> timings =
      works.empty() ? std::vector<Timing>() : time_in_turns(setup.repetitions, works);
  const auto add = [&](const char* name, size_t bytes, const Check& passed, size_t i) {
    row.name = name;
    row.peak_mib = mebibytes(bytes);
    if (passed.passed()) {
      row.timing = timings[i];
      row.rate = operations / row.timing.median / 1e9;
      if (both) row.ratio = timings.back().median / row.timing.median;
    }
    report.add(row, passed);
  };
  if (plain) add("plain", plain->bytes(), plain_check, timings.size() - 1);
  add("blockwise", blockwise.bytes(), check, 0);
}

}  // namespace

void time_attention(const Setup& setup, Report& report) {
  ModelConfig model = setup.model_of("attention", 1);
  model.resolve();
  for (const int64_t T : setup.lengths) {
    const bool fits = PlainAttention::bytes(T, model.heads) <= kMostPlainBytes;
    time_length(setup, report, T, model.heads, model.head_dim, fits);
    for (const int64_t heads : {4, 6, 8})
      if (heads != model.heads && model.d_model % heads == 0)
        time_length(setup, report, T, heads, model.d_model / heads, false);
  }
  report.end_section();
}

}  // namespace refrain::cli::bench
