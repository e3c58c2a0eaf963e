#include "refrain/mixers/gla/gla.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <vector>

#include "refrain/mixers/gla/ref.h"
#include "refrain/mixers/registry.h"
#include "support/error_of.h"
#include "support/mixer_contract.h"

namespace refrain {
namespace {

MixerDims shape(int64_t d_model, int64_t heads) {
  return {d_model, heads, heads, d_model / heads, 64, 2};
}

// Every setting takes each of its values somewhere.
std::vector<GlaConfig> configs() {
  GlaConfig sigmoid;
  sigmoid.gate = "sigmoid";
  sigmoid.key_act = "sigmoid";
  sigmoid.output_gate = false;
  sigmoid.fused = false;
  GlaConfig bounded;
  bounded.key_act = bounded.value_act = "tanh";
  bounded.gate_rank = 3;
  bounded.gate_divisor = 4;
  bounded.output_norm = false;
  bounded.bias = true;
  bounded.scale = 0.5;
  GlaConfig odd;
  odd.heads = 3;
  odd.key_dim = 5;
  odd.value_dim = 18;
  odd.fused = false;
  GlaConfig convolved = odd, convolved_bounded = bounded;
  convolved.conv = 5;
  convolved_bounded.conv = 4;
  return {sigmoid, bounded, odd, convolved, convolved_bounded};
}

TEST(GlaMixer, KeepsTheContractWithEverySetting) {
  for (const GlaConfig& c : configs())
    for (int64_t found : {0, 13}) contract<Gla, GlaRef>(shape(8, 2), c, found);
}
TEST(GlaMixer, KeepsTheContractInTraining) {
  for (const GlaConfig& c : configs()) {
    training_contract<Gla>(shape(16, 2), c);
    recompute_contract<Gla>(shape(16, 2), c, {16, 48, 64, 1024});
  }
}

// What a mixer gives for some sequences, forward and back, as one row of numbers.
std::vector<float> everything(const GlaConfig& c, const std::vector<int32_t>& chunks) {
  const int64_t D = 32, R = 100;
  const Floats x({R, D}, 0, 1), dy({R, D}, 0, 2);
  MixerUnderTest<Gla> m(shape(D, 2), c);
  StateRows states(1, m.mixer.state_bytes(R));
  const State state = states.state();
  Floats y({R, D}), dx({R, D});
  int32_t at = 0;
  for (int32_t n : chunks) {
    RaggedBatchBuilder data;
    const RaggedBatch w = data.set(std::vector<int32_t>{0, n}, std::vector<int32_t>{at});
    const auto rows = [&](const Floats& all) { return all.tensor().slice(at, n); };
    m.forward(w, rows(x), rows(y), &state, true);
    m.backward(w, rows(x), rows(dy), rows(dx), &state, nullptr);
    at += n;
  }
  std::vector<float> all = all_of({&y, &dx});
  all.insert(all.end(), states.row(0).begin(), states.row(0).end());
  for (const auto& g : m.gradients) all.insert(all.end(), g.begin(), g.end());
  return all;
}

TEST(GlaMixer, OneProductOrSeveralGiveTheSameBits) {
  for (GlaConfig c : configs()) {
    c.fused = true;
    const std::vector<float> fused = everything(c, {100});
    c.fused = false;
    EXPECT_TRUE(same_bits(everything(c, {100}), fused));
  }
}

TEST(GlaMixer, GivesTheSameBitsHoweverASequenceIsCut) {
  const int64_t D = 32, R = 100;
  for (const GlaConfig& c : configs()) {
    const std::vector<float> whole = everything(c, {R});
    for (const auto& chunks : {std::vector<int32_t>(R, 1), std::vector<int32_t>{7, 1, 80, 12}}) {
      const std::vector<float> cut = everything(c, chunks);
      EXPECT_TRUE(same_bits(std::span(cut).first(R * D), std::span(whole).first(R * D)));
    }
  }
}

// A sequence in one compute type, forward and back, with gates that shut within a few tokens.
struct Shut {
  static constexpr int64_t kTokens = 1000, kWidth = 32;
  static constexpr float kLogit = -8;
  Floats x{{kTokens, kWidth}, 0, 1}, dy{{kTokens, kWidth}, 0, 2};
  Floats y{{kTokens, kWidth}}, dx{{kTokens, kWidth}};
  MixerUnderTest<Gla> m;

