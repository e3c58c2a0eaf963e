// Measures this machine and what this program does with it. The sections are in bench/sections/.
#include <fmt/ranges.h>
#include <unistd.h>

#include <algorithm>
#include <memory>
#include <set>

#include "bench/sections/sections.h"
#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "cli/verbs.h"
#include "cli/verbs/bench_report.h"
#include "refrain/base/expect_in.h"
#include "refrain/base/parallel.h"

namespace refrain::cli {
namespace {

using bench::Report;
using bench::Setup;

struct Section {
  const char* name;
  void (*run)(const Setup&, Report&);
};
constexpr Section kSections[] = {
    {"products", bench::time_products},
    {"attention", bench::time_attention},
    {"attention-rnn", bench::time_attention_rnn},
    {"activations", bench::time_activations},
    {"kernels", bench::time_kernels},
    {"mixers", bench::time_mixers},
    {"train", bench::time_training},
    {"generate", bench::time_generation},
    {"switches", bench::time_switches},
};

// The words between commas; an Error when one is empty.
std::vector<std::string> words(const char* flag, std::string_view text) {
  std::vector<std::string> all;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    all.emplace_back(text.substr(at, comma - at));
    if (all.back().empty())
      throw_error("{}: expected values with commas between them, found '{}'", flag, text);
    at = comma + 1;
  }
  return all;
}

// More than what a cache holds, within what a machine has.
int64_t stream_mebibytes() {
  const long cache = sysconf(_SC_LEVEL3_CACHE_SIZE);
  return std::clamp<int64_t>(2 * cache / (1 << 20), 64, 512);
}

// The transformer of 10.7 M parameters on characters (nanoGPT's setting).
ModelConfig default_model() {
  ModelConfig model;
  model.vocab_size = 65;
  model.d_model = 384;
  model.layers = 6;
  model.heads = 6;
  return model;
}

struct Bench {
  std::vector<std::string> sections;
  std::string format = "md", lengths = "512,2048", mixers = "attention,gla";
  int64_t batch_tokens = 2048, new_tokens = 64, repeats = 5, warm_up = 1;
  int64_t stream_mib = 0, product_size = 2048;
  std::string gradient_checkpointing = "off";
  std::string compute_type = "f32", storage = "f32", cache_type = "f32";
  bool quick = false;
  ModelConfig model = default_model();
  SettingMap mixer_settings;

  template <class V>
  void visit(V&& v) {
    v("sections", sections,
      "products, attention, attention-rnn, activations, kernels, mixers, train, generate, "
      "switches; none = all; or report and its name");
    v("format", format, "md (or markdown), csv or json; of a report, not csv");
    v("repeats", repeats, "times that count, of each measurement; of a report 3, or 1 if quick");
    v("warm_up", warm_up, "times before them that do not");
    v("quick", quick, "of a report: smaller shapes, in under a minute");
    v("lengths", lengths, "tokens of a sequence or a prompt; switches take the first");
    v("mixers", mixers, "kinds to time, in stacks of one kind");
    v("batch_tokens", batch_tokens, "rows of a training step and of products");
    v("new_tokens", new_tokens, "tokens to generate after a prompt");
    v("gradient_checkpointing", gradient_checkpointing, "as in train, but auto, which is off");
    v("compute_type", compute_type, "of products, mixers and training steps, as in train");
    v("storage", storage,
      "of weights in generation, each in turn: f32, bf16, f16, q8_0 or q4, as in quantize");
    v("cache_type", cache_type, "of generate's keys and values: f32, bf16 or q8_0");
    v("stream_mib", stream_mib,
      "MiB of the arrays that memory and kernels are timed over; 0 = twice the last cache, 64 to "
      "512");
    v("product_size", product_size, "rows and columns of the products of the ceiling");
    // A sequence's length is what `lengths` says.
    model.visit([&](const char* name, auto& field, const char* help) {
      using namespace std::string_view_literals;
      if (name == "vocab_size"sv)
        v(name, field, "tokens in the vocabulary");
      else if (name == "pattern"sv)
        v(name, field, "mixers of the blocks, instead of a stack of each of --mixers");
      else if (name != "context"sv)
        v(name, field, help);
    });
    visit_mixers(v, mixer_settings);
  }

