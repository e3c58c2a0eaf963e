// The tables of `mm_rec` on its published shapes: D 1024, two layers, 8 heads, vocabulary 1000,
// batch 1, a GELU feed-forward of 4 D; T = 128 to 32,768.
//
//   bench_mm_rec [threads [repetitions [longest [width [longest_before]]]]]
//
// prints Markdown tables. Each row runs in a process of its own, whose peak memory it tells; the
// memory of activations is that of its plan. "Before" makes every product of the mixer a token at a
// time, each projection by itself, with its weights packed once; gradients by inputs are still
// whole products, which flatters it. Every row is held to the plain model in float64 over its first
// tokens, losses and gradients, and each token's loss to that of the first row of its length: what
// gives other numbers is not timed.
#include "refrain/mixers/mm_rec/mm_rec.h"

#include <map>
#include <string>
#include <vector>

#include "bench/checks/model_check.h"
#include "refrain/base/random.h"
#include "refrain/base/thread_pool.h"
#include "refrain/kernels/matmul/gemm.h"
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
  std::string plant;
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
      : model_(config(setup, T, row)), row_(row), T_(T) {
    batch_ = data_.whole(1, T);
    losses_.resize(static_cast<size_t>(T));
    tokens_ = random_tokens(T + 1);
  }

  // Whether it may be timed.
  bool initialise(const std::string& plant) {
    model_.initialise(1);
    bench::spread_weights(model_);
    model_.allocate_gradients();
    const auto n = static_cast<size_t>(T_);
    bench::StepCheck step(model_, std::span(tokens_).first(n), std::span(tokens_).subspan(1, n));
    if (!plant.empty()) bench::plant_in(model_.parameters().weights());
    const bench::Check check = step.check(model_, {.recompute = row_.recompute}, {});
    if (!check.passed())
      std::fprintf(stderr, "%s, T %lld: %s: refused\n", row_.name.c_str(),
                   static_cast<long long>(T_), check.reason().c_str());
    return check.passed();
  }

  std::span<const float> losses() const { return losses_; }
  void run() {
    model_.clear_gradients();
    workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) { train(ctx, saved); });
    model_.finish_gradients();
  }

  double activation_mebibytes() {
    Arena scratch, saved;
    ExecutionContext dry{scratch};
    train(dry, saved);
    return static_cast<double>(scratch.peak() + saved.peak()) / (1024 * 1024);
  }

 private:
  void train(ExecutionContext& ctx, Arena& saved) {
    const auto n = static_cast<size_t>(T_);
    model_.train(ctx, batch_, {std::span(tokens_).first(n), std::span(tokens_).subspan(1, n)},
                 {.recompute = row_.recompute}, {losses_.data(), {T_}}, saved);
  }
  static ModelConfig config(const Setup& setup, int64_t T, const Row& row) {
    ModelConfig config;
    config.vocab_size = kVocabulary;
    config.d_model = setup.width;
    config.layers = 2;
    config.heads = 8;
    config.context = T;
    config.feed_forward = "gelu";
    MmRecConfig mixer;
    mixer.hoisted = mixer.fused = row.hoisted;
    config.mixers.assign(static_cast<size_t>(config.layers), {"mm_rec", mixer});
    return config;
  }

  LanguageModel model_;
  Row row_;
  int64_t T_;
  RaggedBatchBuilder data_;
  RaggedBatch batch_;
  Workspace workspace_;
  std::vector<int32_t> tokens_;
  std::vector<float> losses_;
};

// Rows of one length: the first leaves its losses, the others must have them.
class Length {
 public:
  Length(const Setup& setup, int64_t T) : setup_(setup), T_(T), losses_(static_cast<size_t>(T)) {}

