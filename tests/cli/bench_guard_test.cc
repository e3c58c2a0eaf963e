// Every row of `refrain bench` is refused when what it would time is wrong: an error is planted in
// each kind of thing that a section computes from.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "bench/reports/reports.h"
#include "bench/sections/sections.h"

namespace refrain::bench {
namespace {

Setup small_setup() {
  Setup setup;
  setup.repetitions = {0, 1};
  setup.lengths = {48};
  setup.mixers = {"attention", "attention_rnn", "gla", "simple_rnn", "lstm", "mm_rec"};
  setup.patterns = setup.mixers;
  setup.batch_tokens = 96;
  setup.new_tokens = 3;
  setup.product_size = 40;
  setup.stream_floats = 1 << 16;
  setup.compute_type = kernels::ComputeType::kFloat32;
  setup.model.vocab_size = 40;
  setup.model.d_model = 32;
  setup.model.layers = 2;
  setup.model.heads = 2;
  return setup;
}

struct Sections {
  const char* name;
  void (*run)(const Setup&, Report&);
};
void ceilings(const Setup& setup, Report& report) { measure_ceilings(setup, report); }

io::Json rows_of(const Sections& section, const Setup& setup) {
  std::string text;
  Report report("json", 2, [&](std::string_view part) { text += part; });
  section.run(setup, report);
  report.end();
  return io::parse_json(text, "rows");
}

// Names of the rows that were timed all the same.
std::vector<std::string> timed(const Sections& section, const Planted& planted) {
  Setup setup = small_setup();
  setup.planted = planted;
  std::vector<std::string> names;
  for (const io::Json& row : rows_of(section, setup))
    if (row["refused"].is_null()) names.push_back(row["name"]);
  return names;
}

void larger_by_a_percent(std::span<float> values) {
  for (float& v : values) v *= 1.01f;
}
void twice_as_large(std::span<float> values) {
  for (float& v : values) v *= 2;
}

const std::vector<std::string> kNone;

// Without rows whose operands are rounded, where a percent may be the rounding.
std::vector<std::string> exact(std::vector<std::string> names) {
  std::erase_if(names, [](const std::string& n) {
    return n.find("bfloat16") != n.npos || n.find("int16") != n.npos;
  });
  return names;
}

constexpr Sections kOutputs[] = {{"ceilings", ceilings},
                                 {"products", time_products},
                                 {"attention", time_attention},
                                 {"attention-rnn", time_attention_rnn},
                                 {"activations", time_activations},
                                 {"kernels", time_kernels},
                                 {"mixers", time_mixers},
                                 {"train", time_training},
                                 {"generate", time_generation},
                                 {"switches", time_switches}};
constexpr Sections kModels[] = {
    {"train", time_training}, {"generate", time_generation}, {"switches", time_switches}};

TEST(BenchGuards, LetRightRowsPass) {
  for (const Sections& section : kOutputs)
    for (const io::Json& row : rows_of(section, small_setup()))
      EXPECT_TRUE(row["refused"].is_null()) << section.name << ": " << row;
}

TEST(BenchGuards, RefuseEveryRowWithOtherOutputs) {
  for (const Sections& section : kOutputs) {
    SCOPED_TRACE(section.name);
    EXPECT_EQ(exact(timed(section, {.output = larger_by_a_percent})), kNone);
    EXPECT_EQ(timed(section, {.output = twice_as_large}), kNone);
  }
}

TEST(BenchGuards, RefuseEveryRowWithOtherWeights) {
  for (const Sections& section : kModels) {
    SCOPED_TRACE(section.name);
    EXPECT_EQ(exact(timed(section, {.weights = larger_by_a_percent})), kNone);
    EXPECT_EQ(timed(section, {.weights = [](std::span<float> w) { std::ranges::reverse(w); }}),
              kNone);
  }
}

TEST(BenchGuards, RefuseAttentionWithAnotherMask) {
  const Planted narrow{.mask = [](kernels::AttentionShape& shape) { shape.window = 24; }};
  std::vector<std::string> names = timed({"attention", time_attention}, narrow);
  EXPECT_EQ(std::ranges::count(names, "blockwise"), 0);
}

TEST(BenchGuards, RefuseTrainingWithOtherBoundaries) {
  const Planted moved{.boundaries = [](std::span<int32_t> cu_seqlens) { --cu_seqlens[1]; }};
  EXPECT_EQ(exact(timed({"train", time_training}, moved)), kNone);
}

TEST(BenchGuards, RefuseStepsAfterAnotherState) {
  const Planted other{.state = [](std::span<float> state) {
    for (float& s : state) s = 2 * s + 1;
  }};
  EXPECT_EQ(timed({"generate", time_generation}, other), kNone);
  std::vector<std::string> names = timed({"switches", time_switches}, other);
  std::erase_if(names, [](const std::string& n) { return n.find("packed") == n.npos; });
  EXPECT_EQ(names, kNone);
}

// Rows of a report's tables as "table: row", all of them or those that were timed.
std::vector<std::string> report_rows(const ReportKind& kind, const Planted& planted, bool all) {
  std::string text;
  Tables tables("json", report_head(kind.name, "test", true),
                [&](std::string_view part) { text += part; });
  ReportSetup setup;
  setup.size = ReportSetup::Size::kSmallest;
  setup.repetitions = {0, 1};
  setup.planted = planted;
  kind.run(setup, tables);
  tables.end();
  std::vector<std::string> names;
  const io::Json report = io::parse_json(text, "report");
  for (const io::Json& table : report["tables"])
    for (const io::Json& row : table["rows"])
      if (all || row["refused"].is_null())
        names.push_back(table["title"].get<std::string>() + ": " + row["row"].get<std::string>());
  return names;
}

class BenchReports : public testing::TestWithParam<ReportKind> {
 protected:
  std::vector<std::string> timed(const Planted& planted) {
    return report_rows(GetParam(), planted, false);
  }
  // Without the rows of tables that begin with `title`.
  std::vector<std::string> timed(const Planted& planted, const std::string& title) {
    std::vector<std::string> names = timed(planted);
    std::erase_if(names, [&](const std::string& n) { return n.starts_with(title); });
    return names;
  }
  bool is(std::string_view name) const { return GetParam().name == name; }
};

INSTANTIATE_TEST_SUITE_P(All, BenchReports,
                         testing::ValuesIn(report_kinds().begin(), report_kinds().end()),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST_P(BenchReports, LetRightRowsPass) {
  const std::vector<std::string> all = report_rows(GetParam(), {}, true);
  EXPECT_EQ(timed({}), all);
  EXPECT_GE(all.size(), 6u);
}

TEST_P(BenchReports, RefuseEveryRowWithOtherOutputs) {
  EXPECT_EQ(timed({.output = larger_by_a_percent}), kNone);
}

// Functions have no weights.
TEST_P(BenchReports, RefuseEveryRowWithOtherWeights) {
  EXPECT_EQ(timed({.weights = larger_by_a_percent}, "Functions"), kNone);
}

// An error that only a later row has: its step is held to the rows before it.
TEST_P(BenchReports, RefuseOneRowWithOtherWeights) {
  int calls = 0;
  const Planted third{.weights = [&](std::span<float> w) {
    if (++calls == 3) larger_by_a_percent(w);
  }};
  const std::vector<std::string> all = report_rows(GetParam(), {}, true), names = timed(third);
  EXPECT_GE(calls, 3);
  EXPECT_EQ(names.size(), all.size() - 1);
}

// What keeps sequences apart. Projections, functions and single sequences have no such thing.
TEST_P(BenchReports, RefuseEveryRowWithOtherBoundaries) {
  const Planted moved{.boundaries = [](std::span<int32_t> cu_seqlens) { --cu_seqlens[1]; }};
  std::vector<std::string> names = timed(moved, "Functions");
  std::erase_if(names, [](const std::string& n) {
    return n.starts_with("The projections") || n.starts_with("A token after") ||
           n.find(" tokens after ") != n.npos;
  });
  EXPECT_EQ(names, kNone);
}

// A model whose tokens see fewer others, where attention has a mask.
TEST_P(BenchReports, RefuseAttentionWithAnotherMask) {
  const Planted narrow{.model = [](ModelConfig& config) {
    SettingMap settings;
    settings.set("attention.window", "4");
    const bool attention = config.pattern.empty() || config.pattern == "attention";
    if (attention) config.mixers = parse_pattern("attention", config.layers, settings);
  }};
  if (is("transformer")) {
    EXPECT_EQ(timed(narrow, "Functions"), kNone);
  }
  if (is("attention-rnn")) {
    for (const std::string& name : timed(narrow))
      EXPECT_TRUE(name.ends_with(": attention_rnn")) << name;
  }
}

// A cache or a state other than the one that was left behind.
TEST_P(BenchReports, RefuseStepsAfterAnotherState) {
  const Planted other{.state = [](std::span<float> state) {
    for (float& s : state) s = 2 * s + 1;
  }};
  std::vector<std::string> names = timed(other);
  if (is("decoder")) {
    EXPECT_EQ(names, kNone);
  }
  std::erase_if(names, [](const std::string& n) {
    return !n.starts_with("A token after") && n.find(" tokens after ") == n.npos;
  });
  EXPECT_EQ(names, kNone);
}

}  // namespace
}  // namespace refrain::bench