  Shut(const GlaConfig& c, kernels::ComputeType compute_type) : m(shape(kWidth, 2), c) {
    m.mixer.visit([](const ParamSpec& spec, Param& p) {
      if (spec.name == "gk_proj.1.bias") std::fill(p.w.begin(), p.w.end(), kLogit);
    });
    m.compute_type = compute_type;
    RaggedBatchBuilder data;
    const RaggedBatch w =
        data.set(std::vector<int32_t>{0, int32_t{kTokens}}, std::vector<int32_t>{0});
    m.forward(w, x.tensor(), y.tensor(), nullptr, true);
    m.backward(w, x.tensor(), dy.tensor(), dx.tensor(), nullptr, nullptr);
  }
};

double distance(std::span<const float> got, std::span<const double> want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    const double d = static_cast<double>(got[i]) - want[i];
    error += d * d;
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

// What makes products of a whole chunk possible elsewhere: queries times the product of gates so
// far, keys divided by it. In float32, and in bfloat16, which has the same range, it is no number.
TEST(GlaMixer, InBfloat16ItIsRightWhereDividingByProductsOfGatesIsNoNumber) {
  GlaConfig c;
  c.gate_divisor = 1;
  c.output_norm = false;  // which makes a number of any size of a head that reads almost nothing
  float gates = 1, score = 0;
  for (int i = 0; i < 64; ++i) gates *= 1 / (1 + std::exp(-Shut::kLogit));
  score += gates * (1 / gates);
  EXPECT_TRUE(std::isnan(score));

  const Shut exact(c, kernels::ComputeType::kFloat32), bf16(c, kernels::ComputeType::kBf16);
  std::vector<std::vector<double>> weights;
  for (const auto& w : bf16.m.weights) weights.emplace_back(w.begin(), w.end());
  const std::vector<double> input(bf16.x.span().begin(), bf16.x.span().end());
  std::vector<double> want(input.size()), state(bf16.m.mixer.state_bytes(0) / sizeof(float));
  GlaRef<double>{shape(Shut::kWidth, 2), c}.forward(weights, 0, Shut::kTokens, input.data(),
                                                    want.data(), state.data());
  EXPECT_LT(distance(exact.y.span(), want), 1e-5);
  // Operands are rounded by 2^-9, in products of products.
  EXPECT_LT(distance(bf16.y.span(), want), 0.03);
  const auto near = [](std::span<const float> got, std::span<const float> of_float32) {
    EXPECT_LT(distance(got, std::vector<double>(of_float32.begin(), of_float32.end())), 0.03);
  };
  near(bf16.dx.span(), exact.dx.span());
  for (size_t i = 0; i < bf16.m.gradients.size(); ++i)
    near(bf16.m.gradients[i], exact.m.gradients[i]);
}

TEST(GlaMixer, ASimpleRnnCellHasItsPublishedSize) {
  const auto mixer = make_mixer(parse_mixer("simple_rnn"), shape(128, 4));
  int64_t parameters = 0;
  std::vector<std::string> names;
  mixer->visit([&](const ParamSpec& spec, Param&) {
    parameters += spec.size();
    names.push_back(spec.name);
  });
  EXPECT_EQ(parameters, 128 * 160 + 160 + 64 * 128 + 128);
  EXPECT_EQ(names, (std::vector<std::string>{"qkgv_proj.weight", "q_proj.bias", "k_proj.bias",
                                             "gk_proj.bias", "v_proj.bias", "o_proj.weight",
                                             "o_proj.bias"}));
}

TEST(GlaMixer, ItsStateDoesNotGrow) {
  GlaConfig config;
  for (const size_t rows : {0, 3}) {
    config.conv = rows == 0 ? 0 : 4;
    const Gla mixer(shape(128, 4), config);
    EXPECT_EQ(mixer.state_bytes(1), (4 * 16 * 32 + rows * 4 * (2 * 16 + 32)) * sizeof(float));
    EXPECT_EQ(mixer.state_bytes(1'000'000), mixer.state_bytes(1));
  }
}

TEST(GlaMixer, AConvolutionAddsThreeFilters) {
  const auto shapes = [](const std::string& taps) {
    const auto mixer =
        make_mixer(parse_mixer("gla", SettingMap({{"gla.conv", taps}})), shape(128, 4));
    std::map<std::string, std::vector<int64_t>> all;
    mixer->visit([&](const ParamSpec& spec, Param&) { all[spec.name] = spec.shape; });
    return all;
  };
  auto want = shapes("0");
  want["q_conv1d.weight"] = want["k_conv1d.weight"] = {64, 4};
  want["v_conv1d.weight"] = {128, 4};
  EXPECT_EQ(shapes("4"), want);
}

TEST(GlaMixer, RefusesWhatItCannotBe) {
  const auto error = [](const char* setting, const char* value, const char* kind = "gla") {
    const SettingMap options({{std::string(kind) + "." + setting, value}});
    return error_of([&] { make_mixer(parse_mixer(kind, options), shape(12, 3)); });
  };
  EXPECT_EQ(error("gate", "open"), "gla.gate: expected low_rank or sigmoid, found 'open'");
  EXPECT_EQ(error("key_act", "relu"),
            "gla.key_act: expected identity, sigmoid or tanh, found 'relu'");
  EXPECT_EQ(error("value_act", "sigmoid"),
            "gla.value_act: expected identity or tanh, found 'sigmoid'");
  EXPECT_EQ(error("key_dim", "1025"), "gla.key_dim: expected 1 to 1024, found 1025");
  EXPECT_EQ(error("value_dim", "-1", "simple_rnn"),
            "simple_rnn.value_dim: expected 1 to 1024, found -1");
  EXPECT_EQ(error("heads", "5"),
            "gla.heads: expected a divisor of 12, found 5; or give key_dim and value_dim");
  EXPECT_EQ(error("heads", "-1"), "gla.heads: expected 1 to 4096, found -1");
  EXPECT_EQ(error("gate_rank", "0"), "gla.gate_rank: expected 1 to 4096, found 0");
  EXPECT_EQ(error("gate_divisor", "0"), "gla.gate_divisor: expected a number above 0, found 0");
  for (const std::string taps : {"-1", "1", "17"})
    EXPECT_EQ(error("conv", taps.c_str()), "gla.conv: expected 0 or 2 to 16, found " + taps);
  EXPECT_EQ(error("scale", "-1"), "gla.scale: expected 0 or a number above it, found -1");
}

TEST(GlaMixer, RefusesToKeepStatesBetweenChunks) {
  MixerUnderTest<Gla> m(shape(8, 2), SimpleRnnConfig{});
  m.checkpoint_interval = 24;
  const Floats x({4, 8}, 0, 1);
  Floats y({4, 8});
  RaggedBatchBuilder data;
  const RaggedBatch w = data.whole(1, 4);
  EXPECT_EQ(error_of([&] { m.forward(w, x, y, nullptr, true); }),
            "gradient_checkpointing: expected a multiple of 16 for simple_rnn, found 24");
  m.forward(w, x, y, nullptr, false);  // nothing is kept
}

}  // namespace
}  // namespace refrain
