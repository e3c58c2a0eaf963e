// Where a model's learned tensors lie, what is frozen of them, and their file.
#include "refrain/model/parameters/parameter_store.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "refrain/kernels/matmul/gemm.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

// Tensors of sizes that fill whole lines and that do not.
struct Tensors {
  ParameterStore store;
  Param first, second, third, fourth;

  Tensors() {
    store.declare([this](const ParamVisitor& v) {
      v({"first", {3, 5}, Init::normal(1), true}, first);
      v({"second", {16}, Init::constant(1), false}, second);
      v({"third", {4, 2}, Init::normal(1), true, {{"upper", 1}, {"lower", 3}}}, third);
      v({"fourth", {1}, Init::normal(1), false}, fourth);
    });
  }
  void freeze(const std::vector<std::string>& names) {
    store.set_trainable(
        [&](const ParamSpec& spec) { return std::ranges::count(names, spec.name) == 0; });
  }
};

bool is_aligned(const float* data) { return reinterpret_cast<uintptr_t>(data) % 64 == 0; }

TEST(ParameterStore, LaysOutTensorsInOrderOnBoundariesWithZerosBetween) {
  Tensors t;
  EXPECT_EQ(t.store.count(), 15 + 16 + 8 + 1);
  EXPECT_EQ(t.store.gradient_floats(), 4 * 16u);
  EXPECT_EQ(t.store.training_bytes(), 4 * 4 * 64u);
  EXPECT_EQ(t.store.weights().size(), 0u);  // nothing yet
  EXPECT_EQ(t.first.w.rows(), 3);           // but shapes
  EXPECT_EQ(t.first.g.cols(), 5);

  t.store.allocate();
  t.store.initialize(3);
  t.store.allocate_gradients();
  const std::span<float> weights = t.store.weights(), gradients = t.store.gradients();
  ASSERT_EQ(weights.size(), 4 * 16u);
  ASSERT_EQ(gradients.size(), weights.size());
  EXPECT_TRUE(is_aligned(weights.data()) && is_aligned(gradients.data()));
  size_t line = 0;
  std::vector<bool> used(weights.size());
  for (const Param* p : {&t.first, &t.second, &t.third, &t.fourth}) {
    EXPECT_EQ(p->w.data, weights.data() + 16 * line);
    EXPECT_EQ(p->g.data, gradients.data() + 16 * line);
    EXPECT_EQ(p->storage, Storage::kFloat32);
    for (int64_t i = 0; i < p->w.size(); ++i) used[16 * line + static_cast<size_t>(i)] = true;
    ++line;
  }
  for (size_t i = 0; i < used.size(); ++i) EXPECT_EQ(weights[i] != 0, used[i]) << i;
}

TEST(ParameterStore, GivesFrozenTensorsNoGradients) {
  Tensors t;
  t.store.allocate();
  t.store.initialize(3);
  const std::vector<float> before(t.store.weights().begin(), t.store.weights().end());
  t.freeze({"second", "third"});
  EXPECT_EQ(t.store.gradient_floats(), 2 * 16u);
  EXPECT_EQ(t.store.training_bytes(), (4 + 3 * 2) * 64u);
  EXPECT_EQ(t.store.count(), 40);
  EXPECT_FALSE(t.second.g || t.third.g);

  t.store.allocate_gradients();
  ASSERT_EQ(t.store.gradients().size(), 2 * 16u);
  EXPECT_EQ(t.first.g.data, t.store.gradients().data());
  EXPECT_EQ(t.fourth.g.data, t.store.gradients().data() + 16);
  EXPECT_FALSE(t.second.g || t.third.g);
  EXPECT_TRUE(std::ranges::equal(before, t.store.weights()));  // and all of them their weights
  for (const auto& tensor : t.store.file_tensors())
    EXPECT_EQ(tensor.g.data != nullptr, tensor.name == "first" || tensor.name == "fourth");
}

TEST(ParameterStore, ReadsAndWritesFrozenTensorsAsOthers) {
  const TemporaryFolder folder;
  Tensors t;
  t.store.allocate();
  t.store.initialize(3);
  t.store.save(folder / "whole");
  t.freeze({"third", "fourth"});
  t.store.allocate_gradients();
  t.store.save(folder / "frozen");
  EXPECT_EQ(io::read_file(folder / "frozen"), io::read_file(folder / "whole"));
  std::vector<std::string> names;
  const io::Safetensors file(folder / "frozen");
  for (const io::TensorInfo& info : file.tensors()) names.push_back(info.name);
  EXPECT_EQ(names, (std::vector<std::string>{"first", "second", "upper", "lower", "fourth"}));

  Tensors loaded;
  loaded.freeze({"first", "second"});
  loaded.store.load(folder / "whole");  // which allocates
  loaded.store.allocate_gradients();
  EXPECT_TRUE(std::ranges::equal(loaded.store.weights(), t.store.weights()));
  EXPECT_EQ(loaded.third.g.data, loaded.store.gradients().data());
}

TEST(ParameterStore, TakesNoMemoryForAFileThatDoesNotFillIt) {
  const TemporaryFolder folder;
  ParameterStore small;
  Param one;
  small.declare([&](const ParamVisitor& v) { v({"first", {3, 5}, Init::normal(1), true}, one); });
  small.allocate();
  small.save(folder / "small");
  Tensors t;
  EXPECT_EQ(error_of([&] { t.store.load(folder / "small"); }),
            (folder / "small") + ": \"second\": missing, expected a tensor of shape [16]");
  EXPECT_EQ(t.store.weights().size(), 0u);
  t.store.allocate();
  t.store.save(folder / "whole");
  EXPECT_EQ(error_of([&] { small.load(folder / "whole"); }),
            (folder / "whole") + ": expected 1 tensors, found 5");
}

TEST(ParameterStore, PacksFactorsUntilThereAreGradients) {
  Tensors t;
  t.store.allocate();
  t.store.initialize(3);
  t.store.pack([&](const Param& p) { return &p != &t.third; });
  EXPECT_FALSE(t.second.packed || t.third.packed || t.fourth.packed);
  ASSERT_TRUE(t.first.packed);
  std::vector<float> want(static_cast<size_t>(kernels::packed_size(3, 5)));
  kernels::pack_weight(t.first.w, want.data());
  EXPECT_TRUE(std::ranges::equal(want, std::span(t.first.packed, want.size())));
  t.store.allocate_gradients();
  EXPECT_FALSE(t.first.packed);
}

}  // namespace
}  // namespace refrain
