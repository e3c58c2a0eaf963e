// A transformer by hand: the functions that it approximates, one pass over all positions instead of
// one per prefix, generation with a cache of keys and values, threads. The model has 4 blocks, 128
// wide, 4 heads, on characters.
#include <cmath>
#include <numeric>

#include "bench/reports/language_model_pass.h"
#include "bench/reports/reports.h"
#include "bench/sections/generation_run.h"
#include "refrain/base/parallel.h"
#include "refrain/base/thread_pool.h"
#include "refrain/kernels/elementwise/activation_ref.h"

namespace refrain::bench {
namespace {

using kernels::Activation;

ModelConfig small_transformer(const ReportSetup& setup, int64_t context) {
  ModelConfig config;
  config.vocab_size = 65;
  config.d_model = setup.by_size(128, 128, 32);
  config.layers = setup.by_size(4, 4, 2);
  config.heads = setup.by_size(4, 4, 2);
  config.context = context;
  return config;
}

// The published approximation of tanh.
float pade_tanh(float x) {
  if (x > 3) return 1;
  if (x < -3) return -1;
  return x * (27 + x * x) / (27 + 9 * x * x);
}

struct FunctionRow {
  const char* name;
  std::function<void(ConstTensor x, Tensor y)> run;
  std::function<double(double)> exact;
  double least, most;  // what its largest error may be
  const char* published;
};

// Errors over [-10, 10], against float64.
void functions(const ReportSetup& setup, Tables& tables) {
  const int64_t n = setup.by_size(1 << 20, 1 << 18, 1 << 10);
  Buffer<float> x = uniform(n, 1), y(x.size());
  for (float& v : x.span()) v *= 10;
  const auto kernel = [](Activation f) {
    return [f](ConstTensor from, Tensor to) { kernels::activation_forward(f, from, to); };
  };
  const auto exact = [](Activation f) {
    return [f](double v) { return kernels::activation_ref(f, v); };
  };
  const auto scalar = [](float (*f)(float)) {
    return [f](ConstTensor from, Tensor to) {
      parallel_ranges(from.size(), 1 << 14, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) to.data[i] = f(from.data[i]);
      });
    };
  };
  const auto tanh_exact = [](double v) { return std::tanh(v); };
  const std::vector<FunctionRow> rows = {
      {"tanh, the C library, one by one", scalar([](float v) { return std::tanh(v); }), tanh_exact,
       0, 1e-6, "-"},
      {"tanh, x (27 + x^2) / (27 + 9 x^2), one by one", scalar(pade_tanh), tanh_exact, 0.0230,
       0.0240, "error 0.001: wrong, it is 0.0235"},
      {"tanh", kernel(Activation::kTanh), tanh_exact, 0, 1e-6, "-"},
      {"sigmoid", kernel(Activation::kSigmoid), exact(Activation::kSigmoid), 0, 1e-6, "-"},
      {"silu", kernel(Activation::kSilu), exact(Activation::kSilu), 0, 4e-6, "-"},
      {"gelu", kernel(Activation::kGelu), exact(Activation::kGelu), 0, 4e-6, "-"},
  };
  tables.begin(fmt::format("Functions of {} numbers in [-10, 10]", n),
               {"largest error", "at", "nanoseconds a number", "published"});
  for (const FunctionRow& row : rows) {
    const auto run = [&] { row.run({x.data(), {n}}, {y.data(), {n}}); };
    run();
    setup.planted.in_output(y.span());
    double largest = 0, at = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double off = std::abs(static_cast<double>(y[i]) - row.exact(static_cast<double>(x[i])));
      if (off <= largest) continue;
      largest = std::isnan(off) ? INFINITY : off;
      at = static_cast<double>(x[i]);
    }
    Check check;
    check.near("its largest error", largest, (row.least + row.most) / 2,
               (row.most - row.least) / 2);
    Timing timing;
    if (check.passed()) timing = time_of(setup.repetitions, run);
    tables.add(row.name, check, {largest, at, 1e9 * timing.per(n).median, row.published});
  }
}

// The last token's loss of every prefix of a window is the window's loss there.
class Prefixes {
 public:
  Prefixes(const ReportSetup& setup, int64_t window)
      : model_(setup.planted.in_model(small_transformer(setup, window))),
        tokens_(random_tokens(window + 1, 65, 2)),
        losses_(static_cast<size_t>(window)),
        right_(setup.planted.model ? spread_model(small_transformer(setup, window)) : nullptr) {
    model_.initialise(1);
    spread_weights(model_);
    model_.allocate_gradients();
  }

