#include "refrain/formats/torch_cells.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "refrain/formats/checkpoint.h"
#include "refrain/io/safetensors.h"
#include "refrain/model/workspace.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

#ifndef REFRAIN_GOLDEN
#error "REFRAIN_GOLDEN names the folder of golden files"
#endif

namespace refrain {
namespace {

struct Values {
  std::vector<int64_t> shape;
  std::vector<float> data;
};
using File = std::map<std::string, Values>;

void write(const std::string& path, const File& file) {
  std::vector<io::TensorToWrite> tensors;
  for (const auto& [name, values] : file)
    tensors.push_back({name, values.shape, values.data.data()});
  io::write_safetensors(path, tensors, {});
}

// tools/make_golden_cells.py says what is in it.
class TorchCells : public ::testing::Test {
 protected:
  Values values(const std::string& name) const {
    const io::TensorInfo* info = golden_.find(name);
    EXPECT_NE(info, nullptr) << name;
    if (!info) return {};
    Values v{info->shape, std::vector<float>(static_cast<size_t>(info->size()))};
    golden_.read(*info, v.data);
    return v;
  }
  std::vector<int32_t> ids(const std::string& name) const {
    std::vector<int32_t> all;
    for (float id : values(name).data) all.push_back(static_cast<int32_t>(id));
    return all;
  }
  // The state_dict as PyTorch names it.
  File state_dict(const std::string& kind) const {
    File file;
    for (const io::TensorInfo& info : golden_.tensors())
      if (const std::string prefix = kind + ".lm."; info.name.starts_with(prefix))
        file[info.name.substr(prefix.size())] = values(info.name);
    return file;
  }
  std::string error(const File& file, const std::string& kind = "lstm") const {
    write(folder_ / "m.safetensors", file);
    std::string line = error_of([&] { load_torch_cells(folder_ / "m.safetensors", kind); });
    EXPECT_EQ(line.find(folder_ / "m.safetensors: "), 0u) << line;
    return line.substr(std::min(line.size(), (folder_ / "m.safetensors: ").size()));
  }

  io::Safetensors golden_{std::string(REFRAIN_GOLDEN) + "/cells.safetensors"};
  TemporaryFolder folder_;
};

class TorchCellsOf : public TorchCells, public ::testing::WithParamInterface<const char*> {};

std::vector<float> logits_of(const LanguageModel& model, const std::vector<int32_t>& ids) {
  const int64_t T = static_cast<int64_t>(ids.size()), V = model.config().vocab_size;
  std::vector<float> out(static_cast<size_t>(T * V));
  std::vector<int32_t> rows;
  for (int32_t t = 0; t < T; ++t) rows.push_back(t);
  RaggedBatchBuilder builder;
  const RaggedBatch w = builder.whole(1, T);
  Workspace().run({}, [&](ExecutionContext& ctx, Arena&) {
    model.logits(ctx, w, ids, {}, rows, {out.data(), {T, V}});
  });
  return out;
}

// Where PyTorch's names are here.
std::string name_here(const std::string& name) {
  if (name == "encoder.weight") return "embedding.weight";
  if (name.starts_with("decoder")) return "head" + name.substr(7);
  const size_t layer = name.rfind('l');
  return "layers." + name.substr(layer + 1) + ".mixer." + name.substr(4, layer - 4) + "l0";
}

// Sums of a dozen terms of size 1 in float32, a few layers and steps deep.
constexpr float kTolerance = 1e-5f;

TEST_P(TorchCellsOf, LogitsAndGradientsArePyTorchs) {
  const std::string kind = GetParam();
  const File file = state_dict(kind);
  ASSERT_EQ(file.size(), 11u);
  write(folder_ / "m.safetensors", file);
  const auto model = load_torch_cells(folder_ / "m.safetensors", kind);
  // The embedding is narrower than the cells.
  EXPECT_EQ(model->config().d_model, 5);
  EXPECT_EQ(model->config().layers, 2);
  const std::vector<int32_t> tokens = ids("tokens"), targets = ids("targets");
  const auto T = static_cast<int64_t>(tokens.size());
  const std::vector<float> want = values(kind + ".logits").data, got = logits_of(*model, tokens);
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], kTolerance) << i;

  model->allocate_gradients();
  RaggedBatchBuilder builder;
  const RaggedBatch w = builder.whole(1, T);
  for (const int64_t checkpoint_interval : {0, 4}) {
    model->clear_gradients();
    std::vector<float> losses(tokens.size());
    Workspace().run({}, [&](ExecutionContext& ctx, Arena& saved) {
      model->train(ctx, w, {.tokens = tokens, .targets = targets},
                   {.scale = 1 / static_cast<float>(T),
                    .recompute = {.checkpoint_interval = checkpoint_interval}},
                   {losses.data(), {T}}, saved);
    });
    model->finish_gradients();
    std::map<std::string, Tensor> gradients;
    model->parameters().visit([&](const ParamSpec& spec, Param& p) { gradients[spec.name] = p.g; });
    for (const auto& [name, weights] : file) {
      const Values gradient = values(kind + ".grad.lm." + name);
      const Tensor here = gradients.at(name_here(name));
      const int64_t width = gradient.shape.back();
      for (size_t i = 0; i < gradient.data.size(); ++i) {
        const auto at = static_cast<int64_t>(i);
        ASSERT_NEAR(here.row(at / width)[at % width], gradient.data[i], kTolerance) << name;
      }
    }
  }
}

