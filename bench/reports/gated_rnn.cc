// `simple_rnn` on its published shapes: vocabulary 512, D 128, K 32, V 64, two bare cells, 189,504
// parameters; 256 sequences of 512 tokens, and 100 tokens after a prefix of 256.
#include "bench/reports/language_model_pass.h"
#include "bench/reports/reports.h"
#include "bench/sections/generation_run.h"
#include "refrain/mixers/gla/gla.h"

namespace refrain::bench {
namespace {

ModelConfig bare_stack(int64_t context, bool fused) {
  ModelConfig config;
  config.vocab_size = 512;
  config.d_model = 128;
  config.layers = 2;
  config.heads = 1;
  config.context = context;
  config.block = "bare";
  SimpleRnnConfig mixer;
  mixer.fused = fused;
  config.mixers.assign(static_cast<size_t>(config.layers), {"simple_rnn", mixer});
  return config;
}

struct PassRow {
  const char* name;
  bool fused, batches, backward;
  Recompute recompute;
  const char* published;
};

void passes(const ReportSetup& setup, Tables& tables) {
  const int64_t sequences = setup.by_size(256, 32, 2), tokens = setup.by_size(512, 512, 24),
                batch = setup.by_size(32, 32, 2);
  const std::vector<PassRow> rows = {
      {"forward, one sequence at a time", true, false, false, {}, "3.152 s, 20.5 MB"},
      {"forward, batches, four products", false, true, false, {}, "0.437 s, 2,565 MB"},
      {"forward, batches, one fused product", true, true, false, {}, "0.428 s, 2,565 MB"},
      {"forward and backward, one at a time", true, false, true, {}, "-"},
      {"forward and backward, batches, four products", false, true, true, {}, "-"},
      {"forward and backward, batches, fused", true, true, true, {}, "-"},
      {"the same, a state kept every 64 steps",
       true,
       true,
       true,
       {.checkpoint_interval = 64},
       "0.377 s, 137 MB, without a backward pass"},
      {"the same, a state kept every 256 steps",
       true,
       true,
       true,
       {.checkpoint_interval = 256},
       "-"},
      {"the same, and blocks computed again",
       true,
       true,
       true,
       {.blocks = Recompute::kAllBlocks, .checkpoint_interval = 256},
       "-"},
  };
  tables.begin(fmt::format("{} sequences of {} tokens, batches of {}", sequences, tokens, batch),
               {"seconds", "tokens/s", "memory, MiB", "published: 256 x 512 tokens on a GPU"});
  Agreement losses(1e-5);
  for (const PassRow& row : rows) {
    LanguageModelPass pass(
        bare_stack(tokens, row.fused),
        {sequences, tokens, row.batches ? batch : 1, row.backward, row.recompute}, setup.planted);
    const Check check = pass.check(losses);
    Timing timing;
    if (check.passed()) timing = time_of(setup.repetitions, [&] { pass.run(); });
    tables.add(row.name, check,
               {timing.median, static_cast<double>(pass.tokens()) / timing.median,
                mebibytes(pass.bytes()), row.published});
  }
  tables.remark("Memory is that of weights, gradients and activations.");
}

void generation(const ReportSetup& setup, Tables& tables) {
  const Setup shape = setup.generating(setup.by_size(100, 100, 3));
  GenerationRun run(shape, bare_stack(setup.by_size(256, 256, 24), true), Storage::kFloat32);
  const Check check = run.check();
  std::vector<Timing> timings(3);
  if (check.passed())
    timings = time_in_turns(
        setup.repetitions,
        {[&] { run.read_again(); }, [&] { run.read_prompt(); }, [&] { run.read_tokens(); }});
  const double again = timings[0].median, stepped = timings[1].median + timings[2].median;
  tables.begin(fmt::format("{} tokens after {}", run.new_tokens(), run.prompt()),
               {"seconds", "of them the prefix", "times as fast", "published, s"});
  tables.add("the prefix read again for every token", check, {again, again, 1.0, 5.419});
  tables.add("stepwise", check, {stepped, timings[1].median, again / stepped, 0.208});
  tables.remark(
      fmt::format("The state is {} bytes at any length. Published: 26 times.", run.state_bytes()));
}

}  // namespace

void report_gated_rnn(const ReportSetup& setup, Tables& tables) {
  passes(setup, tables);
  generation(setup, tables);
}

}  // namespace refrain::bench