  // Seconds of a step, or kRefused.
  bench::Measured timed(const Row& row) {
    const bool first = std::exchange(first_, false);
    const bench::Measured measured = bench::in_child([&] {
      ThreadPool pool(setup_.threads);
      const ThreadPool::Scope scope(pool);
      Step step(setup_, T_, row);
      if (!step.initialise(setup_.plant)) return bench::kRefused;
      step.run();
      if (first)
        std::ranges::copy(step.losses(), losses_.span().begin());
      else if (!bench::agree(row.name, "the loss of token", step.losses(), losses_.span(), 1e-4))
        return bench::kRefused;
      std::vector<double> all;
      for (int i = 0; i < setup_.repetitions; ++i)
        all.push_back(bench::seconds([&] { step.run(); }));
      return bench::median(std::move(all));
    });
    all_passed &= measured.value != bench::kRefused;
    return measured;
  }

  static inline bool all_passed = true;

 private:
  const Setup& setup_;
  int64_t T_;
  bench::SharedNumbers losses_;
  bool first_ = true;
};

void print_steps(const Setup& setup) {
  std::printf("| T | seconds a step, before | after | ratio | peak memory, MiB |\n");
  std::printf("|---:|---:|---:|---:|---:|\n");
  for (int64_t T = 128; T <= setup.longest; T *= T == 128 ? 4 : 2) {
    Length length(setup, T);
    const bench::Measured after = length.timed({"after"});
    if (after.value == bench::kRefused) continue;
    std::printf("| %lld |", static_cast<long long>(T));
    if (T <= setup.longest_before) {
      const double before = length.timed({"before", false}).value;
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
      {.name = "inside of the decay", .recompute = {.parts = {"gates"}}},
      {.name = "attention over the memory", .recompute = {.parts = {"memory_attention"}}},
      {.name = "feed-forward", .recompute = {.feed_forwards = true}},
      {.name = "decay, attention and feed-forward",
       .recompute = {.feed_forwards = true, .parts = {"gates", "memory_attention"}}},
      {.name = "mixers but for h every 64 tokens", .recompute = {.checkpoint_interval = 64}},
      {.name = "the same, inside of the decay and feed-forward",
       .recompute = {.feed_forwards = true, .checkpoint_interval = 64, .parts = {"gates"}}},
      {.name = "blocks", .recompute = {.blocks = kAll}},
      {.name = "blocks, and inside of the decay",
       .recompute = {.blocks = kAll, .parts = {"gates"}}},
  };
  std::printf("\n| recomputed, T %lld | activations, MiB | peak, MiB | seconds a step |\n",
              static_cast<long long>(T));
  std::printf("|---|---:|---:|---:|\n");
  Length length(setup, T);
  double first_memory = 0, first_seconds = 0;
  for (const Row& row : rows) {
    const double memory = Step(setup, T, row).activation_mebibytes();
    const bench::Measured step = length.timed(row);
    if (step.value == bench::kRefused) continue;
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
  Length twice(setup, 2 * T);
  const bench::Measured step = twice.timed(least);
  if (step.value == bench::kRefused) return;
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
    kernels::linear_forward({x.data() + row * D, rows, D}, {w.data() + part * D * D, columns, D},
                            {to.data() + row * 4 * D + part * D, rows, columns, 4 * D}, scratch,
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
  if (!setup.plant.empty()) bench::plant_in(steps);
  bench::Check check;
  bench::check_product(check, {x.data(), T, D}, {w.data(), D, 4 * D, 1, D},
                       {once.data(), {T, 4 * D}});
  check.that("the forms differ", once == steps);
  if (!check.passed()) {
    std::fprintf(stderr, "projections: %s: refused\n", check.reason().c_str());
    Length::all_passed = false;
    return;
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
  setup.plant = bench::take_plant(argc, argv);
  const auto argument = [&](int i, auto& to) {
    if (argc > i) to = static_cast<std::remove_reference_t<decltype(to)>>(std::atoll(argv[i]));
  };
  argument(1, setup.threads);
  argument(2, setup.repetitions);
  argument(3, setup.longest);
  argument(4, setup.width);
  argument(5, setup.longest_before);
  ThreadPool pool(setup.threads);
  const ThreadPool::Scope scope(pool);
  print_steps(setup);
  print_recomputation(setup);
  print_projections(setup);
  return Length::all_passed ? 0 : 1;
}
