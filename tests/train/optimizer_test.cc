// Steps of an optimiser whose store has frozen tensors.
#include "refrain/train/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

// Four tensors; the first and the third have gradients of 0.
struct Tensors {
  ParameterStore store;
  Param first, second, third, fourth;

  explicit Tensors(bool frozen) {
    store.declare([this](const ParamVisitor& v) {
      v({"first", {3, 5}, Init::normal(1), true}, first);
      v({"second", {16}, Init::constant(1), false}, second);
      v({"third", {4, 2}, Init::normal(1), true}, third);
      v({"fourth", {1}, Init::normal(1), false}, fourth);
    });
    if (frozen)
      store.set_trainable(
          [](const ParamSpec& spec) { return spec.name != "first" && spec.name != "third"; });
    store.allocate();
    store.initialize(3);
    store.allocate_gradients();
    for (Param* p : {&second, &fourth})
      for (int64_t i = 0; i < p->g.size(); ++i) p->g.data[i] = 0.25f * static_cast<float>(i + 1);
  }
  std::vector<float> weights() { return {store.weights().begin(), store.weights().end()}; }
};

TrainConfig decays_all() {
  TrainConfig config;
  config.weight_decay = 0.1;
  config.decay_all = true;
  return config;
}

TEST(Optimizer, LeavesFrozenTensorsAlone) {
  Tensors some(true), whole(false);
  const std::vector<float> before = some.weights();
  Optimizer optimizer(some.store, decays_all()), all(whole.store, decays_all());
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(optimizer.step(0.1), all.step(0.1));  // norms; of the others they are 0
  for (const auto& [name, shape, w, g] : some.store.file_tensors()) {
    const float* old = before.data() + (w.data - some.store.weights().data());
    for (int64_t i = 0; i < w.size(); ++i)
      EXPECT_EQ(w.data[i] != old[i], name == "second" || name == "fourth") << name << " " << i;
  }
  EXPECT_TRUE(std::ranges::equal(some.second.w, whole.second.w));
  EXPECT_TRUE(std::ranges::equal(some.fourth.w, whole.fourth.w));
  EXPECT_FALSE(std::ranges::equal(some.first.w, whole.first.w));  // decayed
}

// Names of former versions were those of Llamas.
TEST(Optimizer, MomentsOfFormerVersionsAreRead) {
  const TemporaryFolder folder;
  Param param;
  const auto declare = [&](const ParamVisitor& v) {
    v({"layers.0.mixer.q_proj.weight", {3}, Init::constant(1), true}, param);
  };
  ParameterStore store;
  store.declare(declare);
  store.allocate();
  store.allocate_gradients();
  const float m[] = {1, 2, 3}, v[] = {4, 5, 6};
  const std::vector<io::TensorToWrite> former = {
      {"m.model.layers.0.self_attn.q_proj.weight", {3}, m},
      {"v.model.layers.0.self_attn.q_proj.weight", {3}, v}};
  io::write_safetensors(folder / "moments", former, {});
  Optimizer optimizer(store, decays_all());
  optimizer.load(folder / "moments", 1);
  optimizer.save(folder / "again");
  const io::Safetensors file(folder / "again");
  const io::TensorInfo* info = file.find("v.layers.0.mixer.q_proj.weight");
  ASSERT_NE(info, nullptr);
  std::vector<float> read(3);
  file.read(*info, read);
  EXPECT_EQ(read, (std::vector<float>{4, 5, 6}));
}

TEST(Optimizer, KeepsMomentsOfTrainableTensorsAlone) {
  const TemporaryFolder folder;
  Tensors some(true);
  Optimizer optimizer(some.store, decays_all());
  optimizer.step(0.1);
  optimizer.save(folder / "moments");
  const io::Safetensors file(folder / "moments");
  std::vector<std::string> names;
  for (const io::TensorInfo& info : file.tensors()) names.push_back(info.name);
  EXPECT_EQ(names, (std::vector<std::string>{"m.second", "m.fourth", "v.second", "v.fourth"}));

  Tensors same(true), whole(false);
  std::ranges::copy(some.weights(), same.store.weights().begin());
  Optimizer again(same.store, decays_all()), all(whole.store, decays_all());
  again.load(folder / "moments", 1);
  again.step(0.1);
  optimizer.step(0.1);
  EXPECT_EQ(same.weights(), some.weights());
  EXPECT_NE(error_of([&] { all.load(folder / "moments", 1); }).find("'m.first'"),
            std::string::npos);
}

