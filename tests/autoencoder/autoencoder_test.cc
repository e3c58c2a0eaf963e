#include "refrain/autoencoder/autoencoder.h"

#include <algorithm>
#include <functional>
#include <map>

#include "refrain/autoencoder/ref.h"
#include "refrain/base/random.h"
#include "refrain/io/json.h"
#include "refrain/kernels/elementwise/dropout.h"
#include "refrain/model/workspace.h"
#include "support/error_of.h"
#include "support/kernel_testing.h"
#include "support/temporary_folder.h"
#include "support/threads.h"

namespace refrain {
namespace {

using Forced = std::vector<uint8_t>;

AutoencoderConfig tiny(const std::string& cell = "lstm",
                       const std::string& decoder = "cross_attention") {
  AutoencoderConfig c;
  c.width = 5;
  c.hidden = 6;
  c.layers = 2;
  c.bottleneck = 3;
  c.heads = 2;
  c.cell = cell;
  c.decoder = decoder;
  return c;
}

// A model with numbers in every weight, a window of sequences, and steps of training on them.
class Trial {
 public:
  using Trainable = std::function<bool(const ParamSpec&)>;
  explicit Trial(
      const AutoencoderConfig& config, std::vector<int32_t> lengths = {4, 1, 6},
      const Trainable& trainable = [](const ParamSpec&) { return true; })
      : model(config), lengths(std::move(lengths)) {
    model.parameters().set_trainable(trainable);
    model.parameters().initialize(7);
    model.parameters().allocate_gradients();
    Random random(3);
    model.parameters().visit([&](const ParamSpec&, Param& p) {
      for (float& w : p.w) w += 0.1f * static_cast<float>(random.normal());
    });
    int64_t rows = 0;
    for (const int32_t n : this->lengths) rows += n;
    for (int64_t i = 0; i < rows * config.width; ++i)
      x.push_back(static_cast<float>(random.normal()));
    losses.resize(static_cast<size_t>(rows));
    cosines.resize(losses.size());
  }

  static constexpr uint64_t kDropoutKey = 99;

  // How a step computes.
  std::function<void(ExecutionContext&)> settings = [](ExecutionContext&) {};

  // Sequences in micro-batches of `at_once`; gradients from nothing.
  void train(const Forced& forced, size_t at_once = 100, std::vector<int32_t> tokens = {}) {
    model.parameters().clear_gradients();
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    int64_t row = 0;
    for (size_t b = 0; b < lengths.size(); b += at_once) {
      std::vector<int32_t> offset = {0};
      for (size_t i = b; i < std::min(lengths.size(), b + at_once); ++i)
        offset.push_back(offset.back() + lengths[i]);
      RaggedBatchBuilder data;
      const RaggedBatch w =
          data.set(offset, std::vector<int32_t>(offset.size() - 1, 0), static_cast<int64_t>(b));
      const int64_t R = w.rows(), E = model.config().width;
      Autoencoder::TrainingBatch training{
          .x = {x.data() + row * E, {R, E}}, .forced = forced, .scale = 0.5f, .longest = longest};
      if (!tokens.empty())
        training.tokens =
            std::span(tokens).subspan(static_cast<size_t>(row), static_cast<size_t>(R));
      workspace_.run({}, [&](ExecutionContext& ctx, Arena& saved) {
        settings(ctx);
        model.train(ctx, w, training, {losses.data() + row, {R}}, {cosines.data() + row, {R}},
                    saved);
      });
      row += R;
    }
  }
  std::vector<float> gradients() {
    const auto g = model.parameters().gradients();
    return {g.begin(), g.end()};
  }
  std::vector<float> results() {
    std::vector<float> all = gradients();
    all.insert(all.end(), losses.begin(), losses.end());
    return all;
  }

