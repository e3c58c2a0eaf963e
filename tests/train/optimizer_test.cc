// Steps of an optimiser whose store has frozen tensors.
#include "refrain/train/optimizer.h"

#include <gtest/gtest.h>

#include <algorithm>

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

}  // namespace
}  // namespace refrain
