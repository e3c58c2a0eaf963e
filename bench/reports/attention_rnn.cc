// Attention as a recurrence beside attention over a cache of keys and values: two blocks, 128 wide,
// 4 heads, vocabulary 512.
#include "bench/reports/language_model_pass.h"
#include "bench/reports/reports.h"
#include "bench/sections/generation_run.h"

namespace refrain::bench {
namespace {

ModelConfig stack_of(const std::string& kind, int64_t context) {
  ModelConfig config;
  config.vocab_size = 512;
  config.d_model = 128;
  config.layers = 2;
  config.heads = 4;
  config.context = context;
  config.pattern = kind;
  return config;
}

// A token after ever longer histories.
void histories(const ReportSetup& setup, Tables& tables) {
  tables.begin("A token after a history",
               {"history", "bytes of state", "microseconds a token", "history read, tokens/s"});
  const int64_t shortest = setup.by_size(100, 100, 30);
  for (const char* kind : {"attention_rnn", "attention"}) {
    // Attention reads a history in quadratic time.
    const bool constant = std::string_view(kind) == "attention_rnn";
    const int64_t longest =
        constant ? setup.by_size(1'000'000, 100'000, 300) : setup.by_size(10'000, 10'000, 300);
    for (int64_t length = shortest; length <= longest; length *= 10) {
      Setup shape = setup.generating(setup.by_size(200, 50, 3));
      if (length > 10'000) shape.repetitions = {0, 1};
      GenerationRun run(shape, stack_of(kind, length), Storage::kFloat32);
      const Check check = run.check();
      std::vector<Timing> timings(2);
      if (check.passed())
        timings = time_in_turns(shape.repetitions,
                                {[&] { run.read_prompt(); }, [&] { run.read_tokens(); }});
      tables.add(kind, check,
                 {length, static_cast<int64_t>(run.state_bytes()),
                  1e6 * timings[1].per(run.new_tokens()).median,
                  static_cast<double>(length) / timings[0].median});
    }
  }
  tables.remark(
      "A state of attention_rnn is D + 2 H numbers a block, whatever the length; a cache grows by "
      "2 D numbers a token and block.");
}

// Forward and backward of one sequence.
void training(const ReportSetup& setup, Tables& tables) {
  tables.begin("A training pass over one sequence",
               {"tokens", "seconds", "tokens/s", "activations, MiB"});
  for (const char* kind : {"attention_rnn", "attention"}) {
    const int64_t longest = setup.by_size(16'384, 4'096, 48);
    for (int64_t length = setup.by_size(256, 256, 24); length <= longest; length *= 4) {
      Agreement losses(1e-5);
      LanguageModelPass pass(stack_of(kind, length), {.tokens = length}, setup.planted);
      const Check check = pass.check(losses);
      Timing timing;
      if (check.passed()) timing = time_of(setup.repetitions, [&] { pass.run(); });
      tables.add(kind, check,
                 {length, timing.median, static_cast<double>(length) / timing.median,
                  mebibytes(pass.activation_bytes())});
    }
  }
}

}  // namespace

// The first table of this line of work is that of errors (iterative, parallel, scan): it comes
// here, before the tables of cost.
void report_attention_rnn(const ReportSetup& setup, Tables& tables) {
  histories(setup, tables);
  training(setup, tables);
}

}  // namespace refrain::bench
