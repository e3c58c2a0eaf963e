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
    EXPECT_FALSE(p->packed);
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

// A matrix of products, one that is only read so where it is quantised, and a vector.
struct Matrices {
  ParameterStore store;
  Param wide, looked_up, norm;

  Matrices() {
    store.declare([this](const ParamVisitor& v) {
      v({"wide",
         {70, 64},
         Init::normal(1),
         true,
         {{"upper", 30}, {"lower", 40}},
         ReadBy::kProducts},
        wide);
      v({"looked_up", {64, 80}, Init::normal(1), true, {}, ReadBy::kEither}, looked_up);
      v({"norm", {64}, Init::normal(1), false}, norm);
    });
  }
};

TEST(ParameterStore, PacksWhatProductsReadAndKeepsItOnce) {
  for (const Storage type : {Storage::kFloat32, Storage::kBf16, Storage::kQ8_0, Storage::kQ4}) {
    Matrices m, rows;
    for (ParameterStore* store : {&m.store, &rows.store}) {
      store->allocate();
      store->initialize(3);
    }
    m.store.pack(type);
    EXPECT_TRUE(m.store.is_packed());
    EXPECT_EQ(m.store.storage(), type);
    EXPECT_EQ(m.wide.packed.type, type);
    const bool is_float = type == Storage::kFloat32;
    EXPECT_EQ(static_cast<bool>(m.looked_up.packed), !is_float);
    EXPECT_FALSE(m.norm.packed);
    EXPECT_TRUE(std::ranges::equal(m.norm.w, rows.norm.w));
    EXPECT_EQ(m.store.weights().size(), is_float ? 64 * 80 + 64u : 64u);
    EXPECT_EQ(m.store.packed().size(), kernels::packed_bytes(type, 70, 64) +
                                           (is_float ? 0 : kernels::packed_bytes(type, 64, 80)));
    EXPECT_EQ(m.store.bytes(), m.store.packed().size() + m.store.weights().size_bytes());

    std::vector<float> want(70 * 64), got(want.size());
    std::vector<std::byte> packed(kernels::packed_bytes(type, 70, 64));
    kernels::pack(type, rows.wide.w, packed.data());
    kernels::unpack({type, packed.data()}, {want.data(), {70, 64}});
    m.store.read_rows(m.store.entries()[0], {got.data(), {70, 64}});
    EXPECT_EQ(got, want);
  }
}

TEST(ParameterStore, PackedFilesComeBackAsTheyWere) {
  const TemporaryFolder folder;
  for (const Storage type : {Storage::kBf16, Storage::kFloat16, Storage::kQ8_0, Storage::kQ4}) {
    Matrices m, loaded;
    m.store.allocate();
    m.store.initialize(3);
    m.store.pack(type);
    m.store.save_packed(folder / "packed");
    const io::Safetensors file(folder / "packed");
    EXPECT_EQ(packed_storage_of(file), type);
    loaded.store.load_packed(file);
    EXPECT_EQ(loaded.store.storage(), type);
    EXPECT_TRUE(std::ranges::equal(loaded.store.packed(), m.store.packed()));
    EXPECT_TRUE(std::ranges::equal(loaded.store.weights(), m.store.weights()));
  }
  Matrices rows;
  rows.store.allocate();
  rows.store.save(folder / "rows");
  EXPECT_FALSE(packed_storage_of(io::Safetensors(folder / "rows")));
}

TEST(ParameterStore, RefusesPackedFilesThatDoNotFit) {
  const TemporaryFolder folder;
  Matrices m;
  m.store.allocate();
  m.store.pack(Storage::kQ8_0);
  m.store.save_packed(folder / "packed");
  const std::vector<float> values(64);
  const std::vector<std::byte> bytes(6528);
  const std::map<std::string, std::string> metadata = {{"format", "refrain-panels-1"},
                                                       {"storage", "q8_0"},
                                                       {"shape wide", "[70, 64]"},
                                                       {"shape looked_up", "[64, 80]"}};
  const auto refusal = [&](const std::vector<io::TensorToWrite>& tensors,
                           const std::map<std::string, std::string>& of) {
    io::write_safetensors(folder / "other", tensors, of);
    Matrices to;
    const std::string error =
        error_of([&] { to.store.load_packed(io::Safetensors(folder / "other")); });
    EXPECT_EQ(to.store.packed().size() + to.store.weights().size(), 0u);
    return error.substr(std::min(error.size(), (folder / "other").size() + 2));
  };
  const io::TensorToWrite norm{"norm", {64}, values.data()};
  const io::TensorToWrite wide{"wide", {6528}, nullptr, "U8", bytes.data()};
  const io::TensorToWrite cut{"wide", {6500}, nullptr, "U8", bytes.data()};
  const io::TensorToWrite looked_up{"looked_up", {6528}, nullptr, "U8", bytes.data()};
  const io::TensorToWrite as_rows{"wide", {8, 8}, values.data()};
  EXPECT_EQ(refusal({norm, looked_up}, metadata), "\"wide\": missing");
  EXPECT_EQ(refusal({cut, looked_up, norm}, metadata),
            "\"wide\": expected U8 [6528], found U8 [6500]");
  EXPECT_EQ(refusal({as_rows, looked_up, norm}, metadata),
            "\"wide\": expected U8 [6528], found F32 [8, 8]");
  EXPECT_EQ(refusal({wide, looked_up, norm, {"more", {64}, values.data()}}, metadata),
            "expected 3 tensors, found 4");
  // As many panels, with other rows in them.
  auto other = metadata;
  other["shape wide"] = "[71, 64]";
  EXPECT_EQ(refusal({wide, looked_up, norm}, other),
            "\"wide\": expected shape [70, 64], found \"[71, 64]\"");
  other.erase("shape wide");
  EXPECT_EQ(refusal({wide, looked_up, norm}, other),
            "\"wide\": expected shape [70, 64], found \"none\"");
  EXPECT_EQ(refusal({wide, looked_up, norm}, {{"format", "refrain-panels-2"}, {"storage", "q8_0"}}),
            "format: expected refrain-panels-1, found \"refrain-panels-2\"");
  EXPECT_EQ(refusal({wide, looked_up, norm}, {{"format", "refrain-panels-1"}, {"storage", "q3"}}),
            "storage: expected bf16, f16, q8_0 or q4, found \"q3\"");
}

}  // namespace
}  // namespace refrain