  int run(const CommandLine& line) {
    if (format == "markdown") format = "md";
    if (!sections.empty() && sections[0] == "report") return report(line);
    if (line.given("quick")) throw_error("--quick: expected with a report, found sections");
    Setup setup = checked(line);
    Report report(format, threads(), [](std::string_view text) {
      print(text);
      flush_output();
    });
    std::string summary;
    try {
      setup.ceilings = bench::measure_ceilings(setup, report);
      for (const Section& section : kSections)
        if (chosen(section.name)) section.run(setup, report);
      if (sections.empty()) summary = bench::summarise(setup, report);
    } catch (const std::exception&) {
      report.end();  // what has been measured is not lost
      throw;
    }
    report.end();
    if (!summary.empty() && format == "md") print("\n" + summary);
    if (!summary.empty() && format != "md") note(summary.substr(0, summary.size() - 1));
    return report.all_passed() ? 0 : 1;
  }

 private:
  // A report has its own shapes.
  int report(const CommandLine& line) {
    constexpr std::string_view kRead[] = {"sections", "format", "repeats", "warm_up", "quick"};
    visit([&](std::string_view name, const auto&, const char*) {
      if (std::ranges::find(kRead, name) == std::end(kRead))
        refuse_given(line, name, "expected without a report, which has its own shapes, found one");
    });
    expect_in("--repeats", repeats, 1, 1'000'000);
    expect_in("--warm-up", warm_up, 0, 1'000'000);
    bench::ReportSetup setup;
    using Size = bench::ReportSetup::Size;
    setup.size = quick ? Size::kQuick : Size::kPublished;
    setup.repetitions = {warm_up, line.given("repeats") ? repeats : quick ? 1 : 3};
    return run_report({std::span(sections).subspan(1), format, setup});
  }

  Setup checked(const CommandLine& line) const {
    check_sections();
    if (format != "md" && format != "csv" && format != "json")
      throw_error("--format: expected md, csv or json, found '{}'", format);
    expect_in("--repeats", repeats, 1, 1'000'000);
    expect_in("--warm-up", warm_up, 0, 1'000'000);
    expect_in("--batch-tokens", batch_tokens, 1, 1 << 24);
    expect_in("--new-tokens", new_tokens, 1, 1 << 20);
    expect_in("--stream-mib", stream_mib, 0, 1 << 16);
    expect_in("--product-size", product_size, 1, 1 << 15);
    Setup setup;
    setup.repetitions = {warm_up, repeats};
    for (const std::string& word : words("--lengths", lengths)) {
      int64_t length = 0;
      SettingMap::parse("--lengths", word, length);
      expect_in("--lengths", length, 1, 1 << 22);
      setup.lengths.push_back(length);
    }
    setup.mixers = words("--mixers", mixers);
    setup.patterns = setup.mixers;
    if (line.given("pattern")) {
      line.exclude("pattern", "mixers");
      setup.patterns = {model.pattern};
      const std::vector<std::string> kinds = model.mixer_kinds();
      const std::set<std::string> each(kinds.begin(), kinds.end());
      setup.mixers.assign(each.begin(), each.end());
    }
    setup.batch_tokens = batch_tokens;
    setup.new_tokens = new_tokens;
    setup.product_size = product_size;
    setup.stream_floats = (stream_mib ? stream_mib : stream_mebibytes()) * (1 << 20) /
                          static_cast<int64_t>(sizeof(float));
    TrainConfig training;
    training.compute_type = compute_type;
    training.check();
    setup.compute_type = training.matmul_type();
    setup.storage.clear();
    for (const std::string& word : words("--storage", storage)) {
      const auto type = kernels::storage_named(word);
      if (!type) throw_error("--storage: expected f32, bf16, f16, q8_0 or q4, found '{}'", word);
      setup.storage.push_back(*type);
    }
    setup.cache_type = parse_cache_type(cache_type);
    setup.checkpointing = parse_checkpointing(gradient_checkpointing).value_or(Recompute());
    setup.model = model;
    setup.mixer_settings = mixer_settings;
    check_models(setup);
    std::set<std::string> kinds(setup.mixers.begin(), setup.mixers.end());
    if (chosen("switches")) kinds.insert({"attention", "attention_rnn", "gla"});
    check_mixer_effect(line, {kinds.begin(), kinds.end()},
                       fmt::format("{}", fmt::join(kinds, ", ")));
    return setup;
  }

