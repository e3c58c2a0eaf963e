// What `refrain bench` refuses to time, and how it writes what it has timed.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "bench/checks/check.h"
#include "bench/checks/report.h"
#include "bench/checks/timing.h"
#include "refrain/mixers/registry.h"

namespace refrain::bench {
namespace {

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST(BenchCheck, KeepsTheFirstThingThatIsWrong) {
  Check check;
  check.near("a", 1.05, 1, 0.1);
  check.that("b", true);
  EXPECT_TRUE(check.passed());
  check.near("c", 1.2, 1, 0.1);
  check.near("d", 9, 1, 0.1);
  EXPECT_FALSE(check.passed());
  EXPECT_EQ(check.reason(), "c: expected 1 within 1.0e-01, found 1.2");
}

TEST(BenchCheck, WhatIsNoNumberNeverPasses) {
  Check near, finite;
  near.near("a", std::nan(""), 1, INFINITY);
  EXPECT_FALSE(near.passed());
  const float values[] = {1, kNaN};
  finite.finite("b", {values, {2}});
  EXPECT_EQ(finite.reason(), "b: number 1 is nan");
}

TEST(BenchCheck, LooksAtProductsThroughStrides) {
  const float a[] = {1, 2, 3, 4, 5, 6};  // [2, 3], and as bᵀ [2, 3]
  const float c[] = {14, 32, 32, 77};    // a aᵀ
  const float other[] = {14, 32, 32.1f, 77};
  Check right, wrong, transposed;
  check_product(right, {a, 2, 3}, {a, 3, 2, 1, 3}, {c, {2, 2}});
  EXPECT_TRUE(right.passed()) << right.reason();
  check_product(wrong, {a, 2, 3}, {a, 3, 2, 1, 3}, {other, {2, 2}});
  EXPECT_TRUE(wrong.reason().starts_with("element (1, 0): expected 32 ")) << wrong.reason();
  check_product(transposed, {a, 2, 3, 1, 2}, {a, 3, 2, 1, 3}, {c, {2, 2}});
  EXPECT_FALSE(transposed.passed());
}

TEST(BenchCheck, SamplesReachBothEnds) {
  for (const int64_t n : {1, 2, 5, 100}) {
    std::vector<int64_t> seen;
    sample(n, 7, [&](int64_t i) { seen.push_back(i); });
    EXPECT_EQ(static_cast<int64_t>(seen.size()), std::min<int64_t>(n, 7));
    EXPECT_EQ(seen.front(), 0);
    EXPECT_EQ(seen.back(), n - 1);
  }
}

TEST(BenchTiming, SumsUp) {
  const Timing timing = summary({6, 1, 3, 2});
  EXPECT_EQ(timing.repeats, 4);
  EXPECT_DOUBLE_EQ(timing.mean, 3);
  EXPECT_DOUBLE_EQ(timing.median, 2.5);
  EXPECT_DOUBLE_EQ(timing.deviation, std::sqrt(14.0 / 3));
  EXPECT_EQ(summary({2}).deviation, 0);
  EXPECT_DOUBLE_EQ(timing.per(2).median, 1.25);
}

TEST(BenchTiming, WorksTakeTurns) {
  std::string order;
  const std::vector<Timing> timings =
      time_in_turns({.warm_up = 1, .repeats = 2}, {[&] { order += 'a'; }, [&] { order += 'b'; }});
  EXPECT_EQ(order, "ababab");
  ASSERT_EQ(timings.size(), 2u);
  EXPECT_EQ(timings[1].repeats, 2);
}

struct Printed {
  std::string text;
  Report::Print print() {
    return [this](std::string_view part) { text += part; };
  }
};

Row row() {
  Row row{.section = "train", .name = "a, \"b\"", .shape = "2 x 3", .timing = summary({0.25})};
  row.rate = 40;
  row.unit = "tokens/s";
  row.ceiling = 80;
  row.peak_mib = 7;
  return row;
}

Check failed() {
  Check check;
  check.that("it is wrong", false);
  return check;
}

TEST(BenchReport, ARefusedRowHasNoFiguresAndIsNotForgotten) {
  Printed printed;
  Report report("json", 2, printed.print());
  report.add(row(), Check());
  EXPECT_TRUE(report.all_passed());
  report.add(row(), failed());
  report.add(row(), Check());
  report.end();
  EXPECT_FALSE(report.all_passed());
  const io::Json rows = io::parse_json(printed.text, "rows");
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0]["median_ms"], 250.0);
  EXPECT_EQ(rows[0]["of_ceiling"], 0.5);
  EXPECT_EQ(rows[0]["threads"], 2);
  EXPECT_TRUE(rows[0]["refused"].is_null());
  EXPECT_EQ(rows[1]["refused"], "it is wrong");
  EXPECT_EQ(rows[1]["name"], rows[0]["name"]);
  for (const char* figure : {"repeats", "mean_ms", "deviation_ms", "median_ms", "rate", "ceiling",
                             "of_ceiling", "mfu", "ratio", "peak_mib", "resident_mib"})
    EXPECT_TRUE(rows[1][figure].is_null()) << figure;
}

TEST(BenchReport, QuotesWhatCsvWouldSplit) {
  Printed printed;
  Report report("csv", 2, printed.print());
  report.add(row(), Check());
  report.add(row(), failed());
  report.end();
  EXPECT_EQ(printed.text,
            "section,name,shape,threads,repeats,mean_ms,deviation_ms,median_ms,rate,unit,ceiling,"
            "of_ceiling,mfu,ratio,mean_error,largest_error,relative_error,state_bytes,peak_mib,"
            "resident_mib,refused\n"
            "train,\"a, \"\"b\"\"\",2 x 3,2,1,250,0,250,40,tokens/s,80,0.5,,,,,,,7,,\n"
            "train,\"a, \"\"b\"\"\",2 x 3,2,,,,,,,,,,,,,,,,,it is wrong\n");
}

TEST(BenchReport, TablesLeaveOutEmptyColumns) {
  Printed printed;
  Report report("md", 2, printed.print());
  Row plain = row();
  plain.name = "step";
  report.add(plain, Check());
  report.end();
  EXPECT_EQ(
      printed.text,
      "## train\n\n"
      "| name | shape | threads | repeats | mean ± deviation, ms | median_ms |  rate | unit     "
      "| ceiling | of_ceiling | peak_mib |\n"
      "|------|-------|--------:|--------:|---------------------:|----------:|------:|----------"
      "|--------:|-----------:|---------:|\n"
      "| step | 2 x 3 |       2 |       1 |        250.0 ± 0.000 |     250.0 | 40.00 | tokens/s "
      "|   80.00 |      0.500 |    7.000 |\n");
}

TEST(BenchFlops, CountTheKeysThatAreSeen) {
  const MixerDims shape{
      .d_model = 8, .heads = 2, .kv_heads = 1, .head_dim = 4, .context = 4, .blocks = 1};
  SettingMap options;
  const auto of_a_token = [&](const char* kind) {
    return make_mixer(parse_mixer(kind, options), shape)->mixing_flops(4);
  };
  EXPECT_DOUBLE_EQ(of_a_token("attention"), 4 * 8 * (1 + 2 + 3 + 4) / 4.0);
  options.set("attention.window", "2");
  EXPECT_DOUBLE_EQ(of_a_token("attention"), 4 * 8 * (1 + 2 + 2 + 2) / 4.0);
  EXPECT_DOUBLE_EQ(of_a_token("gla"), 4 * 2 * 2 * 4);  // 2 heads, 2 keys x 4 values
}

}  // namespace
}  // namespace refrain::bench
