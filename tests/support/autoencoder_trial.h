// An autoencoder on trial: a tiny model, sequences, and what the reference says about their loss.
#pragma once
#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "refrain/autoencoder/autoencoder.h"
#include "refrain/autoencoder/ref.h"
#include "refrain/base/random.h"
#include "refrain/kernels/elementwise/dropout.h"
#include "refrain/model/workspace.h"
#include "support/kernel_testing.h"

namespace refrain {

using Forced = std::vector<uint8_t>;

inline AutoencoderConfig tiny(const std::string& cell = "lstm",
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
inline void expect_gradients(Trial& trial, const Forced& forced, size_t stride) {
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

}  // namespace refrain