  Check check(const Planted& planted) {
    const size_t n = losses_.size();
    StepCheck step(right_ ? *right_ : model_, std::span(tokens_).first(n),
                   std::span(tokens_).subspan(1, n));
    planted.in_weights(model_.parameters().weights());
    Check check = step.check(model_, {}, planted);
    whole();
    std::vector<float> want = losses_;
    planted.in_output(want);
    one_by_one();
    for (size_t i = 0; i < n; ++i)
      check.near(fmt::format("loss of token {}", i), static_cast<double>(losses_[i]),
                 static_cast<double>(want[i]), 1e-4 * std::max(1.0f, want[i]));
    return check;
  }

  void whole() { pass(std::ssize(losses_), losses_); }
  void one_by_one() {
    for (int64_t n = 1; n <= std::ssize(losses_); ++n) {
      std::vector<float> all(static_cast<size_t>(n));
      pass(n, all);
      losses_[static_cast<size_t>(n - 1)] = all.back();
    }
  }

 private:
  void pass(int64_t n, std::vector<float>& losses) {
    const RaggedBatch batch = data_.whole(1, n);
    const auto count = static_cast<size_t>(n);
    model_.clear_gradients();
    workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      model_.train(ctx, batch,
                   {std::span(tokens_).first(count), std::span(tokens_).subspan(1, count)}, {},
                   {losses.data(), {n}}, saved);
    });
    model_.finish_gradients();
  }

  LanguageModel model_;
  std::vector<int32_t> tokens_;
  std::vector<float> losses_;
  std::unique_ptr<LanguageModel> right_;
  RaggedBatchBuilder data_;
  Workspace workspace_;
};

void positions(const ReportSetup& setup, Tables& tables) {
  const int64_t window = setup.by_size(64, 64, 24);
  Prefixes run(setup, window);
  const Check check = run.check(setup.planted);
  std::vector<Timing> timings(2);
  if (check.passed())
    timings = time_in_turns(setup.repetitions, {[&] { run.one_by_one(); }, [&] { run.whole(); }});
  const double ones = timings[0].median, whole = timings[1].median;
  tables.begin(fmt::format("Forward and backward of a window of {} tokens", window),
               {"seconds", "times as fast"});
  tables.add("a pass for every prefix", check, {ones, 1.0});
  tables.add("one pass over all positions", check, {whole, ones / whole});
}

void cache(const ReportSetup& setup, Tables& tables) {
  const Setup shape = setup.generating(setup.by_size(100, 100, 3));
  GenerationRun run(shape, small_transformer(setup, setup.by_size(256, 256, 30)),
                    Storage::kFloat32);
  const Check check = run.check();
  std::vector<Timing> timings(3);
  if (check.passed())
    timings = time_in_turns(
        setup.repetitions,
        {[&] { run.read_again(); }, [&] { run.read_prompt(); }, [&] { run.read_tokens(); }});
  const double again = timings[0].median, cached = timings[1].median + timings[2].median;
  tables.begin(fmt::format("{} tokens after {}", run.new_tokens(), run.prompt()),
               {"seconds", "times as fast", "cache, bytes"});
  tables.add("the text read again for every token", check, {again, 1.0, nullptr});
  tables.add("with a cache of keys and values", check,
             {cached, again / cached, static_cast<int64_t>(run.state_bytes())});
}

// The losses of all numbers of threads are the same bits.
void thread_counts(const ReportSetup& setup, Tables& tables) {
  const int64_t tokens = setup.by_size(256, 256, 24), batch = setup.by_size(16, 4, 2);
  tables.begin(fmt::format("Forward and backward of {} x {} tokens", batch, tokens),
               {"seconds", "times as fast", "tokens/s"});
  Agreement losses(0);
  double first = 0;
  std::vector<int> counts = {1};
  if (threads() > 1) counts.push_back(threads());
  for (const int count : counts) {
    ThreadPool pool(count);
    const ThreadPool::Scope scope(pool);
    LanguageModelPass pass(small_transformer(setup, tokens),
                           {.sequences = batch, .tokens = tokens, .batch = batch}, setup.planted);
    const Check check = pass.check(losses);
    Timing timing;
    if (check.passed()) timing = time_of(setup.repetitions, [&] { pass.run(); });
    if (first == 0) first = timing.median;
    tables.add(
        fmt::format("{} thread{}", count, count == 1 ? "" : "s"), check,
        {timing.median, first / timing.median, static_cast<double>(pass.tokens()) / timing.median});
  }
  tables.remark("Losses are the same to the bit.");
}

}  // namespace

void report_transformer(const ReportSetup& setup, Tables& tables) {
  functions(setup, tables);
  positions(setup, tables);
  cache(setup, tables);
  thread_counts(setup, tables);
}

}  // namespace refrain::bench
