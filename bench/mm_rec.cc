// The tables of `mm_rec` on its published shapes: D 1024, two layers, 8 heads, vocabulary 1000,
// batch 1, a GELU feed-forward of 4 D; T = 128 to 32,768.
//
//   bench_mm_rec [threads [repetitions [longest [width [longest_before]]]]]
//
// prints Markdown tables. Each row runs in a process of its own, whose peak memory it tells; the
// memory of activations is that of its plan. "Before" makes every product of the mixer a token at a
// time, each projection by itself, with its weights packed once; gradients by inputs are still
// whole products, which flatters it. Rows of the same length must have the same loss: nothing is
// timed that gives other numbers.
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "refrain/base/parallel.h"
#include "refrain/base/random.h"
#include "refrain/kernels/gemm.h"
#include "refrain/model/language_model.h"
#include "refrain/model/workspace.h"
#include "support.h"

namespace {

using namespace refrain;

constexpr int64_t kVocabulary = 1000;

struct Setup {
  int threads = 2, repetitions = 3;
  int64_t longest = 32768, width = 1024;
  int64_t longest_before = 2048;  // beyond it, minutes a step
};

struct Row {
  std::string name;
  bool hoisted = true;
  Recompute recompute{};
};

std::vector<int32_t> random_tokens(int64_t n) {
  Random random(2);
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int32_t& t : tokens) t = static_cast<int32_t>(random.below(kVocabulary));
  return tokens;
}

// Forward and backward of one sequence of T tokens.
class Step {
 public:
  Step(const Setup& setup, int64_t T, const Row& row)
      : model_(config(setup, T), settings(row)), row_(row), T_(T) {
    window_ = data_.whole(1, T);
    losses_.resize(static_cast<size_t>(T));
    tokens_ = random_tokens(T + 1);
  }

  void initialise() {
    model_.initialise(1);
    model_.allocate_gradients();
  }

  // The sum of the losses.
  double run() {
    model_.clear_gradients();
    workspace_.run({}, [&](Context& ctx, Arena& saved) { train(ctx, saved); });
    model_.finish_gradients();
    double sum = 0;
    for (const float loss : losses_) sum += static_cast<double>(loss);
    return sum;
  }

  double activation_mebibytes() {
    Arena scratch, saved;
    Context dry{scratch};
    train(dry, saved);
    return static_cast<double>(scratch.peak() + saved.peak()) / (1024 * 1024);
  }

 private:
  void train(Context& ctx, Arena& saved) {
    const auto n = static_cast<size_t>(T_);
    model_.train(ctx, window_,
                 {.tokens = std::span(tokens_).first(n),
                  .targets = std::span(tokens_).subspan(1, n),
                  .recompute = row_.recompute},
                 {losses_.data(), {T_}}, saved);
  }
  static ModelConfig config(const Setup& setup, int64_t T) {
    ModelConfig config;
    config.vocab_size = kVocabulary;
    config.d_model = setup.width;
    config.layers = 2;
    config.heads = 8;
    config.context = T;
    config.pattern = "mm_rec";
    config.feed_forward = "gelu";
    return config;
  }
  static Options settings(const Row& row) {
    const char* on = row.hoisted ? "true" : "false";
    return Options(
        std::map<std::string, std::string>{{"mm_rec.hoisted", on}, {"mm_rec.fused", on}});
  }

  LanguageModel model_;
  Row row_;
  int64_t T_;
  WindowData data_;
  Window window_;
  Workspace workspace_;
  std::vector<int32_t> tokens_;
  std::vector<float> losses_;
};

double loss_of(const Setup& setup, int64_t T, const Row& row) {
  return bench::in_child([&] {
           set_threads(setup.threads);
           Step step(setup, T, row);
           step.initialise();
           return step.run();
         })
      .value;
}

// Seconds of a step, which must have the loss that is expected.
bench::Measured timed(const Setup& setup, int64_t T, const Row& row, double want) {
  return bench::in_child([&] {
    set_threads(setup.threads);
    Step step(setup, T, row);
    step.initialise();
    if (const double loss = step.run(); !(std::abs(loss - want) <= 1e-6 * want)) {
      std::fprintf(stderr, "%s, T %lld: loss %.9g, expected %.9g: refused\n", row.name.c_str(),
                   static_cast<long long>(T), loss, want);
      std::exit(1);
    }
    std::vector<double> all;
    for (int i = 0; i < setup.repetitions; ++i) all.push_back(bench::seconds([&] { step.run(); }));
    return bench::median(std::move(all));
  });
}

void print_steps(const Setup& setup) {
  std::printf("| T | seconds a step, before | after | ratio | peak memory, MiB |\n");
  std::printf("|---:|---:|---:|---:|---:|\n");
  for (int64_t T = 128; T <= setup.longest; T *= T == 128 ? 4 : 2) {
    const double want = loss_of(setup, T, {"after"});
    const bench::Measured after = timed(setup, T, {"after"}, want);
    std::printf("| %lld |", static_cast<long long>(T));
    if (T <= setup.longest_before) {
      const double before = timed(setup, T, {"before", false}, want).value;
      std::printf(" %.3f | %.3f | %.1f |", before, after.value, before / after.value);
    } else {
      std::printf(" - | %.3f | - |", after.value);
    }
    std::printf(" %.0f |\n", after.peak_mebibytes);
  }
}

