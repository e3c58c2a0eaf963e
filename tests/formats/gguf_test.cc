#include "refrain/formats/gguf/gguf.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "refrain/formats/checkpoint.h"
#include "refrain/formats/gguf/names.h"
#include "refrain/mixers/attention/attention.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using io::GgufType;

ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 80;
  c.d_model = 64;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.d_ff = 96;
  c.context = 16;
  c.rms_norm_eps = 1e-5;
  return c;
}

std::unique_ptr<LanguageModel> tiny_model(const ModelConfig& config = tiny_config()) {
  auto model = std::make_unique<LanguageModel>(config);
  model->initialise(3);
  return model;
}

std::map<std::string, std::vector<float>> weights_of(const LanguageModel& model) {
  std::map<std::string, std::vector<float>> all;
  for (const ParameterStore::Entry& entry : model.parameters().entries()) {
    std::vector<float>& values = all[entry.spec.name];
    values.resize(static_cast<size_t>(entry.spec.size()));
    const int64_t columns = entry.spec.shape.back();
    model.parameters().read_rows(entry, {values.data(), {entry.spec.size() / columns, columns}});
  }
  return all;
}

// A file's keys and tensors, to be changed and written again.
struct Parts {
  io::GgufKeys keys;
  struct Tensor {
    std::string name;
    GgufType type;
    std::vector<int64_t> shape;
    std::vector<std::byte> bytes;
  };
  std::vector<Tensor> tensors;

  io::GgufValue& key(const std::string& name) {
    const auto found = std::ranges::find(keys, name, &io::GgufKeys::value_type::first);
    return found == keys.end() ? keys.emplace_back(name, 0.0).second : found->second;
  }
  Tensor& tensor(const std::string& name) {
    return *std::ranges::find(tensors, name, &Tensor::name);
  }
};

class GgufModel : public ::testing::Test {
 protected:
  std::string save(const LanguageModel& model, GgufType type = GgufType::kF32,
                   const SpecialTokens& special = {1, 2, 3, {4}}) const {
    const std::string path = folder_ / "m.gguf";
    save_gguf(path, model, special, {.type = type});
    return path;
  }
  static Parts parts_of(const std::string& path) {
    const io::Gguf file(path);
    Parts parts;
    parts.keys.assign(file.keys().begin(), file.keys().end());
    for (const io::GgufTensor& tensor : file.tensors()) {
      parts.tensors.push_back({tensor.name, tensor.type, tensor.shape, {}});
      parts.tensors.back().bytes.resize(tensor.bytes);
      file.read(tensor, 0, parts.tensors.back().bytes);
    }
    return parts;
  }
  std::string write(const Parts& parts) const {
    std::vector<io::GgufTensorToWrite> tensors;
    for (const Parts::Tensor& tensor : parts.tensors)
      tensors.push_back(
          {tensor.name, tensor.type, tensor.shape, [&](const auto& put) { put(tensor.bytes); }});
    const std::string path = folder_ / "changed.gguf";
    io::write_gguf(path, parts.keys, tensors);
    return path;
  }
  // What loading says of the tiny model's file after a change, without the path.
  std::string error(const std::function<void(Parts&)>& change) const {
    Parts parts = parts_of(save(*tiny_model()));
    change(parts);
    const std::string path = write(parts);
    const std::string what = error_of([&] { load_model(path); });
    return what.starts_with(path + ": ") ? what.substr(path.size() + 2) : what;
  }

  TemporaryFolder folder_;
};

TEST_F(GgufModel, ComesBackAsItWas) {
  for (const bool tied : {false, true})
    for (const int64_t head_dim : {16, 24}) {
      ModelConfig config = tiny_config();
      config.tie_embeddings = tied;
      config.head_dim = head_dim;
      const auto model = tiny_model(config);
      SpecialTokens special;
      const auto loaded = load_model(save(*model), &special);
      EXPECT_EQ(weights_of(*loaded), weights_of(*model));
      EXPECT_EQ(to_json(ModelDescription{loaded->config(), {}}),
                to_json(ModelDescription{model->config(), {}}));
      EXPECT_EQ(special, (SpecialTokens{1, 2, 3, {4}}));
    }
}