TrainConfig descent(double momentum) {
  TrainConfig config;
  config.optimizer = "sgd";
  config.momentum = momentum;
  config.clip_mode = "none";
  return config;
}

TEST(Optimizer, DescentIsTheGradient) {
  Tensors some(false);
  const std::vector<float> before = some.weights();
  Optimizer optimizer(some.store, descent(0));
  optimizer.step(0.5);
  for (const auto& [name, shape, w, g] : some.store.file_tensors()) {
    const float* old = before.data() + (w.data - some.store.weights().data());
    for (int64_t i = 0; i < w.size(); ++i)
      EXPECT_FLOAT_EQ(w.data[i], old[i] - 0.5f * g.data[i]) << name;
  }
}

TEST(Optimizer, DescentClipsTheNorm) {
  Tensors some(false);
  const std::vector<float> before = some.weights();
  TrainConfig config = descent(0);
  config.clip_mode = "norm";
  config.max_grad_norm = 0.125;
  Optimizer optimizer(some.store, config);
  optimizer.step(1);
  double moved = 0;
  const std::vector<float> after = some.weights();
  for (size_t i = 0; i < after.size(); ++i) moved += std::pow(after[i] - before[i], 2);
  EXPECT_NEAR(std::sqrt(moved), 0.125, 1e-6);
}

TEST(Optimizer, DescentKeepsWhatMomentumNeeds) {
  const TemporaryFolder folder;
  for (const double momentum : {0.0, 0.9}) {
    Tensors some(true), same(true);
    const TrainConfig config = descent(momentum);
    Optimizer optimizer(some.store, config), again(same.store, config);
    optimizer.step(0.1);
    optimizer.save(folder / "moments");
    std::vector<std::string> names;
    const io::Safetensors file(folder / "moments");
    for (const io::TensorInfo& info : file.tensors()) names.push_back(info.name);
    EXPECT_EQ(names, momentum > 0 ? (std::vector<std::string>{"m.second", "m.fourth"})
                                  : std::vector<std::string>());
    std::ranges::copy(some.weights(), same.store.weights().begin());
    again.load(folder / "moments", 1);
    again.step(0.1);
    optimizer.step(0.1);
    EXPECT_EQ(same.weights(), some.weights());
  }
}

TEST(TrainConfig, DecayIsByTheOptimizer) {
  TrainConfig config;
  EXPECT_EQ(config.decay(), 0.1);
  EXPECT_EQ(config.moments(), 2);
  config = descent(0);
  EXPECT_EQ(config.decay(), 0);
  EXPECT_EQ(config.moments(), 0);
  EXPECT_EQ(descent(0.5).moments(), 1);
  config.weight_decay = 0.02;
  EXPECT_EQ(config.decay(), 0.02);
  config.weight_decay = -0.5;
  EXPECT_THROW(config.check(), Error);
}

TEST(TrainConfig, RateFallsWhereEvaluationsDoNotImprove) {
  TrainConfig config;
  config.learning_rate = 8;
  config.warmup_steps = 4;
  config.lr_scheduler_type = "reduce_lr_on_plateau";
  EXPECT_THROW(config.check(), Error);  // nothing says how often to evaluate
  config.eval_steps = 10;
  config.check();
  EXPECT_EQ(learning_rate(config, {.step = 2}), 4);
  EXPECT_EQ(learning_rate(config, {.step = 5, .done = 0.5}), 8);
  EXPECT_EQ(learning_rate(config, {.step = 5, .reductions = 2}), 0.5);
  config.min_learning_rate = 1;
  EXPECT_EQ(learning_rate(config, {.step = 5, .reductions = 2}), 1);
}

TEST(TrainConfig, LengthsHaveUnits) {
  EXPECT_EQ(parse_length("1.5m").unit, TrainingLength::kMinutes);
  EXPECT_EQ(parse_length("1.5m").amount, 1.5);
  EXPECT_EQ(parse_length("5e").unit, TrainingLength::kEpochs);
  EXPECT_EQ(parse_length("2Mt").amount, 2e6);
  for (const char* bad : {"", "m", "0m", "-3m", "30min", "3M"})
    EXPECT_THROW(parse_length(bad), Error) << bad;
}

}  // namespace
}  // namespace refrain