void print_recomputation(const Setup& setup) {
  const int64_t T = std::min<int64_t>(setup.longest, 2048);
  constexpr int64_t kAll = Recompute::kAllBlocks;
  const std::vector<Row> rows = {
      {.name = "nothing"},
      {.name = "inside of the decay", .recompute = {.gates = true}},
      {.name = "attention over the memory", .recompute = {.memory_attention = true}},
      {.name = "feed-forward", .recompute = {.feed_forwards = true}},
      {.name = "decay, attention and feed-forward",
       .recompute = {.feed_forwards = true, .gates = true, .memory_attention = true}},
      {.name = "mixers but for h every 64 tokens", .recompute = {.keep_every = 64}},
      {.name = "the same, inside of the decay and feed-forward",
       .recompute = {.feed_forwards = true, .keep_every = 64, .gates = true}},
      {.name = "blocks", .recompute = {.blocks = kAll}},
      {.name = "blocks, and inside of the decay", .recompute = {.blocks = kAll, .gates = true}},
  };
  std::printf("\n| recomputed, T %lld | activations, MiB | peak, MiB | seconds a step |\n",
              static_cast<long long>(T));
  std::printf("|---|---:|---:|---:|\n");
  const double want = loss_of(setup, T, rows[0]);
  double first_memory = 0, first_seconds = 0;
  for (const Row& row : rows) {
    const double memory = Step(setup, T, row).activation_mebibytes();
    const bench::Measured step = timed(setup, T, row, want);
    if (first_memory == 0) {
      first_memory = memory;
      first_seconds = step.value;
    }
    std::printf("| %s | %.0f (%+.0f %%) | %.0f | %.3f (%+.0f %%) |\n", row.name.c_str(), memory,
                100 * (memory / first_memory - 1), step.peak_mebibytes, step.value,
                100 * (step.value / first_seconds - 1));
  }
  const Row& least = rows[6];
  const double memory = Step(setup, 2 * T, least).activation_mebibytes();
  const bench::Measured step = timed(setup, 2 * T, least, loss_of(setup, 2 * T, rows[0]));
  std::printf("| T %lld: %s | %.0f (%+.0f %%) | %.0f | %.3f |\n", static_cast<long long>(2 * T),
              "mixers but for h every 64 tokens, inside of the decay, feed-forward", memory,
              100 * (memory / first_memory - 1), step.peak_mebibytes, step.value);
}

// [q k v z] of T tokens: one product, and four for each token, both of packed weights.
void print_projections(const Setup& setup) {
  const int64_t D = setup.width, T = std::min<int64_t>(setup.longest, 2048);
  std::vector<float> x(static_cast<size_t>(T * D)), w(static_cast<size_t>(4 * D * D));
  std::vector<float> packed(static_cast<size_t>(4 * kernels::packed_size(D, D)));
  std::vector<float> once(static_cast<size_t>(T * 4 * D)), steps(once.size());
  Random random(1);
  for (auto* all : {&x, &w})
    for (float& v : *all) v = static_cast<float>(random.normal());
  for (int64_t part = 0; part < 4; ++part)
    kernels::pack_weight({w.data() + part * D * D, {D, D}},
                         packed.data() + part * kernels::packed_size(D, D));
  std::vector<std::byte> memory(size_t{64} << 20);
  const auto product = [&](int64_t row, int64_t rows, int64_t part, int64_t columns,
                           const float* from, std::vector<float>& to) {
    Arena scratch(memory.data(), memory.size());
    kernels::gemm({x.data() + row * D, D, 1}, {w.data() + part * D * D, 1, D},
                  to.data() + row * 4 * D + part * D, 4 * D, rows, columns, D, false, scratch,
                  from);
  };
  const auto fused = [&] { product(0, T, 0, 4 * D, nullptr, once); };
  const auto stepped = [&] {
    for (int64_t row = 0; row < T; ++row)
      for (int64_t part = 0; part < 4; ++part)
        product(row, 1, part, D, packed.data() + part * kernels::packed_size(D, D), steps);
  };
  fused();
  stepped();
  if (once != steps) {
    std::fprintf(stderr, "projections: the forms differ: refused\n");
    std::exit(1);
  }
  const double a = bench::median_seconds(setup.repetitions, fused);
  const double b = bench::median_seconds(setup.repetitions, stepped);
  std::printf("\n| projections of %lld tokens | seconds |\n|---|---:|\n",
              static_cast<long long>(T));
  std::printf("| four products a token | %.4f |\n| one product | %.4f |\n| ratio | %.1f |\n", b, a,
              b / a);
}

}  // namespace

int main(int argc, char** argv) {
  Setup setup;
  const auto argument = [&](int i, auto& to) {
    if (argc > i) to = static_cast<std::remove_reference_t<decltype(to)>>(std::atoll(argv[i]));
  };
  argument(1, setup.threads);
  argument(2, setup.repetitions);
  argument(3, setup.longest);
  argument(4, setup.width);
  argument(5, setup.longest_before);
  set_threads(setup.threads);
  print_steps(setup);
  print_recomputation(setup);
  print_projections(setup);
  return 0;
}
