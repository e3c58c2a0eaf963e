#include "refrain/model/parameters/initialisation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/random.h"
#include "refrain/mixers/registry.h"
#include "refrain/model/language_model.h"
#include "refrain/model/parameters/tensor_names.h"
#include "refrain/model/workspace.h"

namespace refrain {
namespace {

ModelConfig config_of(const std::string& pattern, const std::string& block, int64_t layers = 3) {
  ModelConfig config;
  config.vocab_size = 40;
  config.d_model = 48;
  config.layers = layers;
  config.heads = 4;
  config.d_ff = 64;
  config.context = 32;
  config.pattern = pattern;
  config.block = block;
  return config;
}

struct Weights {
  ParamSpec spec;
  std::vector<float> w;
};

std::map<std::string, Weights> initial(const ModelConfig& config, uint64_t seed,
                                       const Initialisation& initialisation = {}) {
  LanguageModel model(config);
  model.initialise(seed, initialisation);
  std::map<std::string, Weights> all;
  model.parameters().visit([&](const ParamSpec& spec, Param& param) {
    all[spec.name] = {spec, {param.w.begin(), param.w.end()}};
  });
  return all;
}

// What stacks of normed blocks began with before there was a choice: the mean and the deviation.
std::pair<float, float> in_blocks(const ParamSpec& spec, int64_t layers) {
  const std::string& name = spec.name;
  const auto ends = [&](std::initializer_list<const char*> endings) {
    return std::any_of(endings.begin(), endings.end(),
                       [&](const char* ending) { return name.ends_with(ending); });
  };
  if (ends({"norm.weight"})) return {1, 0};
  if (ends({".query_token"})) return {0, 1};
  if (ends({".gk_proj.bias"})) return {2, 2};
  if (ends({".gk_proj.1.bias"})) return {-4, 6};
  if (ends({"bias", "bias_ih_l0", "bias_hh_l0"})) return {0, 0};
  if (ends({"_ih_l0", "_hh_l0"})) return {0, 1 / std::sqrt(3 * static_cast<float>(48))};
  if (ends({".o_proj.weight", ".down_proj.weight"}))
    return {0, 0.02f / std::sqrt(2.0f * static_cast<float>(layers))};
  return {0, 0.02f};
}

TEST(InitialWeights, OfNormedBlocksAreWhatTheyWere) {
  for (const std::string& kind : mixer_kinds())
    for (const int64_t layers : {1, 3})
      for (const auto& [name, found] : initial(config_of(kind, "pre_norm", layers), 9)) {
        const auto [mean, std] = in_blocks(found.spec, layers);
        const bool remembers = kind == "lstm" && name.ends_with("bias_ih_l0");
        Random random(mix_key(9, llama_name(name)));
        for (size_t i = 0; i < found.w.size(); ++i) {
          float want = std == 0 ? mean : mean + static_cast<float>(random.normal()) * std;
          if (remembers && i / 48 == 1) want = 1;
          ASSERT_EQ(found.w[i], want) << kind << ": " << name << " at " << i;
        }
      }
}

double rms(const std::vector<float>& w, double mean = 0) {
  double sum = 0;
  for (float x : w) sum += (static_cast<double>(x) - mean) * (static_cast<double>(x) - mean);
  return std::sqrt(sum / static_cast<double>(w.size()));
}

// `w` is uniform between -limit and limit: never beyond, near to both ends, and as wide.
void expect_uniform(const Weights& found, double limit, const std::string& name) {
  const auto [low, high] = std::minmax_element(found.w.begin(), found.w.end());
  EXPECT_LE(static_cast<double>(*high), limit * (1 + 1e-6)) << name;
  EXPECT_GE(static_cast<double>(*low), -limit * (1 + 1e-6)) << name;
  // Four deviations of the estimate; of a square's mean, (4/45 / n)^½ limit².
  const double n = static_cast<double>(found.w.size()), mean_square = limit * limit / 3;
  EXPECT_NEAR(rms(found.w) * rms(found.w), mean_square, 4 * std::sqrt(4 / 45.0 / n) * limit * limit)
      << name;
}

TEST(InitialWeights, OfBareStacksAreAsWideAsTheirInputsAreMany) {
  const double D = 48, H = 30;
  auto all = initial(config_of("simple_rnn", "bare"), 3);
  EXPECT_NEAR(rms(all.at("embedding.weight").w), 1, 0.07);  // 4 (2 n)^-½
  const auto of = [&](const std::string& name) { return all.at("layers.1.mixer." + name); };
  expect_uniform(of("qkgv_proj.weight"), std::sqrt(3 / D), "qkgv");
  // Narrower, for what it reads is larger: sqrt(32 channels) of tanh times tanh.
  expect_uniform(of("o_proj.weight"), std::sqrt(3 / 64.0) / (std::sqrt(32.0) * 0.63 * 0.63), "o");
  for (const char* name : {"q_proj.bias", "k_proj.bias", "v_proj.bias", "gk_proj.bias"})
    expect_uniform(of(name), 1 / std::sqrt(D), name);
  expect_uniform(of("o_proj.bias"), 1 / std::sqrt(64.0), "o bias");
  expect_uniform(all.at("head.weight"), std::sqrt(3 / D), "head");
  expect_uniform(all.at("head.bias"), 1 / std::sqrt(D), "head bias");

  for (const std::string kind : {"rnn", "lstm", "gru"}) {
    LanguageModel model(
        with_settings(config_of(kind, "bare"), SettingMap({{kind + ".hidden", "30"}})));
    model.initialise(3);
    model.parameters().visit([&](const ParamSpec& spec, Param& param) {
      if (!spec.name.starts_with("layers.")) return;
      Weights w{spec, {param.w.begin(), param.w.end()}};
      const bool output = spec.name.ends_with("o_proj.weight");
      expect_uniform(w, (output ? std::sqrt(3.0) : 1) / std::sqrt(H), spec.name);
      EXPECT_GT(rms(w.w), 0) << spec.name;
    });
  }
}

TEST(InitialWeights, AreAFunctionOfSeedAndNameAlone) {
  for (const std::string& kind : mixer_kinds()) {
    const auto small = initial(config_of(kind, "bare", 1), 5);
    const auto deep = initial(config_of(kind + " gla lstm", "bare"), 5);
    const auto other = initial(config_of(kind, "bare", 1), 6);
    for (const auto& [name, found] : small) {
      EXPECT_EQ(found.w, deep.at(name).w) << name;
      if (rms(found.w, static_cast<double>(found.w[0])) > 0) {
        EXPECT_NE(found.w, other.at(name).w) << name;
      }
    }
  }
}

TEST(InitialWeights, TheSchemeIsChosenOrGiven) {
  const auto same = [](const auto& a, const auto& b) {
    return std::all_of(a.begin(), a.end(),
                       [&](const auto& it) { return it.second.w == b.at(it.first).w; });
  };
  const ModelConfig bare = config_of("lstm gla mm_rec", "bare");
  const ModelConfig normed = config_of("lstm gla mm_rec", "pre_norm");
  EXPECT_TRUE(same(initial(bare, 1), initial(bare, 1, {"fan_in"})));
  EXPECT_FALSE(same(initial(bare, 1), initial(bare, 1, {"normal"})));
  EXPECT_TRUE(same(initial(normed, 1), initial(normed, 1, {"normal"})));
  EXPECT_FALSE(same(initial(normed, 1), initial(normed, 1, {"fan_in"})));
  const auto wide = initial(normed, 1, {"normal", 0.08}), usual = initial(normed, 1);
  const auto ratio = [&](const char* name) { return rms(wide.at(name).w) / rms(usual.at(name).w); };
  EXPECT_NEAR(ratio("head.weight"), 4, 1e-5);
  EXPECT_NEAR(ratio("layers.1.mixer.o_proj.weight"), 4, 1e-5);
  EXPECT_NEAR(ratio("layers.0.mixer.weight_hh_l0"), 1, 1e-5);
}

TEST(InitialWeights, SettingsThatCannotBe) {
  const auto message = [](const Initialisation& settings, bool bare = false) {
    try {
      settings.scheme(bare);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(message({"xavier"}), "initialisation: expected auto, normal or fan_in, found 'xavier'");
  EXPECT_EQ(message({"auto", 0}), "init_std: expected above 0, at most 100, found 0");
  EXPECT_EQ(message({"auto", NAN}), "init_std: expected above 0, at most 100, found nan");
  EXPECT_EQ(message({"fan_in", 0.1}),
            "init_std: has a meaning with initialisation normal only, found 0.1");
  EXPECT_EQ(message({"auto", 0.1}, true),
            "init_std: has a meaning with initialisation normal only, found 0.1");
  EXPECT_EQ(message({"auto", 0.1}), "");
  EXPECT_EQ(message({"normal", 0.1}, true), "");
}

// What a token writes must reach the logits through every block, or no gradient comes back.
TEST(InitialWeights, LetATokenReachTheLogits) {
  for (const std::string& kind : mixer_kinds())
    for (const char* block : {"pre_norm", "bare"}) {
      LanguageModel model(config_of(kind, block, 2));
      model.initialise(1);
      std::vector<float> logits[2];
      for (int32_t token : {0, 1}) {
        const std::vector<int32_t> tokens{token, 2, 3, token}, offsets{0, 4}, first{0};
        RaggedBatchBuilder data;
        const RaggedBatch batch = data.set(offsets, first);
        logits[token].resize(40);
        Workspace workspace;
        workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
          model.logits(ctx, batch, tokens, {}, std::vector<int32_t>{3},
                       {logits[token].data(), {1, 40}});
        });
      }
      for (size_t i = 0; i < 40; ++i) logits[0][i] -= logits[1][i];
      EXPECT_GT(rms(logits[0]), 0.01) << kind << ", " << block;
    }
}

}  // namespace
}  // namespace refrain
