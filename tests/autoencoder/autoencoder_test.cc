#include "refrain/autoencoder/autoencoder.h"

#include <functional>

#include "refrain/autoencoder/decoder.h"
#include "refrain/base/random.h"
#include "refrain/io/json.h"
#include "refrain/model/workspace.h"
#include "support/autoencoder_trial.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"
#include "support/threads.h"

namespace refrain {
namespace {

TEST(Autoencoder, GradientsAreTheReferencesForEveryDecoderAndForcing) {
  for (const std::string decoder : {"plain", "cross_attention", "self_attention"})
    for (const Forced& forced : {Forced{}, Forced{0, 1, 0, 0, 1, 0}, Forced(6, 1)}) {
      SCOPED_TRACE(decoder + " " + std::to_string(forced.size()));
      Trial trial(tiny("lstm", decoder));
      expect_gradients(trial, forced, 3);
    }
}

TEST(Autoencoder, GradientsAreTheReferencesForEveryCellLossAndNorm) {
  for (const std::string cell : {"rnn", "gru"})
    for (const std::string decoder : {"plain", "cross_attention"})
      for (const Forced& forced : {Forced{0, 0, 1}, Forced(6, 1)}) {
        SCOPED_TRACE(cell + " " + decoder);
        AutoencoderConfig config = tiny(cell, decoder);
        config.bottleneck_norm = "rms_norm";
        config.loss = cell == "rnn" ? "mse" : "cosine";
        config.head_dim = 4;
        config.position_codes = cell == "rnn" ? "all" : "queries";
        Trial trial(config);
        expect_gradients(trial, forced, 5);
      }
}

TEST(Autoencoder, DropoutIsOnWhatEveryLayerReads) {
  for (const std::string decoder : {"plain", "cross_attention", "self_attention"})
    for (const Forced& forced : {Forced{0, 1, 0, 0, 1, 0}, Forced(6, 1)}) {
      SCOPED_TRACE(decoder + " " + std::to_string(forced.size()));
      Trial trial(tiny("gru", decoder));
      trial.dropout = 0.4f;
      trial.settings = [&](ExecutionContext& ctx) {
        ctx.dropout = {.rate = trial.dropout, .key = Trial::kDropoutKey};
      };
      expect_gradients(trial, forced, 5);
      const auto weights = trial.reference_weights();
      const double loss = trial.reference_loss(weights, forced).real();
      trial.dropout = 0;
      EXPECT_GT(std::abs(trial.reference_loss(weights, forced).real() - loss), 1e-3);
    }
}

// One setting of a step after another, in micro-batches and whole.
void expect_same_bits(const AutoencoderConfig& config, const Forced& forced,
                      std::span<const std::function<void(ExecutionContext&)>> all) {
  Trial trial(config, {4, 1, 66, 7, 7});
  std::vector<float> want;
  for (const auto& settings : all)
    for (const size_t at_once : {100, 1, 2}) {
      trial.settings = settings;
      trial.train(forced, at_once);
      if (want.empty()) want = trial.results();
      EXPECT_TRUE(same_bits(trial.results(), want)) << at_once;
    }
}

TEST(Autoencoder, RecomputationChangesNoBit) {
  static const std::vector<std::string> parts = {"probabilities"};
  using Settings = std::function<void(ExecutionContext&)>;
  for (const auto type :
       {kernels::ComputeType::kFloat32, kernels::ComputeType::kBf16, kernels::ComputeType::kInt16})
    for (const std::string decoder : {"plain", "cross_attention", "self_attention"})
      for (const Forced& forced : {Forced{0, 0, 1, 0, 1}, Forced(7, 1), Forced(70, 1)}) {
        SCOPED_TRACE(fmt::format("{} {} {}", decoder, forced.size(), static_cast<int>(type)));
        AutoencoderConfig config = tiny(decoder == "plain" ? "gru" : "lstm", decoder);
        config.hidden = 36;
        config.heads = 3;
        config.flash = false;
        const auto usual = [&](ExecutionContext& ctx) {
          ctx.compute_type = type;
          ctx.dropout = {.rate = 0.3f, .key = Trial::kDropoutKey};
        };
        std::vector<Settings> all = {usual};
        for (const int64_t every : {1, 5, 100})
          all.emplace_back([=](ExecutionContext& ctx) {
            usual(ctx);
            ctx.checkpoint_interval = every;
          });
        all.emplace_back([=](ExecutionContext& ctx) {
          usual(ctx);
          ctx.recompute = parts;
        });
        expect_same_bits(config, forced, all);
      }
}

TEST(Autoencoder, RecomputationTakesLessMemory) {
  AutoencoderConfig config = tiny();
  config.hidden = 64;
  config.flash = false;
  static const std::vector<std::string> parts = {"probabilities"};
  Trial all(config, {50, 50, 50, 50, 50, 50}), some(config, {50, 50, 50, 50, 50, 50});
  all.train({});
  some.settings = [](ExecutionContext& ctx) {
    ctx.checkpoint_interval = 14;
    ctx.recompute = parts;
  };
  some.train({});
  EXPECT_LT(some.bytes(), 0.8 * static_cast<double>(all.bytes()));
}

TEST(Autoencoder, RoundedProductsAreNearTheWhole) {
  for (const Forced& forced : {Forced{}, Forced(6, 1)}) {
    Trial whole(tiny());
    whole.train(forced);
    const std::vector<float> want = whole.results();
    double size = 0;
    for (const float v : want) size = std::max(size, std::abs(static_cast<double>(v)));
    for (const auto type : {kernels::ComputeType::kBf16, kernels::ComputeType::kInt16}) {
      Trial rounded(tiny());
      rounded.settings = [=](ExecutionContext& ctx) { ctx.compute_type = type; };
      rounded.train(forced);
      const std::vector<float> got = rounded.results();
      EXPECT_FALSE(same_bits(got, want));
      for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 0.02 * size);
    }
  }
}

TEST(Autoencoder, EveryInstructionSetHasTheGradients) {
  for_each_target([] {
    Trial trial(tiny(), {3, 5});
    expect_gradients(trial, {0, 1}, 11);
  });
}

TEST(Autoencoder, FrozenTensorsChangeNoOtherGradient) {
  const std::vector<int32_t> tokens = {1, 2, 3, 0, 4, 2, 2, 1, 0, 3, 4};
  for (const std::string decoder : {"plain", "cross_attention", "self_attention"})
    for (const bool cached : {true, false}) {
      AutoencoderConfig config = tiny("gru", decoder);
      config.cached = cached || decoder != "cross_attention";
      config.vocab_size = 5;
      config.bottleneck_norm = "rms_norm";
      Trial whole(config);
      whole.train({0, 1}, 2, tokens);
      const auto want = whole.named_gradients();
      for (const auto& entry : whole.model.parameters().entries()) {
        const std::string& frozen = entry.spec.name;
        Trial some(config, {4, 1, 6}, [&](const ParamSpec& spec) { return spec.name != frozen; });
        some.train({0, 1}, 2, tokens);
        const auto got = some.named_gradients();
        EXPECT_LT(some.gradients().size(), whole.gradients().size());
        EXPECT_LT(got.size(), want.size());
        for (const auto& [name, gradient] : got)
          EXPECT_TRUE(same_bits(gradient, want.at(name))) << frozen << " " << name;
      }
      Trial none(config, {4, 1, 6}, [](const ParamSpec&) { return false; });
      none.train({0, 1}, 2, tokens);
      EXPECT_TRUE(same_bits(none.losses, whole.losses));
    }
}

TEST(Autoencoder, SwitchesChangeTheSpeedNotTheNumbers) {
  const Forced none;
  Trial usual(tiny());
  usual.train(none);
  for (const char* name : {"fused", "flash", "cached"}) {
    AutoencoderConfig config = tiny();
    config.visit([&](const char* field, auto& value, const char*) {
      if constexpr (std::is_same_v<std::decay_t<decltype(value)>, bool>)
        if (std::string(field) == name) value = false;
    });
    if (std::string(name) == "cached") config.cached = false;
    Trial other(config);
    other.train(none);
    // Fused and cached are the same chains of additions forward; flash's maximum is a running one.
    if (std::string(name) != "flash") {
      EXPECT_TRUE(same_bits(other.losses, usual.losses)) << name;
    }
    if (std::string(name) == "fused") {
      EXPECT_TRUE(same_bits(other.gradients(), usual.gradients()));
    }
    const std::vector<float> got = other.results(), want = usual.results();
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 2e-6) << name;
  }
}