  void check_sections() const {
    std::vector<std::string> known;
    std::string list;
    for (const Section& section : kSections) {
      known.emplace_back(section.name);
      list += (list.empty() ? "" : ", ") + known.back();
    }
    for (const std::string& name : sections) {
      if (std::find(known.begin(), known.end(), name) != known.end()) continue;
      const std::string near = nearest_name(name, known);
      throw_error("unknown section '{}'{}; known: {}", name,
                  near.empty() ? "" : "; did you mean '" + near + "'?", list);
    }
  }

  bool chosen(std::string_view section) const {
    return sections.empty() ||
           std::find(sections.begin(), sections.end(), section) != sections.end();
  }

  // Mistakes are told before anything is measured.
  void check_models(const Setup& setup) const {
    std::vector<std::string> patterns = setup.patterns;
    patterns.insert(patterns.end(), setup.mixers.begin(), setup.mixers.end());
    if (chosen("switches")) patterns.insert(patterns.end(), {"attention", "attention_rnn", "gla"});
    for (const std::string& pattern : patterns) {
      ModelConfig config = setup.model_of(pattern, setup.lengths[0]);
      config.resolve();
      for (const MixerConfig& mixer : config.mixers) {
        try_mixer(setup, mixer, config.mixer_dims());
        if (chosen("generate") && !make_mixer(mixer, config.mixer_dims())->causal())
          throw_error(
              "generate: expected mixers that read from left to right, found {} as it is set",
              mixer.kind());
      }
    }
  }

  // A dry step on one token: what a mixer refuses, it refuses there.
  static void try_mixer(const Setup& setup, const MixerConfig& config, const MixerDims& shape) {
    const std::unique_ptr<Mixer> mixer = make_mixer(config, shape);
    mixer->visit(shape_param);
    Arena scratch, saved;
    ExecutionContext dry{scratch, {}, setup.checkpointing.checkpoint_interval};
    RaggedBatchBuilder data;
    const Tensor row(nowhere(), {1, shape.d_model});
    mixer->forward(dry, data.whole(1, 1), row, row, nullptr, &saved);
  }
};

}  // namespace

Verb bench_verb() {
  Verb verb = make_verb<Bench>(
      "bench", "measure the machine, kernels, training and generation",
      "[SECTION...] | report NAME",
      "products    the three products of linear maps, against the multiply-add units\n"
      "attention   forward and backward alone, blockwise beside materialised scores\n"
      "attention-rnn  errors of its forms, bytes of state, time of a token\n"
      "activations tanh, sigmoid and silu, accurate and fast\n"
      "kernels     norms, activations, cross entropy, AdamW, against the rate of memory\n"
      "mixers      layers by themselves\n"
      "train       optimiser steps\n"
      "generate    reading a prompt, then token by token\n"
      "switches    each optimisation on and off\n"
      "report NAME the tables of a line of work on its shapes, published figures beside ours:\n"
      "            gated-rnn, attention-rnn, decoder, transformer or mm-rec\n"
      "What fails its check against plain float64 loops is not timed: its row says why, and the\n"
      "exit status is 1. docs/bench.md tells how to read the columns.");
  verb.words = "sections";
  return verb;
}

}  // namespace refrain::cli
