#include "refrain/mixers/mm_rec/mm_rec.h"

#include <gtest/gtest.h>

#include "refrain/mixers/registry.h"
#include "support/error_of.h"
#include "support/mixer_contract.h"

namespace refrain {
namespace {

MixerDims shape(int64_t d_model, int64_t heads) {
  return {d_model, heads, heads, d_model / heads, 64, 2};
}

MmRecConfig config_of(int64_t slots, int64_t stretch) {
  MmRecConfig config;
  config.slots = slots;
  config.stretch = stretch;
  return config;
}

struct How {
  std::vector<int32_t> chunks;
  int64_t checkpoint_interval = 0;
  std::vector<std::string> recompute{};
  kernels::ComputeType compute_type = kernels::ComputeType::kFloat32;
};

// What a mixer gives for a sequence, forward and, chunk by chunk, back; and what it saved.
struct Outcome {
  std::vector<float> y_and_state, gradients;
  size_t saved = 0;
};

Outcome outcome(const MmRecConfig& c, const How& how, int64_t D = 32, int64_t R = 200) {
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
  MixerUnderTest<MmRec> m(shape(D, 2), c);
  m.checkpoint_interval = how.checkpoint_interval;
  m.recompute = how.recompute;
  m.compute_type = how.compute_type;
  StateRows states(1, m.mixer.state_bytes(R));
  const State state = states.state();
  Floats y({R, D}), dx({R, D});
  int32_t at = 0;
  for (const int32_t n : how.chunks) {
    RaggedBatchBuilder data;
    const RaggedBatch w = data.set(std::vector<int32_t>{0, n}, std::vector<int32_t>{at});
    const auto rows = [&](const Floats& all) { return all.tensor().slice(at, n); };
    m.forward(w, rows(x), rows(y), &state, true);
    m.backward(w, rows(x), rows(dy), rows(dx), &state, nullptr);
    at += n;
  }
  Outcome all{{y.span().begin(), y.span().end()}, {dx.span().begin(), dx.span().end()}, {}};
  all.y_and_state.insert(all.y_and_state.end(), states.row(0).begin(), states.row(0).end());
  for (const auto& g : m.gradients) all.gradients.insert(all.gradients.end(), g.begin(), g.end());
  all.saved = m.saved_bytes();
  return all;
}

const How kWhole{{200}};

TEST(MmRecMixer, GivesTheSameBitsHoweverASequenceIsCut) {
  for (const char* recurrence : {"full", "linear"}) {
    MmRecConfig c = config_of(4, 5);
    c.recurrence = recurrence;
    const Outcome whole = outcome(c, kWhole);
    for (const auto& chunks : {std::vector<int32_t>(200, 1), {3, 1, 60, 64, 72}, {64, 128, 8}})
      EXPECT_TRUE(same_bits(outcome(c, {chunks}).y_and_state, whole.y_and_state));
  }
}

TEST(MmRecMixer, InBfloat16ItIsCutAtGroupsOfRowsWithTheSameBitsAndSavesLess) {
  const auto cut = [](std::vector<int32_t> chunks, kernels::ComputeType type) {
    return outcome(config_of(4, 5), {std::move(chunks), 0, {}, type});
  };
  const auto type = kernels::ComputeType::kBf16;
  const Outcome whole = cut({200}, type), exact = cut({200}, kernels::ComputeType::kFloat32);
  for (const auto& chunks : {std::vector<int32_t>(200, 1), {3, 1, 60, 64, 72}, {64, 128, 8}})
    EXPECT_TRUE(same_bits(cut(chunks, type).y_and_state, whole.y_and_state));
  const size_t row = 200 * 32 * sizeof(float);
  EXPECT_LT(whole.saved + 11 * row / 2, exact.saved);  // 3.75 rows instead of 9.5
  // Roundings of 2^-9, and what a recurrence makes of them.
  const auto near = [](const std::vector<float>& got, const std::vector<float>& want) {
    ASSERT_EQ(got.size(), want.size());
    double error = 0, size = 0;
    for (size_t i = 0; i < got.size(); ++i) {
      const double a = static_cast<double>(got[i]), b = static_cast<double>(want[i]);
      error += (a - b) * (a - b);
      size += b * b;
    }
    EXPECT_LT(std::sqrt(error / size), 0.01);
  };
  near(whole.y_and_state, exact.y_and_state);
  near(whole.gradients, exact.gradients);
}

TEST(MmRecMixer, FusedAndHoistedOrNotGiveTheSameBits) {
  for (const char* recurrence : {"full", "linear"})
    for (const bool memory : {true, false}) {
      MmRecConfig c = config_of(4, 5);
      c.recurrence = recurrence;
      c.memory = memory;
      const Outcome want = outcome(c, kWhole);
      for (const auto& [fused, hoisted] : {std::pair{true, false}, {false, true}, {false, false}}) {
        c.fused = fused;
        c.hoisted = hoisted;
        const Outcome got = outcome(c, kWhole);
        EXPECT_TRUE(same_bits(got.y_and_state, want.y_and_state)) << fused << hoisted;
        EXPECT_TRUE(same_bits(got.gradients, want.gradients)) << fused << hoisted;
      }
    }
}

TEST(MmRecMixer, WhatIsRecomputedIsTheSameToTheBitAndNotSaved) {
  for (const auto compute_type : {kernels::ComputeType::kFloat32, kernels::ComputeType::kBf16,
                                  kernels::ComputeType::kInt16}) {
    using Parts = std::vector<std::string>;
    const auto how = [&](int64_t every, const Parts& parts) {
      return How{{200}, every, parts, compute_type};
    };
    const MmRecConfig c = config_of(4, 5);
    const Outcome want = outcome(c, how(0, {}));
    const size_t row = 200 * 32 * sizeof(float);
    size_t less = want.saved;
    const Parts both = {"gates", "memory_attention"};
    // In bfloat16 only what is saved: no σ in the decay.
    const bool bf16 = compute_type == kernels::ComputeType::kBf16;
    const size_t inside = bf16 ? row / 4 : 5 * row / 2, attention = bf16 ? row : 2 * row;
    for (const auto& [parts, saving] : {std::pair{Parts{"gates"}, inside},
                                        {Parts{"memory_attention"}, attention},
                                        {both, inside + attention}}) {
      const Outcome got = outcome(c, how(0, parts));
      EXPECT_TRUE(same_bits(got.y_and_state, want.y_and_state));
      EXPECT_TRUE(same_bits(got.gradients, want.gradients));
      EXPECT_LT(got.saved, want.saved - saving + row / 8);
      less = std::min(less, got.saved);
    }
    const Outcome all = outcome(c, how(50, both));
    EXPECT_TRUE(same_bits(all.gradients, want.gradients));
    EXPECT_LT(all.saved, less);
  }
}

// Changes row `at` of the input and tells which rows of the output change with it.
std::vector<bool> rows_changed(const MmRecConfig& c, int64_t T, int64_t at) {
  const int64_t D = 16;
  const Floats x({T, D}, 0, 1);
  MixerUnderTest<MmRec> m(shape(D, 2), c);
  RaggedBatchBuilder data;
  const RaggedBatch w = data.whole(1, T);
  Floats before({T, D}), after({T, D});
  m.forward(w, x, before, nullptr, false);
  for (int64_t j = 0; j < D; ++j) x[at * D + j] += 0.5f;
  m.forward(w, x, after, nullptr, false);
  std::vector<bool> changed;
  for (int64_t t = 0; t < T; ++t)
    changed.push_back(std::memcmp(before.tensor().row(t), after.tensor().row(t),
                                  static_cast<size_t>(D) * sizeof(float)) != 0);
  return changed;
}

TEST(MmRecMixer, NoFutureTokenChangesABitBeforeIt) {
  const int64_t T = 130;
  for (const char* recurrence : {"full", "linear"}) {
    MmRecConfig c = config_of(4, 8);
    c.recurrence = recurrence;
    for (const int64_t at : {0, 7, 8, 63, 64, 100, 129}) {
      const std::vector<bool> changed = rows_changed(c, T, at);
      for (int64_t t = 0; t < at; ++t) EXPECT_FALSE(changed[static_cast<size_t>(t)]) << at << t;
      EXPECT_TRUE(changed[static_cast<size_t>(at)]);
    }
  }
}

TEST(MmRecMixer, TheMemoryReachesBeyondTheRecurrence) {
  // r near 1 and a decay near 0 make the recurrence forget within some tokens.
  const int64_t D = 16, T = 600;
  for (const bool memory : {true, false}) {
    MmRecConfig c = config_of(4, 8);
    c.memory = memory;
    MixerUnderTest<MmRec> m(shape(D, 2), c);
    size_t i = 0;
    m.mixer.visit([&](const ParamSpec& spec, Param&) {
      if (spec.name == "gates.bias") std::fill_n(m.weights[i].begin(), D, 30.0f);
      if (spec.name.find("decay.1") != spec.name.npos)
        std::fill(m.weights[i].begin(), m.weights[i].end(), 0.0f);
      ++i;
    });
    const Floats x({T, D}, 0, 1);
    RaggedBatchBuilder data;
    const RaggedBatch w = data.whole(1, T);
    Floats before({T, D}), after({T, D});
    m.forward(w, x, before, nullptr, false);
    for (int64_t j = 0; j < D; ++j) x[j] += 1.0f;
    m.forward(w, x, after, nullptr, false);
    const auto same = [&](int64_t t) {
      return std::memcmp(before.tensor().row(t), after.tensor().row(t),
                         static_cast<size_t>(D) * sizeof(float)) == 0;
    };
    // Level 2 holds 4 x 4 x 4 stretches of 8 tokens.
    EXPECT_EQ(same(250), !memory);
    EXPECT_EQ(same(511), !memory);
    EXPECT_TRUE(same(599) || memory);
  }
}

TEST(MmRecMixer, HundredThousandStepsDoNotGrow) {
  const int64_t D = 8, chunk = 10'000;
  for (const char* recurrence : {"full", "linear"}) {
    MmRecConfig c;
    c.recurrence = recurrence;
    MixerUnderTest<MmRec> m(shape(D, 2), c);
    // A decay as slow as it may be, at every step: its bound is all that keeps h from growing.
    size_t i = 0;
    m.mixer.visit([&](const ParamSpec& spec, Param&) {
      if (spec.name.find("decay.1") != spec.name.npos)
        for (float& w : m.weights[i]) w = std::abs(w) * 1000;
      ++i;
    });
    StateRows states(1, m.mixer.state_bytes(0));
    const State state = states.state();
    const Floats x({chunk, D}, 0, 1);
    for (float& v : x.span()) v = std::abs(v);
    Floats y({chunk, D});
    float early = 0, late = 0;
    for (int32_t at = 0; at < 100'000; at += static_cast<int32_t>(chunk)) {
      RaggedBatchBuilder data;
      m.forward(
          data.set(std::vector<int32_t>{0, static_cast<int32_t>(chunk)}, std::vector<int32_t>{at}),
          x, y, &state, false);
      float most = 0;
      for (const float v : y.span()) {
        ASSERT_TRUE(std::isfinite(v));
        most = std::max(most, std::abs(v));
      }
      (at == 0 ? early : late) = std::max(at == 0 ? early : late, most);
    }
    EXPECT_LE(late, 1.1f * early);
  }
}

TEST(MmRecMixer, ItsStateDoesNotGrow) {
  MmRecConfig c;
  const MmRec with(shape(16, 2), c);
  c.memory = false;
  const MmRec without(shape(16, 2), c);
  for (const int64_t t : {0, 1, 1'000'000}) {
    EXPECT_EQ(with.state_bytes(t), (2 * 16 + 3 * 16 * 2 * 16) * sizeof(float));
    EXPECT_EQ(without.state_bytes(t), 16 * sizeof(float));
  }
}

TEST(MmRecMixer, HasTheWorkOfItsDefinition) {
  const int64_t D = 64;
  const auto parameters = [&](const char* setting, const char* value) {
    const SettingMap options({{std::string("mm_rec.") + setting, value}});
    const auto mixer = make_mixer(parse_mixer("mm_rec", options), shape(D, 2));
    int64_t n = 0;
    mixer->visit([&](const ParamSpec& spec, Param&) { n += spec.size(); });
    return n;
  };
  EXPECT_EQ(parameters("recurrence", "full"), 12 * D * D + 2 * D + D);
  EXPECT_EQ(parameters("recurrence", "linear"), 11 * D * D + 2 * D + D);
  EXPECT_EQ(parameters("memory", "false"), 7 * D * D + 2 * D);
}

TEST(MmRecMixer, RefusesWhatItCannotBe) {
  const auto error = [](const char* setting, const char* value) {
    const SettingMap options({{std::string("mm_rec.") + setting, value}});
    return error_of([&] { make_mixer(parse_mixer("mm_rec", options), shape(12, 3)); });
  };
  EXPECT_EQ(error("heads", "5"), "mm_rec.heads: expected a divisor of d_model = 12, found 5");
  EXPECT_EQ(error("heads", "-1"), "mm_rec.heads: expected 1 to 4096, found -1");
  EXPECT_EQ(error("inner", "-1"), "mm_rec.inner: expected 1 to 65536, found -1");
  EXPECT_EQ(error("slots", "0"), "mm_rec.slots: expected 4 to 4096, found 0");
  EXPECT_EQ(error("stretch", "0"), "mm_rec.stretch: expected 1 to 1048576, found 0");
  EXPECT_EQ(error("mu", "1"), "mm_rec.mu: expected 0 or more, below 1, found 1");
  EXPECT_EQ(error("recurrence", "half"),
            "mm_rec.recurrence: expected full or linear, found 'half'");
  EXPECT_EQ(error("memory", "on"), "mm_rec.memory: expected true or false, found 'on'");
}

}  // namespace
}  // namespace refrain
