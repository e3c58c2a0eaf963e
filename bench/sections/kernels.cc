// Kernels that memory limits, over arrays beyond the caches: bytes that must be read or written,
// against the rate of streaming.
#include <algorithm>
#include <cmath>
#include <complex>

#include "bench/sections/sections.h"
#include "refrain/base/random.h"
#include "refrain/kernels/elementwise/activation_ref.h"
#include "refrain/kernels/elementwise/adamw_ref.h"
#include "refrain/kernels/elementwise/rms_norm.h"
#include "refrain/kernels/elementwise/rms_norm_ref.h"
#include "refrain/kernels/elementwise/rope_ref.h"
#include "refrain/kernels/loss/cross_entropy_ref.h"

namespace refrain::bench {
namespace {

using Complex = std::complex<double>;
constexpr double kStep = 1e-30;        // of the complex step
constexpr double kTolerance = 1e-5;    // rows of some thousand float32 numbers
constexpr int64_t kVocabulary = 8192;  // of the logits
constexpr int64_t kRows = 5;           // of each array that are looked at

class Kernels {
 public:
  Kernels(const Setup& setup, Report& report) : setup_(setup), report_(report) {}

  // `floats`: numbers read and written.
  void time(const char* name, const std::string& shape, int64_t floats, const Check& check,
            const Work& work) {
    Row row{.section = "kernels", .name = name, .shape = shape};
    if (check.passed()) {
      row.timing = time_of(setup_.repetitions, work);
      row.rate = 4 * static_cast<double>(floats) / row.timing.median / 1e9;
      row.unit = "GB/s";
      row.ceiling = setup_.ceilings.streaming / 1e9;
    }
    report_.add(row, check);
  }
  // Rows of an array that streams.
  int64_t rows(int64_t columns) const {
    return std::max<int64_t>(1, setup_.stream_floats / columns);
  }

  void rms_norm();
  void swiglu();
  void rope();
  void cross_entropy();
  void adamw();