// Channels i and i + d/2 of a head stand beside one another.
TEST_F(GgufModel, HasQueriesAndKeysInTheOrderOfLlamaCpp) {
  const auto model = tiny_model();
  const Parts parts = parts_of(save(*model));
  std::map<std::string, Tensor> ours;
  for (const auto& [name, shape, w, g] : model->parameters().file_tensors()) ours[name] = w;
  for (const auto& [name, gguf, paired] :
       {std::tuple("layers.1.mixer.q_proj.weight", "blk.1.attn_q.weight", true),
        std::tuple("layers.1.mixer.k_proj.weight", "blk.1.attn_k.weight", true),
        std::tuple("layers.1.mixer.v_proj.weight", "blk.1.attn_v.weight", false),
        std::tuple("embedding.weight", "token_embd.weight", false)}) {
    const Tensor w = ours.at(name);
    const auto found = std::ranges::find(parts.tensors, gguf, &Parts::Tensor::name);
    ASSERT_NE(found, parts.tensors.end()) << gguf;
    constexpr int64_t kHead = 16;
    for (int64_t row = 0; row < w.rows(); ++row) {
      const int64_t head = row / kHead * kHead, i = row % kHead;
      const int64_t from = paired ? head + (i % 2 == 0 ? i / 2 : kHead / 2 + i / 2) : row;
      EXPECT_EQ(std::memcmp(found->bytes.data() + static_cast<size_t>(row * w.cols()) * 4,
                            w.row(from), static_cast<size_t>(w.cols()) * 4),
                0)
          << gguf << row;
    }
  }
  for (int64_t row = 0; row < 64; ++row) EXPECT_EQ(paired_row(unpaired_row(row, 16), 16), row);
  EXPECT_FALSE(has_paired_rows("qwen2", "blk.1.attn_q.weight"));
  EXPECT_TRUE(has_paired_rows("llama", "blk.1.attn_k.bias"));
}

TEST_F(GgufModel, IsPackedInTheTypeOfItsFileWithTheSameNumbers) {
  const auto model = tiny_model();
  for (const auto& [type, storage] :
       {std::pair(GgufType::kF32, Storage::kFloat32), std::pair(GgufType::kF16, Storage::kFloat16),
        std::pair(GgufType::kBf16, Storage::kBf16), std::pair(GgufType::kQ8_0, Storage::kQ8_0),
        std::pair(GgufType::kQ4_0, Storage::kQ4)}) {
    const std::string path = save(*model, type);
    const auto packed = load_packed_model(path);
    EXPECT_EQ(packed->parameters().storage(), storage);
    EXPECT_EQ(weights_of(*packed), weights_of(*load_model(path))) << static_cast<int>(type);
    size_t stored = 0;
    for (const ParameterStore::Entry& entry : packed->parameters().entries())
      stored += entry.is_packed() && entry.param->packed.type == storage;
    EXPECT_GE(stored, 8) << static_cast<int>(type);
    // Another type, where it is asked for.
    const auto other = load_packed_model(path, nullptr, {}, Storage::kQ8_0);
    EXPECT_EQ(other->parameters().storage(), Storage::kQ8_0);
  }
  // The output of a file of Q4_0 is Q8_0.
  const Parts parts = parts_of(save(*model, GgufType::kQ4_0));
  for (const Parts::Tensor& tensor : parts.tensors)
    EXPECT_EQ(tensor.type, tensor.shape.size() == 1         ? GgufType::kF32
                           : tensor.name == "output.weight" ? GgufType::kQ8_0
                                                            : GgufType::kQ4_0)
        << tensor.name;
}

TEST_F(GgufModel, TakesRowsWithoutWholeBlocksAsTheyAre) {
  ModelConfig config = tiny_config();
  config.d_ff = 100;
  std::vector<std::string> notes;
  save_gguf(folder_ / "m.gguf", *tiny_model(config), {}, {.type = GgufType::kQ8_0},
            [&](const std::string& line) { notes.push_back(line); });
  ASSERT_EQ(notes.size(), 2);  // of each layer
  EXPECT_EQ(notes[0],
            "blk.0.ffn_down.weight: F32, since its rows of 100 numbers are no multiple of 32");
}

