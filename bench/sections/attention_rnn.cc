// Attention as a recurrence: how far its forms are from the formula, from which scores on the
// published one, which starts from m = 0, gives no number; bytes of state and time of a token.
#include <cmath>
#include <limits>

#include "bench/sections/sections.h"
#include "refrain/base/random.h"
#include "refrain/mixers/attention_rnn/kernel_ref.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/workspace.h"

namespace refrain::bench {
namespace {

constexpr int64_t kWidth = 3;  // of the values, as published
constexpr int64_t kCompared = 200;

// Standard normal scores, shifted, and values.
template <class T>
struct Sequence {
  Sequence(int64_t tokens, double shift) : N(tokens) {
    Random random(1);
    for (int64_t t = 0; t < N; ++t) {
      s.push_back(static_cast<T>(static_cast<float>(random.normal() + shift)));
      for (int64_t j = 0; j < kWidth; ++j)
        v.push_back(static_cast<T>(static_cast<float>(random.normal())));
    }
  }
  T value(int64_t t, int64_t j) const { return v[static_cast<size_t>(t * kWidth + j)]; }

  int64_t N;
  std::vector<T> s, v;
};

// Outputs [N, kWidth] of a form; of the parallel one only the rows that are compared.
template <class T>
using Outputs = std::vector<T>;

// o[k] by the formula: a softmax over the scores up to its own.
template <class T>
Outputs<T> parallel(const Sequence<T>& in) {
  Outputs<T> o(in.v.size());
  sample(in.N, kCompared, [&](int64_t k) {
    T top = in.s[0], sum = 0;
    for (int64_t i = 0; i <= k; ++i) top = std::max(top, in.s[static_cast<size_t>(i)]);
    for (int64_t i = 0; i <= k; ++i) {
      const T p = std::exp(in.s[static_cast<size_t>(i)] - top);
      sum += p;
      for (int64_t j = 0; j < kWidth; ++j)
        o[static_cast<size_t>(k * kWidth + j)] += p * in.value(i, j);
    }
    for (int64_t j = 0; j < kWidth; ++j) o[static_cast<size_t>(k * kWidth + j)] /= sum;
  });
  return o;
}

// Token by token. `from`: the maximum before the first: -inf, or the published 0.
template <class T>
Outputs<T> iterative(const Sequence<T>& in, T from) {
  Outputs<T> o(in.v.size());
  T m = from, c = 0, a[kWidth] = {};
  for (int64_t t = 0; t < in.N; ++t) {
    const T s = in.s[static_cast<size_t>(t)], top = std::max(m, s);
    const T keep = std::exp(m - top), share = std::exp(s - top);
    c = c * keep + share;
    for (int64_t j = 0; j < kWidth; ++j) {
      a[j] = a[j] * keep + share * in.value(t, j);
      o[static_cast<size_t>(t * kWidth + j)] = a[j] / c;
    }
    m = top;
  }
  return o;
}

template <class T>
Outputs<T> scan(const Sequence<T>& in) {
  Outputs<T> o;
  for (const auto& state : kernels::prefix_scan_ref<T>(kWidth, in.N, in.s.data(), in.v.data()))
    for (const T& a : state.a) o.push_back(a / state.c);
  return o;
}

// What trains and generates: blocks of 64 tokens, float32.
Outputs<float> blocks(const Sequence<float>& in) {
  const kernels::ScanShape shape{1, kWidth};
  const int64_t N = in.N, blocks = kernels::scan_blocks(0, N);
  Outputs<float> s = in.s, v = in.v, o(v.size()), keep(s.size()), share(s.size()),
                 carries(static_cast<size_t>(blocks * shape.state_size()));
  const kernels::ScanRows rows{
      {s.data(), {N, 1}},      {v.data(), {N, kWidth}},
      {o.data(), {N, kWidth}}, {keep.data(), {N, 1}},
      {share.data(), {N, 1}},  {carries.data(), {blocks, shape.state_size()}}};
  const kernels::ScanChunk chunk{0, N, 0};
  Workspace().run({}, [&](ExecutionContext& ctx, Arena&) {
    kernels::attention_scan_forward(shape, {&chunk, 1}, rows, ctx.scratch);
  });
  return o;
}

// Of the compared rows, against the formula in more than float64.
struct Errors {
  double mean = 0, relative = 0, largest = 0;
};
template <class T>
Errors errors(const Outputs<T>& got, const Outputs<long double>& want, int64_t N) {
  Errors e;
  int64_t n = 0;
  sample(N, kCompared, [&](int64_t k) {
    for (size_t i = static_cast<size_t>(k * kWidth); i < static_cast<size_t>((k + 1) * kWidth);
         ++i, ++n) {
      const auto error = static_cast<double>(std::abs(static_cast<long double>(got[i]) - want[i]));
      e.mean += error;
      e.relative += error / static_cast<double>(std::abs(want[i]));
      if (!(error <= e.largest)) e.largest = error;
    }
  });
  e.mean /= static_cast<double>(n);
  e.relative /= static_cast<double>(n);
  return e;
}

class Forms {
 public:
  Forms(const Setup& setup, Report& report, int64_t tokens, double shift)
      : setup_(setup),
        report_(report),
        N_(tokens),
        shift_(shift),
        want_(parallel(Sequence<long double>(tokens, shift))) {}

