// `mm_rec` on its published shapes: D 1024, two layers, 8 heads, vocabulary 1000, one sequence, a
// GELU feed-forward of 4 D.
//
// "Before" makes every product of the mixer a token at a time, each projection by itself, with its
// weights packed once; gradients by inputs are still whole products, which flatters it.
#include "refrain/mixers/mm_rec/mm_rec.h"

#include <algorithm>
#include <memory>

#include "bench/reports/language_model_pass.h"
#include "bench/reports/reports.h"

namespace refrain::bench {
namespace {

ModelConfig stack_of(const ReportSetup& setup, int64_t tokens, bool hoisted) {
  ModelConfig config;
  config.vocab_size = setup.by_size(1000, 1000, 40);
  config.d_model = setup.by_size(1024, 512, 32);
  config.layers = 2;
  config.heads = setup.by_size(8, 8, 2);
  config.context = tokens;
  config.feed_forward = "gelu";
  MmRecConfig mixer;
  mixer.hoisted = mixer.fused = hoisted;
  config.mixers.assign(static_cast<size_t>(config.layers), {"mm_rec", mixer});
  return config;
}

std::string published_step(int64_t tokens) {
  if (tokens == 512) return "2 to 3 s before, 1 to 1.5 s after";
  if (tokens == 1024) return "2 to 3 s after";
  return tokens == 2048 ? "4 to 6 s after" : "-";
}

std::string size_text(const ReportSetup& setup) {
  const ModelConfig config = stack_of(setup, 1, true);
  return fmt::format("{} wide, {} blocks", config.d_model, config.layers);
}

void steps(const ReportSetup& setup, std::optional<StepCheck>& step, Tables& tables) {
  const int64_t longest = setup.by_size(32'768, 1'024, 96);
  const int64_t longest_before = setup.by_size(1'024, 512, 48);  // beyond, minutes a step
  tables.begin(
      "Forward and backward of one sequence, " + size_text(setup),
      {"tokens", "seconds", "times as fast", "activations, MiB", "memory, MiB", "published"});
  for (int64_t T = setup.by_size(128, 128, 48); T <= longest; T *= T == 128 ? 4 : 2) {
    Agreement losses(1e-4);
    double before = 0;
    for (const bool hoisted : {false, true}) {
      if (!hoisted && T > longest_before) continue;
      LanguageModelPass pass(stack_of(setup, T, hoisted), {.tokens = T}, setup.planted);
      const Check check = pass.check(losses, step);
      Timing timing;
      Repetitions repetitions = setup.repetitions;
      if (T > 4'096 || !hoisted) repetitions = {0, 1};  // the check was a warm-up
      if (check.passed()) timing = time_of(repetitions, [&] { pass.run(); });
      if (!hoisted) before = timing.median;
      tables.add(hoisted ? "hoisted and fused" : "a product a token", check,
                 {T, timing.median, before > 0 ? io::Json(before / timing.median) : io::Json(),
                  mebibytes(pass.activation_bytes()), mebibytes(pass.bytes()),
                  hoisted ? published_step(T) : "-"});
    }
  }
}

struct RecomputeRow {
  const char* name;
  Recompute recompute;
  int64_t times = 1;  // of the first row's tokens
};

void recomputation(const ReportSetup& setup, std::optional<StepCheck>& step, Tables& tables) {
  const int64_t T = setup.by_size(2'048, 512, 48);
  constexpr int64_t kAll = Recompute::kAllBlocks;
  const Recompute least{.feed_forwards = true, .checkpoint_interval = 64, .parts = {"gates"}};
  const std::vector<RecomputeRow> rows = {
      {"nothing", {}},
      {"inside of the decay", {.parts = {"gates"}}},
      {"attention over the memory", {.parts = {"memory_attention"}}},
      {"feed-forward", {.feed_forwards = true}},
      {"decay, attention and feed-forward",
       {.feed_forwards = true, .parts = {"gates", "memory_attention"}}},
      {"mixers but for h every 64 tokens", {.checkpoint_interval = 64}},
      {"the same, inside of the decay, feed-forward", least},
      {"blocks", {.blocks = kAll}},
      {"blocks, and inside of the decay", {.blocks = kAll, .parts = {"gates"}}},
      {"twice the length: h every 64, decay, feed-forward", least, 2},
  };
  tables.begin(fmt::format("Recomputed, {} tokens", T),
               {"activations, MiB", "of them, %", "seconds", "more time, %"});
  Agreement once(1e-4), twice(1e-4);
  double first_bytes = 0, first_seconds = 0;
  for (const RecomputeRow& row : rows) {
    LanguageModelPass pass(stack_of(setup, T * row.times, true),
                           {.tokens = T * row.times, .recompute = row.recompute}, setup.planted);
    const Check check = pass.check(row.times == 1 ? once : twice, step);
    Timing timing;
    if (check.passed()) timing = time_of(setup.repetitions, [&] { pass.run(); });
    const double bytes = mebibytes(pass.activation_bytes());
    if (first_bytes == 0) {
      first_bytes = bytes;
      first_seconds = timing.median;
    }
    const double more = timing.median / (first_seconds * static_cast<double>(row.times)) - 1;
    tables.add(row.name, check,
               {bytes, 100 * bytes / first_bytes, timing.median, std::round(100 * more)});
  }
  tables.remark(
      "Published: 50 to 70 % less memory for 20 to 30 % more time of backward; twice the length in "
      "the same memory.");
}

// Both types with and without their blocks recomputed, in turns.
void types(const ReportSetup& setup, std::optional<StepCheck>& step, Tables& tables) {
  using kernels::ComputeType;
  constexpr Recompute kBlocks{.blocks = Recompute::kAllBlocks};
  for (int64_t T = setup.by_size(512, 512, 48); T <= setup.by_size(2'048, 512, 48); T *= 2) {
    std::vector<std::unique_ptr<LanguageModelPass>> passes;
    std::vector<Check> checks;
    std::vector<Work> works;
    Agreement exact(1e-4), rounded(5e-2);
    for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kBf16})
      for (const Recompute& recompute : {Recompute{}, kBlocks}) {
        passes.push_back(std::make_unique<LanguageModelPass>(
            stack_of(setup, T, true),
            PassShape{.tokens = T, .recompute = recompute, .compute_type = type}, setup.planted));
        checks.push_back(
            passes.back()->check(type == ComputeType::kFloat32 ? exact : rounded, step));
        works.emplace_back([pass = passes.back().get()] { pass->run(); });
      }
    std::vector<Timing> timings(works.size());
    if (std::ranges::all_of(checks, &Check::passed))
      timings = time_in_turns(setup.repetitions, works);
    tables.begin(fmt::format("Types, {} tokens", T),
                 {"activations, MiB", "of them, %", "seconds", "times as fast"});
    const double first = mebibytes(passes[0]->activation_bytes());
    const char* const names[] = {"float32", "float32, blocks", "bfloat16", "bfloat16, blocks"};
    for (size_t i = 0; i < works.size(); ++i) {
      const double bytes = mebibytes(passes[i]->activation_bytes());
      tables.add(
          names[i], checks[i],
          {bytes, 100 * bytes / first, timings[i].median, timings[0].median / timings[i].median});
    }
  }
}

// [q k v z] of T tokens: one product, and four for each token, both of packed weights.
class Projections {
 public:
  Projections(int64_t width, int64_t tokens)
      : D_(width), T_(tokens), x_(uniform(T_ * D_, 1)), w_(uniform(4 * D_ * D_, 2)) {
    packed_ = Buffer<float>(static_cast<size_t>(4 * kernels::packed_size(D_, D_)));
    for (int64_t part = 0; part < 4; ++part)
      kernels::pack_weight({w_.data() + part * D_ * D_, {D_, D_}}, packed_part(part));
    once_ = Buffer<float>(static_cast<size_t>(T_ * 4 * D_));
    steps_ = Buffer<float>(once_.size());
  }

  void fused() { product({0, T_}, {0, 4 * D_}, nullptr, once_); }
  void stepped() {
    for (int64_t row = 0; row < T_; ++row)
      for (int64_t part = 0; part < 4; ++part)
        product({row, 1}, {part * D_, D_}, packed_part(part), steps_);
  }
  Check check(const Planted& planted) {
    Check check;
    planted.in_weights(packed_.span());
    fused();
    stepped();
    planted.in_output(steps_.span());
    for (Buffer<float>* form : {&once_, &steps_})
      check_product(check, {x_.data(), T_, D_}, {w_.data(), D_, 4 * D_, 1, D_},
                    {form->data(), {T_, 4 * D_}});
    return check;
  }

 private:
  struct Range {
    int64_t first, count;
  };
  float* packed_part(int64_t part) { return packed_.data() + part * kernels::packed_size(D_, D_); }
  void product(Range rows, Range outputs, const float* packed, Buffer<float>& to) {
    workspace_.run({}, [&](ExecutionContext& ctx, Arena&) {
      kernels::linear_forward(
          {x_.data() + rows.first * D_, rows.count, D_},
          {w_.data() + outputs.first * D_, outputs.count, D_},
          {to.data() + rows.first * 4 * D_ + outputs.first, rows.count, outputs.count, 4 * D_},
          ctx.scratch, packed);
    });
  }

  int64_t D_, T_;
  Buffer<float> x_, w_, packed_, once_, steps_;
  Workspace workspace_;
};

void projections(const ReportSetup& setup, Tables& tables) {
  const int64_t T = setup.by_size(2'048, 512, 24);
  Projections form(setup.by_size(1024, 512, 32), T);
  const Check check = form.check(setup.planted);
  std::vector<Timing> timings(2);
  if (check.passed())
    timings = time_in_turns(setup.repetitions, {[&] { form.stepped(); }, [&] { form.fused(); }});
  const double stepped = timings[0].median, fused = timings[1].median;
  tables.begin(fmt::format("The projections q, k, v and z of {} tokens", T),
               {"seconds", "times as fast", "published"});
  tables.add("four products a token", check, {stepped, 1.0, "-"});
  tables.add("one product", check, {fused, stepped / fused, "2 to 3 times"});
}

}  // namespace

void report_mm_rec(const ReportSetup& setup, Tables& tables) {
  std::optional<StepCheck> step;  // one stack, whatever its form, its plan or its length
  steps(setup, step, tables);
  recomputation(setup, step, tables);
  types(setup, step, tables);
  projections(setup, tables);
}

}  // namespace refrain::bench