TEST_F(GgufModel, ReadsScalesOfAngles) {
  Parts parts = parts_of(save(*tiny_model()));
  parts.key("llama.rope.scaling.type") = std::string("yarn");
  std::string path = write(parts);
  EXPECT_EQ(error_of([&] { load_model(path); }),
            path + ": llama.rope.scaling.type: expected \"none\" or \"linear\", found \"yarn\"");
  parts.key("llama.rope.scaling.type") = std::string("linear");
  parts.key("llama.rope.scaling.factor") = 4.0;
  const io::Json linear = config_of_gguf(io::Gguf(write(parts)), {});
  EXPECT_EQ(linear.at("rope_scaling"), (io::Json{{"rope_type", "linear"}, {"factor", 4.0}}));

  // Llama 3's table: angles of short wavelengths stay, those of long ones are divided by 8.
  parts = parts_of(save(*tiny_model()));
  parts.key("llama.rope.freq_base") = 500000.0;
  std::vector<float> table;
  for (int i = 0; i < 8; ++i) {
    const double wavelength = 2 * 3.14159265358979323846 * std::pow(500000.0, i / 8.0);
    const double s = (8192 / wavelength - 1) / (4 - 1);
    const double divisor = wavelength < 8192.0 / 4 ? 1
                           : wavelength > 8192     ? 8
                                                   : 1 / ((1 - s) / 8 + s);
    table.push_back(static_cast<float>(divisor));
  }
  const auto bytes = std::as_bytes(std::span(table));
  parts.tensors.push_back({"rope_freqs.weight", GgufType::kF32, {8}, {bytes.begin(), bytes.end()}});
  const io::Json llama3 = config_of_gguf(io::Gguf(write(parts)), {});
  EXPECT_EQ(llama3.at("rope_scaling"), (io::Json{{"rope_type", "llama3"},
                                                 {"factor", 8.0},
                                                 {"low_freq_factor", 1.0},
                                                 {"high_freq_factor", 4.0},
                                                 {"original_max_position_embeddings", 8192}}));
  table[7] = 7;
  parts.tensors.back().bytes.assign(bytes.begin(), bytes.end());
  path = write(parts);
  EXPECT_EQ(
      error_of([&] { config_of_gguf(io::Gguf(path), {}); }),
      path +
          ": rope_freqs.weight: expected frequencies that are scaled as those of Llama 3, found "
          "others");
}

TEST_F(GgufModel, RefusesWhatItsTensorsAreNot) {
  EXPECT_EQ(error([](Parts&) {}), "(no error)");
  EXPECT_EQ(error([](Parts& p) { p.tensors.erase(p.tensors.begin()); }),
            "token_embd.weight: expected a matrix, found none");
  EXPECT_EQ(error([](Parts& p) { p.tensor("blk.1.ffn_up.weight").name = "blk.2.ffn_up.weight"; }),
            "blk.1.ffn_up.weight: missing, expected a tensor of shape [96, 64]");
  EXPECT_EQ(error([](Parts& p) {
              p.tensor("blk.1.ffn_up.weight").shape = {64, 96};
            }),
            "blk.1.ffn_up.weight: expected shape [96, 64], found [64, 96]");
  EXPECT_EQ(
      error([](Parts& p) {
        Parts::Tensor& t = p.tensor("blk.1.ffn_up.weight");
        t.shape = {96, 64};
        t.type = GgufType{26};  // I32
      }),
      "blk.1.ffn_up.weight: expected F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K or "
      "Q6_K, found I32");
  EXPECT_EQ(error([](Parts& p) {
              p.tensors.push_back({"extra", GgufType::kF32, {1}, std::vector<std::byte>(4)});
            }),
            "\"extra\": expected no tensor of this name");
}