  std::map<std::string, std::vector<Complex>> reference_weights() const {
    std::map<std::string, std::vector<Complex>> all;
    for (const auto& [name, shape, w, g] : model.parameters().file_tensors())
      all[name] = {w.begin(), w.end()};
    return all;
  }
  // Of what is trained.
  std::map<std::string, std::vector<float>> named_gradients() const {
    std::map<std::string, std::vector<float>> all;
    for (const auto& [name, shape, w, g] : model.parameters().file_tensors())
      if (g) all[name] = {g.begin(), g.end()};
    return all;
  }

  // 0.5 times the sum of the rows' losses, by the reference.
  Complex reference_loss(const std::map<std::string, std::vector<Complex>>& weights,
                         const Forced& forced, const std::vector<Complex>* inputs = nullptr) const {
    AutoencoderRef<Complex> ref(model.config(), weights);
    Complex sum = 0;
    size_t at = 0;
    for (size_t b = 0; b < lengths.size(); ++b) {
      const int32_t n = lengths[b];
      if (dropout > 0)
        ref.dropout = [&](bool decoder, int64_t l, int64_t t, int64_t j) {
          std::vector<float> mask(static_cast<size_t>(j + 1), 1.0f);
          const uint64_t row_id = b << 32 | static_cast<uint64_t>(t);
          kernels::dropout_apply({mask.data(), {1, j + 1}}, dropout,
                                 mix_key(kDropoutKey, "dropout site",
                                         static_cast<uint64_t>(2 * l + (decoder ? 1 : 0))),
                                 {&row_id, 1});
          return static_cast<double>(mask.back());
        };
      const size_t end = at + static_cast<size_t>(n * model.config().width);
      const std::vector<Complex> target(x.begin() + static_cast<long>(at),
                                        x.begin() + static_cast<long>(end));
      std::vector<Complex> in = target;
      if (inputs)
        in.assign(inputs->begin() + static_cast<long>(at),
                  inputs->begin() + static_cast<long>(end));
      Complex loss;
      ref.run(n, in, target, forced, loss);
      sum += 0.5 * loss;
      at = end;
    }
    return sum;
  }

  Autoencoder model;
  std::vector<int32_t> lengths;
  std::vector<float> x, losses, cosines;
  float dropout = 0;  // of the reference
  size_t bytes() const { return workspace_.bytes(); }

 private:
  Workspace workspace_;
};

// Every `stride`-th element of every weight against the complex step.
void expect_gradients(Trial& trial, const Forced& forced, size_t stride) {
  auto weights = trial.reference_weights();
  trial.train(forced);
  double loss = 0;
  for (const float l : trial.losses) loss += 0.5 * static_cast<double>(l);
  EXPECT_NEAR(loss, trial.reference_loss(weights, forced).real(), 1e-5);
  constexpr double kStep = 1e-30;
  for (const auto& [name, got] : trial.named_gradients()) {
    std::vector<Complex>& w = weights.at(name);
    double size = 1e-3;
    for (const float g : got) size = std::max(size, std::abs(static_cast<double>(g)));
    for (size_t i = 0; i < w.size(); i += stride) {
      w[i] += Complex(0, kStep);
      const double want = trial.reference_loss(weights, forced).imag() / kStep;
      w[i] = w[i].real();
      // Chains through a dozen steps in float32.
      ASSERT_NEAR(got[i], want, 3e-5 * size) << name << " " << i;
    }
  }
}

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
      AutoencoderConfig config = tiny("lstm", decoder);
      config.hidden = 36;
      config.heads = 3;
      config.vocab_size = 9;
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

TEST(Autoencoder, ADirectoryHoldsIt) {
  const TemporaryFolder folder;
  AutoencoderConfig config = tiny("gru", "self_attention");
  config.bottleneck_norm = "rms_norm";
  Trial trial(config);
  EXPECT_FALSE(Autoencoder::is_model(folder.path()));
  trial.model.save_config(folder.path());
  trial.model.save_weights(folder / "model.safetensors");
  EXPECT_TRUE(Autoencoder::is_model(folder.path()));
  const auto loaded = Autoencoder::load(folder.path());
  EXPECT_TRUE(same_bits(loaded->parameters().weights(), trial.model.parameters().weights()));
  io::Json config_json = io::read_json(folder / "config.json");
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