 private:
  const Setup& setup_;
  Report& report_;
};

void near(Check& check, const char* what, int64_t row, double got, double want) {
  check.near(fmt::format("{}, row {}", what, row), got, want,
             kTolerance * std::max(1.0, std::abs(want)));
}

// A row as complex numbers, stepped along a direction of signs.
std::vector<Complex> stepped(const float* x, int64_t n, const std::vector<double>& signs) {
  std::vector<Complex> row(static_cast<size_t>(n));
  for (size_t i = 0; i < row.size(); ++i) row[i] = {static_cast<double>(x[i]), kStep * signs[i]};
  return row;
}
std::vector<double> signs(int64_t n, uint64_t key) {
  Random random(key);
  std::vector<double> all(static_cast<size_t>(n));
  for (double& sign : all) sign = random.bits() & 1 ? 1 : -1;
  return all;
}

// dx of a row against the derivative of sum(dy y) along a direction, as `y` has it.
void gradient_near(Check& check, int64_t row, const std::vector<Complex>& y, const float* dy,
                   const float* dx, const std::vector<double>& direction) {
  double got = 0, want = 0, size = 1;
  for (size_t i = 0; i < y.size(); ++i) want += y[i].imag() / kStep * static_cast<double>(dy[i]);
  for (size_t i = 0; i < direction.size(); ++i) {
    got += direction[i] * static_cast<double>(dx[i]);
    size += std::abs(static_cast<double>(dx[i]));
  }
  check.near(fmt::format("gradient, row {}", row), got, want, kTolerance * size);
}

void Kernels::rms_norm() {
  constexpr double kEps = 1e-5;
  const int64_t D = setup_.model.d_model, R = rows(D), n = R * D;
  const std::string shape = fmt::format("{} x {}", R, D);
  const Buffer<float> x = uniform(n, 1), w = uniform(D, 2), dy = uniform(n, 3);
  Buffer<float> y(x.size()), r(static_cast<size_t>(R)), dx(x.size()), dw(w.size());
  const ConstTensor tx(x.data(), {R, D}), tw(w.data(), {D}), tdy(dy.data(), {R, D});
  const Tensor ty(y.data(), {R, D}), tr(r.data(), {R}), tdx(dx.data(), {R, D}), tdw(dw.data(), {D});
  const Work forward = [&] {
    kernels::rms_norm_forward(tx, {tw, static_cast<float>(kEps)}, ty, tr);
  };
  const Work backward = [&] { kernels::rms_norm_backward(tx, tw, tr, tdy, {tdx, tdw}); };
  forward();
  backward();
  for (const Tensor& made : {ty, tdx, tdw}) setup_.planted.in_output(made);
  Check check, gradient;
  const std::vector<double> direction = signs(D, 4), none(direction.size());
  std::vector<Complex> weights = stepped(w.data(), D, none);
  sample(R, kRows, [&](int64_t i) {
    std::vector<Complex> in = stepped(tx.row(i), D, direction), out(in.size());
    Complex reciprocal;
    kernels::rms_norm_ref<Complex>({in.data(), {1, D}}, {weights.data(), {D}}, kEps,
                                   {out.data(), {1, D}}, {&reciprocal, {1}});
    for (int64_t c = 0; c < D; ++c)
      near(check, "rms_norm", i, static_cast<double>(ty.row(i)[c]),
           out[static_cast<size_t>(c)].real());
    gradient_near(gradient, i, out, tdy.row(i), tdx.row(i), direction);
  });
  sample(D, kRows, [&](int64_t c) {
    double sum = 0, size = 1;
    for (int64_t i = 0; i < R; ++i) {
      const double term = static_cast<double>(tdy.row(i)[c]) * static_cast<double>(tx.row(i)[c]) *
                          static_cast<double>(r[static_cast<size_t>(i)]);
      sum += term;
      size += std::abs(term);
    }
    gradient.near(fmt::format("dw[{}]", c), static_cast<double>(dw[static_cast<size_t>(c)]), sum,
                  kTolerance * size);
  });
  time("rms_norm, forward", shape, 2 * n, check, forward);
  time("rms_norm, backward", shape, 3 * n, gradient, backward);
}

void Kernels::swiglu() {
  ModelConfig model = setup_.model_of("attention", 1);
  model.resolve();
  const int64_t F = model.d_ff, R = rows(2 * F), n = R * F;
  const std::string shape = fmt::format("{} x {}", R, F);
  Buffer<float> x = uniform(2 * n, 1);
  for (float& value : x.span()) value *= 4;
  const Buffer<float> dy = uniform(n, 2);
  Buffer<float> y(dy.size()), dx(x.size());
  const ConstTensor tx(x.data(), {R, 2 * F}), tdy(dy.data(), {R, F});
  const Tensor ty(y.data(), {R, F}), tdx(dx.data(), {R, 2 * F});
  const Work forward = [&] { kernels::swiglu_forward(tx, ty); };
  const Work backward = [&] { kernels::swiglu_backward(tx, tdy, tdx); };
  forward();
  backward();
  for (const Tensor& made : {ty, tdx}) setup_.planted.in_output(made);
  Check check, gradient;
  const std::vector<double> direction = signs(2 * F, 3);
  sample(R, kRows, [&](int64_t i) {
    std::vector<Complex> in = stepped(tx.row(i), 2 * F, direction), out(static_cast<size_t>(F));
    kernels::swiglu_ref<Complex>({in.data(), {1, 2 * F}}, {out.data(), {1, F}});
    for (int64_t c = 0; c < F; ++c)
      near(check, "swiglu", i, static_cast<double>(ty.row(i)[c]),
           out[static_cast<size_t>(c)].real());
    gradient_near(gradient, i, out, tdy.row(i), tdx.row(i), direction);
  });
  time("swiglu, forward", shape, 3 * n, check, forward);
  time("swiglu, backward", shape, 5 * n, gradient, backward);
}

void Kernels::rope() {
  constexpr double kTheta = 10000;
  constexpr int64_t kPositions = 1024;
  ModelConfig model = setup_.model_of("attention", 1);
  model.resolve();
  const int64_t d = model.head_dim / 2 * 2, heads = model.heads, row = heads * d, R = rows(row);
  if (d == 0) return;
  const std::string shape = fmt::format("{} x {} x {}", R, heads, d);
  Buffer<float> x = uniform(R * row, 1), cosines(static_cast<size_t>(kPositions * d / 2)),
                sines(cosines.size());
  const Tensor cos(cosines.data(), {kPositions, d / 2}), sin(sines.data(), {kPositions, d / 2});
  const std::vector<double> frequencies = kernels::rope_frequencies(kTheta, d);
  kernels::rope_table(frequencies, cos, sin);
  const kernels::RopeTable table{cos, sin, frequencies};
  std::vector<int32_t> positions(static_cast<size_t>(R));
  for (size_t i = 0; i < positions.size(); ++i)
    positions[i] = static_cast<int32_t>(i % static_cast<size_t>(kPositions));
  const auto apply = [&](bool inverse) {
    kernels::rope_apply({x.data(), R, row}, positions, table, kernels::RopePairing::kHalf, inverse);
  };
  for (const bool inverse : {false, true}) {
    std::vector<std::vector<double>> want;  // first heads of some rows
    sample(R, kRows, [&](int64_t i) {
      want.emplace_back(x.data() + i * row, x.data() + i * row + d);
      const double position = positions[static_cast<size_t>(i)];
      kernels::rope_ref(want.back().data(), d, kTheta, inverse ? -position : position,
                        kernels::RopePairing::kHalf);
    });
    apply(inverse);
    setup_.planted.in_output(x.span());
    Check check;
    size_t at = 0;
    sample(R, kRows, [&](int64_t i) {
      for (int64_t c = 0; c < d; ++c)
        near(check, "rope", i, static_cast<double>(x[static_cast<size_t>(i * row + c)]),
             want[at][static_cast<size_t>(c)]);
      ++at;
    });
    time(inverse ? "rope, backward" : "rope, forward", shape, 2 * R * row, check,
         [&] { apply(inverse); });
  }
}

void Kernels::cross_entropy() {
  const int64_t V = kVocabulary, R = rows(V);
  const std::string shape = fmt::format("{} x {}", R, V);
  Buffer<float> x = uniform(R * V, 1);
  for (float& value : x.span()) value *= 4;
  const std::vector<int32_t> targets = random_tokens(R, V, 2);
  std::vector<float> losses(targets.size());
  const Tensor logits(x.data(), {R, V}), tlosses(losses.data(), {R});
  std::vector<std::vector<double>> log_p;
  sample(R, kRows, [&](int64_t i) {
    log_p.emplace_back(logits.row(i), logits.row(i) + V);
    const TensorOf<double> row(log_p.back().data(), {1, V});
    kernels::log_softmax_ref(row, row);
  });
  const auto check_losses = [&](Check& check) {
    size_t at = 0;
    sample(R, kRows, [&](int64_t i) {
      const auto row = static_cast<size_t>(i);
      near(check, "loss", i, static_cast<double>(losses[row]),
           -log_p[at++][static_cast<size_t>(targets[row])]);
    });
  };
  const Work forward = [&] { kernels::cross_entropy_forward(logits, targets, tlosses); };
  const Work both = [&] { kernels::softmax_cross_entropy(logits, targets, 1, 0, tlosses); };
  Check check, gradient;
  forward();
  setup_.planted.in_output(losses);
  check_losses(check);
  time("cross_entropy, forward", shape, R * V, check, forward);
  both();  // the logits become their gradients
  setup_.planted.in_output(logits);
  check_losses(gradient);
  size_t at = 0;
  sample(R, kRows, [&](int64_t i) {
    for (int64_t c = 0; c < V; ++c) {
      const double p = std::exp(log_p[at][static_cast<size_t>(c)]);
      const bool target = c == targets[static_cast<size_t>(i)];
      near(gradient, "gradient", i, static_cast<double>(logits.row(i)[c]), p - (target ? 1 : 0));
    }
    ++at;
  });
  time("cross_entropy, with backward", shape, 2 * R * V, gradient, both);
}

void Kernels::adamw() {
  const int64_t n = setup_.stream_floats;
  const std::string shape = fmt::format("{} parameters", n);
  Buffer<float> params = uniform(n, 1), m = uniform(n, 2), v = uniform(n, 3);
  const Buffer<float> grads = uniform(n, 4);
  for (float& value : v.span()) value = std::abs(value);
  const kernels::AdamwStep step{.step = 10,
                                .learning_rate = 1e-3,
                                .beta1 = 0.9,
                                .beta2 = 0.95,
                                .eps = 1e-8,
                                .weight_decay = 0.1};
  struct Parameter {
    double param, m, v;
  };
  std::vector<Parameter> want;
  sample(n, 100, [&](int64_t i) {
    const auto at = static_cast<size_t>(i);
    Parameter& p = want.emplace_back(Parameter{params[at], m[at], v[at]});
    kernels::adamw_ref(p.param, static_cast<double>(grads[at]), p.m, p.v, step);
  });
  const Work work = [&] {
    kernels::adamw_step(params.span(), grads.span(), m.span(), v.span(), step);
  };
  work();
  for (const auto made : {params.span(), m.span(), v.span()}) setup_.planted.in_output(made);
  Check check, norm;
  size_t at = 0;
  sample(n, 100, [&](int64_t i) {
    const auto k = static_cast<size_t>(i);
    near(check, "parameter", i, static_cast<double>(params[k]), want[at].param);
    near(check, "first moment", i, static_cast<double>(m[k]), want[at].m);
    near(check, "second moment", i, static_cast<double>(v[k]), want[at++].v);
  });
  time("adamw", shape, 7 * n, check, work);
  double sum = 0, got = 0;
  for (const float g : grads.span()) sum += static_cast<double>(g) * static_cast<double>(g);
  const Work squares = [&] { got = kernels::sum_of_squares(grads.span()); };
  squares();
  float planted = 1;  // a factor
  setup_.planted.in_output({&planted, 1});
  norm.near("sum of squares", got * static_cast<double>(planted), sum, kTolerance * sum);
  time("sum_of_squares", shape, n, norm, squares);
}

}  // namespace

void time_kernels(const Setup& setup, Report& report) {
  Kernels kernels(setup, report);
  kernels.rms_norm();
  kernels.swiglu();
  kernels.rope();
  kernels.cross_entropy();
  kernels.adamw();
  report.end_section();
}

}  // namespace refrain::bench