TEST(Autoencoder, AllStepsForcedAtOnceIsTheLoopToTheBit) {
  for (const std::string cell : {"rnn", "lstm", "gru"}) {
    AutoencoderConfig config = tiny(cell);
    Trial at_once(config);
    config.cached = false;  // which is always a loop
    Trial loop(config);
    const Forced all(6, 1);
    at_once.train(all);
    loop.train(all);
    EXPECT_TRUE(same_bits(at_once.losses, loop.losses)) << cell;
  }
}

TEST(Autoencoder, ThreadsAndMicroBatchesNeverChangeABit) {
  for (const std::string decoder : {"plain", "cross_attention", "self_attention"})
    // With seven forced steps short sequences alone run without a loop, and beside a long one not.
    for (const Forced& forced : {Forced{0, 0, 1, 0, 1}, Forced(7, 1), Forced(70, 1)}) {
      for (const int64_t window : {0, 5}) {
        if (window > 0 && decoder == "plain") continue;
        AutoencoderConfig config = tiny("lstm", decoder);
        config.hidden = 36;
        config.heads = 3;
        config.vocab_size = 9;
        config.window = window;
        const std::vector<int32_t> lengths = {4, 1, 66, 7, 7};
        std::vector<int32_t> tokens;
        for (int32_t i = 0; i < 85; ++i) tokens.push_back(i % 9);
        Trial trial(config, lengths);
        trial.train(forced, 100, tokens);
        const std::vector<float> want = trial.results();
        for (const int threads : {1, 2, 3})
          for (const size_t at_once : {1, 2, 5}) {
            set_threads(threads);
            trial.train(forced, at_once, tokens);
            EXPECT_TRUE(same_bits(trial.results(), want)) << decoder << threads << at_once;
          }
        set_threads(0);
      }
    }
}

