// Generated data sets.
#include "cli/sample/sample.h"

#include "cli/output.h"
#include "cli/targets.h"
#include "cli/verbs.h"
#include "refrain/data/probes.h"

namespace refrain::cli {
namespace {

struct SampleCalendar {
  SampleSizes sizes;
  int64_t seed = 1;
  std::string out;

  template <class V>
  void visit(V&& v) {
    v("seed", seed, "of the draws; the same seed gives the same texts");
    v("out", out, "directory for train, dev and test, each .en and .ja");
    v("train", sizes.train, "rows to train on");
    v("dev", sizes.dev, "rows to choose by");
    v("test", sizes.test, "rows to score on");
  }

  void check(const CommandLine&) const {
    if (seed < 0) throw_error("--seed: expected 0 or more, found {}", seed);
    check_sizes(sizes);
  }

  int run(const CommandLine& line) {
    line.require({"out"});
    check(line);
    const SampleSet set = cli::calendar(static_cast<uint64_t>(seed), sizes);
    write_pairs(set, out);
    note(fmt::format("{} + {} + {} rows in {}", set.train.size(), set.dev.size(), set.test.size(),
                     out));
    return 0;
  }
};

template <class Probe>
struct SampleProbe {
  Probe probe;
  data::ProbeSizes sizes;
  int64_t seed = 1;
  std::string out;

  template <class V>
  void visit(V&& v) {
    v("seed", seed, "of the draws; the same seed gives the same sequences");
    v("out", out, "directory for train.jsonl, test.jsonl and the tokenizer");
    v("train", sizes.train, "sequences to train on");
    v("test", sizes.test, "sequences to score on");
    probe.visit(v);
  }

  void check(const CommandLine&) const {
    if (seed < 0) throw_error("--seed: expected 0 or more, found {}", seed);
    data::check_sizes(data::kind_of(probe), sizes);
  }

  int run(const CommandLine& line) {
    line.require({"out"});
    check(line);
    check_targets("--out", out, kTokenizerFiles, {});
    const data::ProbeKind kind = data::kind_of(probe);
    data::write_probes(kind, static_cast<uint64_t>(seed), sizes, out);
    Random any(0);  // all sequences of a probe have one length
    note(fmt::format("{} + {} sequences of {} tokens, vocabulary {}, in {}", sizes.train,
                     sizes.test, kind.draw(any).input.size(), kind.ids, out));
    if constexpr (requires { probe.naive(0); }) {
      const auto naive = probe.naive(static_cast<uint64_t>(seed));
      note(fmt::format("forecasting the last value: loss {:.3f}, {:.1f} % correct", naive.loss,
                       100 * naive.correct));
    }
    return 0;
  }
};

template <class Probe>
Verb sample_probe(const std::string& what) {
  const std::string name = std::string("sample ") + Probe::kName;
  return make_verb<SampleProbe<Probe>>(
      name, what, "--out DIR",
      "Ids, with a target where something is asked. No sequence of test stands in train. Then:\n"
      "  refrain train --task probe --data DIR/train.jsonl --valid DIR/test.jsonl \\\n"
      "      --tokenizer DIR --out RUN\n"
      "  refrain eval -m RUN --data DIR/test.jsonl");
}

}  // namespace

Verb sample_calendar_verb() {
  return make_verb<SampleCalendar>(
      "sample calendar", "dates, times, numbers and prices in English and Japanese", "--out DIR",
      "Every English text has one Japanese form. No Japanese form of dev or test stands in train, "
      "so\n"
      "that translations can be scored by exact match.");
}

Verb sample_recall_verb() {
  return sample_probe<data::AssociativeRecall>("pairs of keys and values, and one key again");
}
Verb sample_multi_query_recall_verb() {
  return sample_probe<data::MultiQueryRecall>("pairs of keys and values, and every key again");
}
Verb sample_induction_verb() {
  return sample_probe<data::Induction>("a token that comes again: what was after it?");
}
Verb sample_copy_verb() {
  return sample_probe<data::DelayedCopy>("symbols to repeat after a delay");
}
Verb sample_selective_copy_verb() {
  return sample_probe<data::SelectiveCopy>("symbols among blanks to repeat in their order");
}
Verb sample_recall_after_gap_verb() {
  return sample_probe<data::RecallAfterGap>("pairs of keys and values, noise, and one key again");
}

Verb sample_forecast_verb() {
  return sample_probe<data::Forecast>("a series, and questions for its next values");
}

}  // namespace refrain::cli
