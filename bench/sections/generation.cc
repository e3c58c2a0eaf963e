// Reading a prompt, and the tokens after it one by one, of every mixer at every length.
#include "bench/sections/generation_run.h"
#include "bench/sections/sections.h"

namespace refrain::bench {
namespace {

struct Case {
  std::string pattern;
  int64_t length;
  Storage storage;
};
std::vector<Case> cases(const Setup& setup) {
  std::vector<Case> all;
  for (const std::string& pattern : setup.patterns)
    for (const int64_t length : setup.lengths)
      for (const Storage storage : setup.storage) all.push_back({pattern, length, storage});
  return all;
}

}  // namespace

void time_generation(const Setup& setup, Report& report) {
  for (const auto& [pattern, length, storage] : cases(setup)) {
    GenerationRun run(setup, setup.model_of(pattern, length), storage);
    std::string name = pattern;
    if (storage != Storage::kFloat32) name += fmt::format(" ({})", kernels::name_of(storage));
    if (setup.cache_type != kernels::CacheType::kFloat32)
      name += fmt::format(", {} cache", kernels::name_of(setup.cache_type));
    const Check check = run.check();
    Row prompt{.section = "generate",
               .name = name + ": prompt",
               .shape = run.shape_text(),
               .unit = "tokens/s"};
    Row token = prompt;
    token.name = name + ": a token";
    if (check.passed()) {
      const std::vector<Timing> timings = time_in_turns(
          setup.repetitions, {[&] { run.read_prompt(); }, [&] { run.read_tokens(); }});
      prompt.timing = timings[0];
      prompt.rate = static_cast<double>(run.prompt()) / prompt.timing.median;
      prompt.mfu =
          utilisation(run.prompt_operations(), prompt.timing.median, setup.ceilings.fastest());
      prompt.peak_mib = mebibytes(run.bytes());
      token.timing = timings[1].per(run.new_tokens());
      token.rate = 1 / token.timing.median;
      token.ceiling = setup.ceilings.streaming / static_cast<double>(run.token_bytes());
    }
    report.add(prompt, check);
    report.add(token, check);
  }
  report.end_section();
}

}  // namespace refrain::bench