TEST_F(GgufModel, RefusesKeysThatItCannotHonour) {
  const auto with = [&](const std::string& key, const io::GgufValue& value) {
    return error([&](Parts& p) { p.key(key) = value; });
  };
  EXPECT_EQ(with("general.architecture", std::string("mamba")),
            "general.architecture: expected llama, qwen2, qwen3, found \"mamba\"");
  EXPECT_EQ(with("general.architecture", int64_t{1}),
            "general.architecture: expected a text, found 1");
  EXPECT_EQ(with("llama.block_count", int64_t{0}),
            "llama.block_count: expected an integer from 1 to 2147483647, found 0");
  EXPECT_EQ(with("llama.embedding_length", std::string("64")),
            "llama.embedding_length: expected an integer from 1 to 2147483647, found \"64\"");
  EXPECT_EQ(with("llama.vocab_size", int64_t{81}),
            "llama.vocab_size: expected 80, the rows of token_embd.weight, found 81");
  EXPECT_EQ(with("llama.rope.dimension_count", int64_t{8}),
            "llama.rope.dimension_count: expected 16, the width of a head, found 8");
  EXPECT_EQ(with("llama.expert_count", int64_t{8}), "llama.expert_count: expected no such setting");
  EXPECT_EQ(with("llama.expert_count", int64_t{0}), "(no error)");
  EXPECT_EQ(with("llama.attention.layer_norm_rms_epsilon", std::nan("")),
            "llama.attention.layer_norm_rms_epsilon: expected a finite number, found nan");
  EXPECT_NE(with("llama.attention.head_count", int64_t{7}), "(no error)");
  EXPECT_NE(with("llama.block_count", int64_t{2147483647}), "(no error)");
  EXPECT_NE(with("llama.context_length", int64_t{2147483647}), "std::bad_alloc");
}

TEST_F(GgufModel, NotesKeysThatItDoesNotKnow) {
  Parts parts = parts_of(save(*tiny_model()));
  parts.key("llama.colour") = std::string("red");
  parts.key("general.author") = std::string("somebody");
  std::vector<std::string> notes;
  const std::string path = write(parts);
  load_model(path, nullptr, [&](const std::string& line) { notes.push_back(line); });
  EXPECT_EQ(notes, std::vector<std::string>{path + ": unknown settings left aside: llama.colour"});
}

TEST_F(GgufModel, IsWrittenOnlyIfLlamaCppComputesIt) {
  const auto error = [&](const std::function<void(ModelConfig&)>& change) {
    ModelConfig config = tiny_config();
    change(config);
    LanguageModel model(config);
    return error_of([&] { save(model); });
  };
  const std::string expected =
      "expected a model that llama.cpp computes (of the shape of a Llama, a Qwen2 or a Qwen3), "
      "found ";
  EXPECT_EQ(error([](ModelConfig& c) { c.pattern = "gla"; }),
            expected + "a stack of gla with settings of its own");
  EXPECT_EQ(error([](ModelConfig& c) { c.pattern = "attention gla"; }),
            expected + "blocks of attention, gla with rms_norm and swiglu");
  EXPECT_EQ(error([](ModelConfig& c) { c.feed_forward = "gelu"; }),
            expected + "blocks of attention with rms_norm and gelu");
  EXPECT_EQ(error([](ModelConfig& c) { c.pattern = "attention:window=8"; }),
            expected + "a window of 8 tokens");
  EXPECT_EQ(error([](ModelConfig& c) { c.pattern = "attention:window=16"; }), "(no error)");
  EXPECT_EQ(error([](ModelConfig&) {}), "(no error)");
}

TEST_F(GgufModel, RefusesWeightsThatATypeCannotHold) {
  const auto model = tiny_model();
  model->parameters().weights()[5] = 1e5f;
  EXPECT_EQ(error_of([&] { save(*model, GgufType::kF16); }),
            "token_embd.weight: expected finite weights that F16 can hold, found 100000");
  model->parameters().weights()[5] = std::nanf("");
  for (const GgufType type : {GgufType::kF32, GgufType::kQ8_0, GgufType::kQ4_0})
    EXPECT_NE(error_of([&] { save(*model, type); }), "(no error)");
  EXPECT_FALSE(io::is_gguf(folder_ / "m.gguf"));
}

}  // namespace
}  // namespace refrain
