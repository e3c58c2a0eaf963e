// Generated data sets.
#include "refrain/data/sample.h"

#include "cli/output.h"
#include "cli/verbs.h"

namespace refrain::cli {
namespace {

struct SampleCalendar {
  data::SampleSizes sizes;
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

  int run(const CommandLine& line) {
    line.require({"out"});
    if (seed < 0) throw_error("--seed: expected 0 or more, found {}", seed);
    const data::SampleSet set = data::calendar(static_cast<uint64_t>(seed), sizes);
    data::write_pairs(set, out);
    note(fmt::format("{} + {} + {} rows in {}", set.train.size(), set.dev.size(), set.test.size(),
                     out));
    return 0;
  }
};

}  // namespace

Verb sample_calendar_verb() {
  return make_verb<SampleCalendar>(
      "sample calendar", "dates, times, numbers and prices in English and Japanese", "--out DIR",
      "Every English text has one Japanese form. No Japanese form of dev or test stands in train, "
      "so\n"
      "that translations can be scored by exact match.");
}

}  // namespace refrain::cli