  // A form that must be right.
  template <class T, class F>
  void add(const std::string& name, double allowed, F&& form) {
    const Sequence<T> in(N_, shift_);
    Check check;
    const Errors e = run<T>(form, in, allowed, check);
    add_row(name, type_name<T>(), e, check, [&] { form(in); });
  }
  // The form that starts from m = 0: no number, once e^s is 0 for all scores so far. It is only
  // shown beside one that is right.
  template <class T>
  void add_from_zero(double allowed) {
    const Sequence<T> in(N_, shift_);
    constexpr T kNothing = -std::numeric_limits<T>::infinity();
    Check check;
    run<T>([&](const Sequence<T>& x) { return iterative<T>(x, kNothing); }, in, allowed, check);
    const Errors e = errors<T>(iterative<T>(in, 0), want_, N_);
    const bool no_number = std::isnan(e.largest);
    check.that("starting from m = 0 gives the formula or no number",
               no_number || e.largest <= allowed);
    add_row(no_number ? "iterative from m = 0: NaN" : "iterative from m = 0", type_name<T>(), e,
            check, [&] { iterative<T>(in, 0); });
  }

 private:
  template <class T>
  static std::string type_name() {
    return std::is_same_v<T, float> ? "float32" : "float64";
  }
  template <class T, class F>
  Errors run(F&& form, const Sequence<T>& in, double allowed, Check& check) const {
    Outputs<T> o = form(in);
    float planted = 1;  // a factor
    setup_.planted.in_output({&planted, 1});
    for (T& value : o) value *= static_cast<T>(planted);
    const Errors e = errors<T>(o, want_, N_);
    check.near("largest error", e.largest, 0, allowed);
    return e;
  }
  void add_row(const std::string& name, const std::string& type, const Errors& e,
               const Check& check, const Work& work) {
    Row row{.section = "attention-rnn",
            .name = name,
            .shape = fmt::format("{}, {} tokens{}", type, N_,
                                 shift_ == 0 ? "" : fmt::format(", scores {:+}", shift_))};
    if (check.passed()) {
      row.timing = time_of(setup_.repetitions, work);
      row.rate = static_cast<double>(N_) / row.timing.median / 1e6;
      row.unit = "M tokens/s";
      row.mean_error = e.mean;
      row.largest_error = e.largest;
      row.relative_error = e.relative;
    }
    report_.add(row, check);
  }

  const Setup& setup_;
  Report& report_;
  int64_t N_;
  double shift_;
  Outputs<long double> want_;
};

// Float32 loses a rounding per step of a mean that stays below some units; scores near 1e4 are
// themselves rounded to 5e-4 alike in all forms.
constexpr double kFloat32 = 2e-5, kFloat64 = 1e-13;

void time_forms(const Setup& setup, Report& report, int64_t tokens, double shift) {
  Forms forms(setup, report, tokens, shift);
  const auto both = [&]<class T>(T, double allowed) {
    forms.add<T>("parallel", allowed, [](const Sequence<T>& in) { return parallel<T>(in); });
    forms.add<T>("iterative", allowed, [](const Sequence<T>& in) {
      return iterative<T>(in, -std::numeric_limits<T>::infinity());
    });
    forms.add<T>("scan", allowed, [](const Sequence<T>& in) { return scan<T>(in); });
  };
  both(float(), kFloat32);
  forms.add<float>("scan in blocks, what runs", kFloat32,
                   [](const Sequence<float>& in) { return blocks(in); });
  both(double(), kFloat64);
  if (shift == 0) return;
  forms.add_from_zero<float>(kFloat32);
  forms.add_from_zero<double>(kFloat64);
}

// A mixer that has read some tokens of one sequence.
class Reader {
 public:
  Reader(const Setup& setup, const std::string& kind, int64_t capacity) : setup_(setup) {
    ModelConfig config = setup.model_of(kind, std::max<int64_t>(1, capacity));
    config.resolve();
    D_ = config.d_model;
    mixer_ = make_mixer(config.mixers[0], config.mixer_dims());
    uint64_t key = 10;
    mixer_->visit([&](const ParamSpec& spec, Param& p) {
      weights_.push_back(uniform(spec.size(), ++key));
      for (float& w : weights_.back().span()) w *= 1.7f / std::sqrt(static_cast<float>(D_));
      p.w.rank = static_cast<int>(spec.shape.size());
      std::copy(spec.shape.begin(), spec.shape.end(), p.w.dim.begin());
      p.w.data = weights_.back().data();
    });
    state_ = Buffer<float>(mixer_->state_bytes(capacity) / sizeof(float) + 1);
    row_ = reinterpret_cast<std::byte*>(state_.data());
  }