TEST(Autoencoder, ALearnedTableIsTaughtByWhatItIsAsAnInput) {
  for (const Forced& forced : {Forced{0, 1, 0, 1}, Forced(6, 1)}) {
    AutoencoderConfig config = tiny();
    config.vocab_size = 11;
    Trial trial(config);
    std::vector<int32_t> tokens;
    for (int32_t i = 0; i < 11; ++i) tokens.push_back(i);  // every row its own vector
    trial.train(forced, 100, tokens);
    const auto weights = trial.reference_weights();
    const std::vector<float> got = trial.named_gradients().at("table.weight");
    std::vector<Complex> in(trial.x.begin(), trial.x.end());
    const std::vector<double> want =
        complex_step(in, [&] { return trial.reference_loss(weights, forced, &in); });
    ASSERT_EQ(got.size(), want.size());
    for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5);
  }
}

TEST(Autoencoder, ForcedStepsSeeTheVectorBeforeTheirsAndNoLaterOne) {
  // With z given, what x[3] is changes only the outputs after step 3.
  const AutoencoderConfig config = tiny("lstm", "plain");
  const Trial trial(config, {5});
  const Forced all(5, 1);
  Decoder decoder(config);
  std::vector<std::vector<float>> weights;
  Random random(1);
  decoder.visit([&](const ParamSpec& spec, Param& p) {
    weights.emplace_back(static_cast<size_t>(spec.size()));
    for (float& w : weights.back()) w = static_cast<float>(random.normal());
    p.w.rank = static_cast<int>(spec.shape.size());
    std::copy(spec.shape.begin(), spec.shape.end(), p.w.dim.begin());
    p.w.data = weights.back().data();
  });
  const std::vector<float> z = {0.3f, -0.2f, 0.9f}, m(5 * 6, 0.0f);
  const auto outputs = [&](const std::vector<float>& x) {
    RaggedBatchBuilder data;
    const RaggedBatch w = data.whole(1, 5);
    std::vector<float> y(25);
    Workspace workspace;
    workspace.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      const auto run = decoder.forward(
          ctx, w, {{z.data(), {1, 3}}, {m.data(), {5, 6}}, {x.data(), {5, 5}}, all}, true, saved);
      if (!ctx.planning()) std::copy(run.y.begin(), run.y.end(), y.begin());
    });
    return y;
  };
  std::vector<float> x = trial.x;
  const std::vector<float> usual = outputs(x);
  for (int64_t i = 3 * 5; i < 4 * 5; ++i) x[static_cast<size_t>(i)] += 1;
  const std::vector<float> changed = outputs(x);
  EXPECT_TRUE(same_bits(std::span(usual).first(20), std::span(changed).first(20)));
  EXPECT_FALSE(same_bits(std::span(usual).last(5), std::span(changed).last(5)));
}