// Wider than the cells, the embedding sets the model's width.
TEST_P(TorchCellsOf, AWiderEmbeddingChangesNothing) {
  const std::string kind = GetParam();
  File file = state_dict(kind);
  write(folder_ / "m.safetensors", file);
  const std::vector<int32_t> tokens = ids("tokens");
  const std::vector<float> want =
      logits_of(*load_torch_cells(folder_ / "m.safetensors", kind), tokens);
  // Columns that the first layer multiplies by zero.
  for (const std::string name : {"encoder.weight", "rnn.weight_ih_l0"}) {
    Values& v = file.at(name);
    Values wide{{v.shape[0], 8}, {}};
    for (int64_t i = 0; i < wide.shape[0]; ++i)
      for (int64_t j = 0; j < 8; ++j)
        wide.data.push_back(j < 4 ? v.data[static_cast<size_t>(4 * i + j)]
                                  : static_cast<float>(name[0] == 'e'));
    v = wide;
  }
  write(folder_ / "wide.safetensors", file);
  const auto model = load_torch_cells(folder_ / "wide.safetensors", kind);
  EXPECT_EQ(model->config().d_model, 8);
  EXPECT_EQ(logits_of(*model, tokens), want);
}

TEST_P(TorchCellsOf, BecomesAModelDirectory) {
  const std::string kind = GetParam();
  // Behind a prefix, without biases.
  File file;
  for (const auto& [name, v] : state_dict(kind))
    if (name.find("bias") == name.npos) file["module." + name] = v;
  write(folder_ / "m.safetensors", file);
  const auto model = load_torch_cells(folder_ / "m.safetensors", kind);
  save_model(folder_.path(), *model, {});
  const std::vector<int32_t> tokens = ids("tokens");
  EXPECT_EQ(logits_of(*load_model(folder_.path()), tokens), logits_of(*model, tokens));
}

TEST_F(TorchCells, RefusesByNameWhatHasNoPlace) {
  const File good = state_dict("lstm");
  const auto with = [&](const std::string& name, std::vector<int64_t> shape) {
    File file = good;
    int64_t size = 1;
    for (int64_t d : shape) size *= d;
    file[name] = {std::move(shape), std::vector<float>(static_cast<size_t>(size))};
    return file;
  };
  const auto without = [&](const std::string& name) {
    File file = good;
    file.erase(name);
    return file;
  };
  EXPECT_EQ(error(with("rnn.weight_ih_l0_reverse", {20, 4})),
            "\"rnn.weight_ih_l0_reverse\": expected one direction, found a bidirectional layer");
  EXPECT_EQ(error(with("rnn.weight_hr_l0", {3, 5})),
            "\"rnn.weight_hr_l0\": expected a layer without projection, found one (proj_size)");
  EXPECT_EQ(error(with("norm.weight", {5})), "\"norm.weight\": expected no tensor of this name");
  EXPECT_EQ(error(with("other.weight_ih_l2", {20, 5})),
            "expected one recurrent module, found \"other.weight_ih_l2\" and \"rnn.bias_hh_l0\"");
  EXPECT_EQ(error(with("head.weight", {11, 5})),
            "expected one output, found \"decoder.weight\" and \"head.weight\"");
  EXPECT_EQ(error(with("rnn.weight_ih_l3", {20, 5})),
            "\"rnn.weight_ih_l3\": expected no tensor of this name");
  EXPECT_EQ(error(with("rnn.weight_ih_l1", {20, 6})),
            "\"rnn.weight_ih_l1\": expected shape [20, 5], found [20, 6]");
  EXPECT_EQ(error(with("encoder.weight", {11})),
            "\"encoder.weight\": expected a matrix, found 1 dimensions");
  EXPECT_EQ(error(with("encoder.weight", {12, 4})),
            "\"decoder.weight\": expected shape [12, 5], found [11, 5]");
  EXPECT_EQ(error(with("decoder.weight", {11, 0})),
            "\"decoder.weight\": expected numbers, found none");
  // Every layer would become as wide as the embedding.
  File thin;
  thin["emb.weight"] = {{1, 4096}, std::vector<float>(4096)};
  thin["decoder.weight"] = {{1, 1}, {0}};
  for (int l = 0; l < 50; ++l) {
    const int64_t in = l == 0 ? 4096 : 1;
    thin[fmt::format("rnn.weight_ih_l{}", l)] = {{4, in}, std::vector<float>(4 * in)};
    thin[fmt::format("rnn.weight_hh_l{}", l)] = {{4, 1}, std::vector<float>(4)};
  }
  EXPECT_EQ(error(thin).find("expected a model of at most 8 times the 20877 numbers of the file"),
            0u)
      << error(thin);
  EXPECT_EQ(error(without("encoder.weight")), "expected an embedding (emb.weight), found none");
  EXPECT_EQ(error(without("decoder.weight")), "expected an output (decoder.weight), found none");
  EXPECT_EQ(error(without("rnn.weight_ih_l0")),
            "expected a recurrent layer (weight_ih_l0), found none");
  EXPECT_EQ(error(without("rnn.bias_hh_l1")), "\"bias_hh_l1\": missing");
  EXPECT_EQ(error(without("rnn.bias_ih_l0")), "\"bias_ih_l0\": missing");
  EXPECT_EQ(error(good, "gru"), "\"rnn.weight_ih_l0\": expected shape [15, 4], found [20, 4]");
  EXPECT_EQ(error(File{}), "expected an embedding (emb.weight), found none");
}

INSTANTIATE_TEST_SUITE_P(Cells, TorchCellsOf, ::testing::Values("rnn", "lstm", "gru"));

}  // namespace
}  // namespace refrain