  size_t state_bytes(int64_t tokens) const { return mixer_->state_bytes(tokens); }

  // Tokens from `past` on; their outputs.
  std::vector<float> read(const Buffer<float>& x, int64_t past, int64_t tokens, bool with_state) {
    std::vector<float> y(static_cast<size_t>(tokens * D_));
    const RaggedBatch batch = data_.set(std::vector<int32_t>{0, static_cast<int32_t>(tokens)},
                                        std::vector<int32_t>{static_cast<int32_t>(past)});
    const State state{{&row_, 1}};
    workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
      mixer_->forward(ctx, batch, {x.data(), {tokens, D_}}, {y.data(), {tokens, D_}},
                      with_state ? &state : nullptr, nullptr);
    });
    return y;
  }

  // The last of some tokens, one after another, against all at once.
  Check check() {
    constexpr int64_t kTokens = 40;
    const Buffer<float> x = uniform(kTokens * D_, 3);
    const std::vector<float> whole = read(x, 0, kTokens, false);
    std::vector<float> last;
    for (int64_t t = 0; t < kTokens; ++t) {
      Buffer<float> token(static_cast<size_t>(D_));
      std::copy_n(x.data() + t * D_, D_, token.data());
      last = read(token, t, 1, true);
    }
    setup_.planted.in_output(last);
    Check check;
    double largest = 0;
    for (const float v : last) largest = std::max(largest, std::abs(static_cast<double>(v)));
    for (int64_t j = 0; j < D_; ++j)
      check.near(
          fmt::format("output {} of a step", j), static_cast<double>(last[static_cast<size_t>(j)]),
          static_cast<double>(whole[whole.size() - static_cast<size_t>(D_ - j)]), 1e-4 * largest);
    return check;
  }

  void time(Report& report, const std::string& name, int64_t tokens, const Check& check) {
    constexpr int64_t kSteps = 20;
    const Buffer<float> x = uniform(D_, 4);
    Row row{.section = "attention-rnn",
            .name = name + ": a token",
            .shape = fmt::format("after {} tokens, {} wide", tokens, D_)};
    row.state_bytes = state_bytes(tokens);
    if (check.passed()) {
      row.timing = time_of(setup_.repetitions, [&] {
                     for (int64_t i = 0; i < kSteps; ++i) read(x, tokens, 1, true);
                   }).per(kSteps);
      row.rate = 1 / row.timing.median;
      row.unit = "tokens/s";
    }
    report.add(row, check);
  }

 private:
  const Setup& setup_;
  int64_t D_ = 0;
  std::unique_ptr<Mixer> mixer_;
  std::vector<Buffer<float>> weights_;
  Buffer<float> state_;
  std::byte* row_ = nullptr;
  RaggedBatchBuilder data_;
  Workspace workspace_;
};

}  // namespace

void time_attention_rnn(const Setup& setup, Report& report) {
  const int64_t kTokens[] = {100, 1000, 10'000, 65'536};
  for (const int64_t tokens : kTokens) time_forms(setup, report, tokens, 0);
  // e^s is 0 in float32 below -104, and in float64 below -745; above 89 and 709 it is infinite.
  for (const double shift : {-120.0, -1000.0, 1000.0}) time_forms(setup, report, 100, shift);
  for (const std::string kind : {"attention_rnn", "attention"}) {
    const Check check = Reader(setup, kind, 40).check();
    for (const int64_t tokens : kTokens)
      Reader(setup, kind, tokens + 1).time(report, kind, tokens, check);
  }
  report.end_section();
}

}  // namespace refrain::bench
