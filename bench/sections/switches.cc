// What each optimisation is worth: the same work with it and without, in turns. Every group's first
// row is what the others' ratio is over.
#include <memory>

#include "bench/sections/generation_run.h"
#include "bench/sections/sections.h"
#include "bench/sections/training_run.h"
#include "refrain/mixers/attention_rnn/attention_rnn.h"
#include "refrain/mixers/gla/gla.h"

namespace refrain::bench {
namespace {

// One of a group, checked.
struct Candidate {
  Row row;
  Check check;
  Work prepare;  // before the work, not timed; or none
  Work work;
  int64_t tokens;         // of the work
  double operations = 0;  // of the work, as MFU counts them; 0 = not told
  kernels::ComputeType compute_type = kernels::ComputeType::kFloat32;
};

// Takes the turns and adds the rows.
void time_group(const Setup& setup, Report& report, std::vector<Candidate> group) {
  std::vector<Work> works;
  std::vector<size_t> place(group.size());  // of each one's work
  for (size_t i = 0; i < group.size(); ++i) {
    if (!group[i].check.passed()) continue;
    if (group[i].prepare) works.push_back(group[i].prepare);
    place[i] = works.size();
    works.push_back(group[i].work);
  }
  const std::vector<Timing> timings = time_in_turns(setup.repetitions, works);
  for (size_t i = 0; i < group.size(); ++i) {
    Row& row = group[i].row;
    row.section = "switches";
    if (group[i].check.passed()) {
      row.timing = timings[place[i]];
      row.rate = static_cast<double>(group[i].tokens) / row.timing.median;
      row.unit = "tokens/s";
      if (group[i].operations > 0)
        row.mfu = utilisation(group[i].operations, row.timing.median,
                              setup.ceilings.fastest(group[i].compute_type));
      if (group[0].check.passed()) row.ratio = timings[place[0]].median / row.timing.median;
    }
    report.add(row, group[i].check);
  }
}

// Of a training step.
struct Variant {
  std::string name;
  ModelConfig model;
  Recompute checkpointing;
  kernels::ComputeType compute_type;
};

Variant variant_of(const Setup& setup, const std::string& name, const std::string& pattern) {
  return {name, setup.model_of(pattern, setup.lengths[0]), setup.checkpointing, setup.compute_type};
}

void time_steps(const Setup& setup, Report& report, const std::vector<Variant>& variants) {
  std::vector<std::unique_ptr<TrainingRun>> runs;
  std::vector<Candidate> group;
  for (const Variant& v : variants) {
    TrainingRun& run = *runs.emplace_back(
        std::make_unique<TrainingRun>(setup, v.model, v.checkpointing, v.compute_type));
    Candidate& c = group.emplace_back();
    c.check = run.check();
    c.row.name = v.name;
    c.row.shape = run.shape_text();
    c.row.peak_mib = mebibytes(run.bytes());
    c.work = [&run] { run.step(); };
    c.tokens = run.tokens();
    c.operations = run.operations();
    c.compute_type = v.compute_type;
  }
  time_group(setup, report, std::move(group));
}

void time_packing(const Setup& setup, Report& report, const std::string& pattern) {
  std::vector<std::unique_ptr<GenerationRun>> runs;
  std::vector<Candidate> group;
  for (const bool packed : {false, true}) {
    GenerationRun& run = *runs.emplace_back(
        std::make_unique<GenerationRun>(setup, setup.model_of(pattern, setup.lengths[0]),
                                        packed ? std::optional(Storage::kFloat32) : std::nullopt));
    Candidate& c = group.emplace_back();
    c.check = run.check();
    c.row.name = fmt::format("{}: {} tokens, matrices packed {}", pattern, run.new_tokens(),
                             packed ? "once" : "each time");
    c.row.shape = run.shape_text();
    c.row.peak_mib = mebibytes(run.bytes());
    c.prepare = [&run] { run.read_prompt(); };
    c.work = [&run] { run.read_tokens(); };
    c.tokens = run.new_tokens();
  }
  time_group(setup, report, std::move(group));
}

// Projections as several products, and as one.
template <class Config>
void time_fused(const Setup& setup, Report& report, const std::string& kind) {
  std::vector<Variant> variants;
  for (const bool fused : {false, true}) {
    variants.push_back(variant_of(setup, fmt::format("{}: fused {}", kind, fused), kind));
    for (MixerConfig& mixer : variants.back().model.mixers) mixer.as<Config>().fused = fused;
  }
  time_steps(setup, report, variants);
}

}  // namespace

void time_switches(const Setup& setup, Report& report) {
  time_fused<GlaConfig>(setup, report, "gla");
  time_fused<AttentionRnnConfig>(setup, report, "attention_rnn");
  for (const std::string& pattern : setup.patterns) {
    std::vector<Variant> variants;
    for (const std::string value : {"off", "blocks", "64"}) {
      // Attention alone has no state that could be kept every so often.
      if (pattern == "attention" && value == "64") continue;
      variants.push_back(
          variant_of(setup, fmt::format("{}: checkpointing {}", pattern, value), pattern));
      variants.back().checkpointing = *parse_checkpointing(value);
    }
    time_steps(setup, report, variants);
  }
  for (const std::string& pattern : setup.patterns) {
    std::vector<Variant> variants;
    for (const kernels::ComputeType compute_type : kComputeTypes) {
      variants.push_back(
          variant_of(setup, fmt::format("{}: {}", pattern, name_of(compute_type)), pattern));
      variants.back().compute_type = compute_type;
    }
    time_steps(setup, report, variants);
  }
  std::vector<Variant> heads;
  for (const int64_t h : {4, 6, 8}) {
    if (setup.model.d_model % (2 * h) != 0) continue;  // rotary positions turn pairs
    heads.push_back(variant_of(setup, fmt::format("attention: {} heads", h), "attention"));
    heads.back().model.heads = h;
    heads.back().model.kv_heads = heads.back().model.head_dim = 0;
  }
  if (!heads.empty()) time_steps(setup, report, heads);
  for (const std::string& pattern : setup.patterns) time_packing(setup, report, pattern);
  report.end_section();
}

}  // namespace refrain::bench
