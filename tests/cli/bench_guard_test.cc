// Every row of `refrain bench` is refused when what it would time is wrong: an error is planted in
// each kind of thing that a section computes from.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

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

constexpr Sections kOutputs[] = {{"ceilings", ceilings},        {"products", time_products},
                                 {"attention", time_attention}, {"kernels", time_kernels},
                                 {"mixers", time_mixers},       {"train", time_training},
                                 {"generate", time_generation}, {"switches", time_switches}};
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

TEST(BenchGuards, RefuseStepsAfterAnotherState) {
  const Planted other{.state = [](std::span<float> state) {
    for (float& s : state) s = 2 * s + 1;
  }};
  EXPECT_EQ(timed({"generate", time_generation}, other), kNone);
  std::vector<std::string> names = timed({"switches", time_switches}, other);
  std::erase_if(names, [](const std::string& n) { return n.find("packed") == n.npos; });
  EXPECT_EQ(names, kNone);
}

}  // namespace
}  // namespace refrain::bench