TEST(Autoencoder, ReconstructsWithoutForcingAndMapsItsAttention) {
  Trial trial(tiny());
  trial.train({});
  RaggedBatchBuilder data;
  const std::vector<int32_t> offset = {0, 4, 5, 11}, start = {0, 0, 0};
  const RaggedBatch w = data.set(offset, start);
  std::vector<float> y(trial.x.size()), losses(11), cosines(11);
  std::vector<std::vector<float>> map;
  Workspace workspace;
  const ConstTensor x(trial.x.data(), {11, 5});
  workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
    trial.model.reconstruct(ctx, w, x, {y.data(), {11, 5}}, &map);
  });
  trial.model.score({y.data(), {11, 5}}, x, {losses.data(), {11}}, {cosines.data(), {11}});
  EXPECT_TRUE(same_bits(losses, trial.losses));
  EXPECT_TRUE(same_bits(cosines, trial.cosines));
  ASSERT_EQ(map.size(), 11u);
  for (size_t r = 0; r < map.size(); ++r) {
    EXPECT_EQ(map[r].size(), r < 4 ? 4u : r < 5 ? 1u : 6u);
    double sum = 0;
    for (const float p : map[r]) sum += static_cast<double>(p);
    EXPECT_NEAR(sum, 1, 1e-6);
  }
}

// Position codes are alike for all words, so a unit that they switch off is off for every word.
TEST(Autoencoder, UnitsOfTheRectifierBeginOn) {
  for (const int64_t head_dim : {0, 8}) {
    AutoencoderConfig config;
    config.width = 24;
    config.hidden = 128;
    config.layers = 1;
    config.bottleneck = 16;
    config.heads = 8;
    config.head_dim = head_dim;
    Decoder decoder(config);
    ParameterStore parameters;
    parameters.declare([&](const ParamVisitor& v) { decoder.visit(v); });
    parameters.allocate();
    parameters.initialize(1);
    RaggedBatchBuilder data;
    const RaggedBatch w = data.whole(8, 20);
    Random random(2);
    std::vector<float> z(8 * 16), m(160 * 128);
    for (std::vector<float>* all : {&z, &m})
      for (float& one : *all) one = static_cast<float>(random.normal());
    std::vector<int64_t> on(128);
    Workspace workspace;
    workspace.run({}, [&](ExecutionContext& ctx, Arena& saved) {
      const Decoder::Activations run = decoder.forward(
          ctx, w, {{z.data(), {8, 16}}, {m.data(), {160, 128}}, {}, {}}, false, saved);
      for (int64_t r = 0; r < 160 && !ctx.planning(); ++r)
        for (size_t j = 0; j < on.size(); ++j) on[j] += run.s.row(r)[j] > 0 ? 1 : 0;
    });
    int64_t all = 0;
    for (const int64_t rows : on) {
      EXPECT_GT(rows, 0);
      all += rows;
    }
    EXPECT_GT(static_cast<double>(all), 0.9 * 160 * 128);
  }
}

TEST(Autoencoder, ADirectoryHoldsIt) {
  const TemporaryFolder folder;
  AutoencoderConfig config = tiny("gru", "self_attention");
  config.bottleneck_norm = "rms_norm";
  config.window = 4;
  Trial trial(config);
  EXPECT_FALSE(Autoencoder::is_model(folder.path()));
  trial.model.save_config(folder.path());
  trial.model.save_weights(folder / "model.safetensors");
  EXPECT_TRUE(Autoencoder::is_model(folder.path()));
  const auto loaded = Autoencoder::load(folder.path());
  EXPECT_TRUE(same_bits(loaded->parameters().weights(), trial.model.parameters().weights()));
  EXPECT_EQ(loaded->config().window, 4);
  io::Json config_json = io::read_json(folder / "config.json");
  config_json.erase("window");
  config_json.erase("stride");
  folder.put("config.json", io::to_text(config_json));  // of a former version
  EXPECT_EQ(Autoencoder::load(folder.path())->config().window, 0);
  config_json["unk_token_id"] = 0;
  const std::string path = folder.put("config.json", io::to_text(config_json));
  EXPECT_EQ(error_of([&] { Autoencoder::load(folder.path()); }),
            path + ": \"unk_token_id\": expected no setting of this name, found 0");
  Autoencoder other(tiny());
  EXPECT_NE(error_of([&] { other.load_weights(folder.path()); }).find("expected"),
            std::string::npos);
}

TEST(Autoencoder, RefusesASequenceThatIsHiddenWhole) {
  Trial hidden(tiny(), {3, 0});
  EXPECT_EQ(error_of([&] { hidden.train({}); }),
            "sequence 2: expected a token that no mask hides, found none");
}

}  // namespace
}  // namespace refrain
