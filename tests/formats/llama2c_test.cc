#include "refrain/formats/llama2c.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <limits>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "refrain/formats/checkpoint.h"
#include "refrain/io/file.h"
#include "refrain/model/workspace.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using Header = std::array<int32_t, 7>;

Header header_of(const ModelConfig& c) {
  const auto i = [](int64_t n) { return static_cast<int32_t>(n); };
  return {i(c.d_model), i(c.d_ff),     i(c.layers),
          i(c.heads),   i(c.kv_heads), i(c.tie_embeddings ? c.vocab_size : -c.vocab_size),
          i(c.context)};
}

// A file of a model whose heads rotate adjacent channels, as llama2.c's do.
std::string to_llama2c(LanguageModel& model) {
  const ModelConfig& c = model.config();
  const Header header = header_of(c);
  std::string file(reinterpret_cast<const char*>(header.data()), sizeof(header));
  std::map<std::string, std::string> tensors;
  for (const auto& [name, shape, w, g] : model.parameters().file_tensors())
    tensors[name].assign(reinterpret_cast<const char*>(w.data),
                         static_cast<size_t>(w.size()) * sizeof(float));
  const auto layers = [&](const std::string& name) {
    for (int64_t l = 0; l < c.layers; ++l)
      file += tensors.at("layers." + std::to_string(l) + "." + name);
  };
  file += tensors.at("embedding.weight");
  for (const char* name :
       {"mixer_norm.weight", "mixer.q_proj.weight", "mixer.k_proj.weight", "mixer.v_proj.weight",
        "mixer.o_proj.weight", "feed_forward_norm.weight", "feed_forward.gate_proj.weight",
        "feed_forward.down_proj.weight", "feed_forward.up_proj.weight"})
    layers(name);
  file += tensors.at("norm.weight");
  file.append(static_cast<size_t>(c.context * c.head_dim) * sizeof(float), '\x7f');
  if (!c.tie_embeddings) file += tensors.at("head.weight");
  return file;
}

std::unique_ptr<LanguageModel> adjacent_model(bool tied) {
  ModelConfig c;
  c.vocab_size = 23;
  c.d_model = 24;
  c.layers = 2;
  c.heads = 4;
  c.kv_heads = 2;
  c.d_ff = 20;
  c.context = 16;
  c.tie_embeddings = tied;
  SettingMap settings;
  settings.set("attention.rope_pairing", "adjacent");
  auto model = std::make_unique<LanguageModel>(with_settings(c, settings));
  model->initialise(5);
  // Large enough that attention is not nearly uniform, or a wrong rotation would hardly show.
  for (float& w : model->parameters().weights()) w *= 10;
  return model;
}

// Logits [T, V] of whole sequence.
std::vector<float> logits_of(const LanguageModel& model, const std::vector<int32_t>& ids) {
  const int64_t T = static_cast<int64_t>(ids.size()), V = model.config().vocab_size;
  std::vector<float> out(static_cast<size_t>(T * V));
  std::vector<int32_t> rows;
  for (int32_t t = 0; t < T; ++t) rows.push_back(t);
  RaggedBatchBuilder builder;
  const RaggedBatch w = builder.whole(1, T);
  Workspace workspace;
  workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
    model.logits(ctx, w, ids, {}, rows, {out.data(), {T, V}});
  });
  return out;
}

TEST(Llama2c, GivesTheLogitsOfAdjacentPairs) {
  for (bool tied : {false, true}) {
    const TemporaryFolder folder;
    const auto model = adjacent_model(tied);
    const auto loaded = load_llama2c(folder.put("m.bin", to_llama2c(*model)));
    EXPECT_EQ(loaded->config().tie_embeddings, tied);
    EXPECT_EQ(loaded->config().kv_heads, 2);
    EXPECT_EQ(loaded->config().context, 16);
    EXPECT_EQ(to_json({loaded->config(), {}})["model_type"], "llama");
    const std::vector<int32_t> ids = {1, 7, 3, 22, 0, 7, 7, 15, 2, 9};
    const std::vector<float> want = logits_of(*model, ids), got = logits_of(*loaded, ids);
    ASSERT_EQ(got.size(), want.size());
    float largest = 0;
    for (size_t i = 0; i < want.size(); ++i) {
      largest = std::max(largest, std::abs(want[i]));
      // Scores are sums of 6 terms in another order; three orders of magnitude above rounding.
      ASSERT_NEAR(got[i], want[i], 1e-4f * std::max(1.0f, std::abs(want[i])));
    }
    EXPECT_GT(largest, 0.5f);
  }
}

TEST(Llama2c, BecomesALlamaDirectory) {
  const TemporaryFolder folder;
  const auto loaded = load_llama2c(folder.put("m.bin", to_llama2c(*adjacent_model(false))));
  save_model(folder.path(), *loaded, {1, 2, -1});
  EXPECT_EQ(io::read_json(folder / "config.json")["model_type"], "llama");
  const std::vector<int32_t> ids = {1, 2, 3};
  EXPECT_EQ(logits_of(*load_model(folder.path()), ids), logits_of(*loaded, ids));
}

TEST(Llama2c, RefusesAnyOtherSize) {
  const TemporaryFolder folder;
  const std::string file = to_llama2c(*adjacent_model(false));
  for (size_t size = 0; size < file.size(); size += size < 64 ? 1 : 997) {
    const std::string path = folder.put("m.bin", file.substr(0, size));
    const std::string error = error_of([&] { load_llama2c(path); });
    EXPECT_EQ(error,
              size < sizeof(Header)
                  ? fmt::format("{}: not a llama2.c model: expected a header of 28 bytes, "
                                "found {} bytes",
                                path, size)
                  : fmt::format("{}: expected {} bytes for the sizes in its header, found {}", path,
                                file.size(), size));
  }
  const std::string path = folder.put("m.bin", file + "x");
  EXPECT_EQ(error_of([&] { load_llama2c(path); }),
            fmt::format("{}: expected {} bytes for the sizes in its header, found {}", path,
                        file.size(), file.size() + 1));
}

TEST(Llama2c, RefusesALyingHeader) {
  const TemporaryFolder folder;
  const auto model = adjacent_model(true);
  const std::string file = to_llama2c(*model);
  const Header header = header_of(model->config());
  for (size_t field = 0; field < header.size(); ++field)
    for (int32_t value :
         {0, -1, std::numeric_limits<int32_t>::min(), std::numeric_limits<int32_t>::max(), 1 << 20,
          header[field] + 1, header[field] * 2}) {
      Header lie = header;
      lie[field] = value;
      std::string bytes = file;
      std::memcpy(bytes.data(), lie.data(), sizeof(lie));
      const std::string path = folder.put("m.bin", bytes);
      const std::string error = error_of([&] { load_llama2c(path); });
      EXPECT_EQ(error.find(path + ": "), 0u)
          << "field " << field << " = " << value << ": " << error;
      EXPECT_NE(error.find("expected"), error.npos) << error;
      EXPECT_NE(error.find("found"), error.npos) << error;
    }
  Header all;
  all.fill(std::numeric_limits<int32_t>::max());
  std::string bytes = file;
  std::memcpy(bytes.data(), all.data(), sizeof(all));
  const std::string path = folder.put("m.bin", bytes);
  EXPECT_EQ(error_of([&] { load_llama2c(path); }),
            path + ": vocab_size: expected 1 to 16777216, found 2147483647");
  const std::string later = folder.put("v1.bin", std::string("24ka\1\0\0\0", 8) + file);
  EXPECT_EQ(error_of([&] { load_llama2c(later); }),
            later + ": expected a llama2.c model of version 0, found version 1");
}

// The reference program's own logits for a published model.
TEST(Llama2c, MatchesTheReferenceProgram) {
  const char* data = std::getenv("REFRAIN_DATA");
  const std::string folder = std::string(data ? data : "") + "/stories260K";
  if (!data || !io::exists(folder))
    GTEST_SKIP() << "REFRAIN_DATA does not name a folder with stories260K";
  std::vector<int32_t> ids;
  std::istringstream words(io::read_file(folder + "/ref_tokens.txt"));
  for (int32_t id; words >> id;) ids.push_back(id);
  const std::string want = io::read_file(folder + "/ref_logits_runc.f32");

  const auto model = load_llama2c(folder + "/stories260K.bin");
  const std::vector<float> got = logits_of(*model, ids);
  ASSERT_EQ(got.size() * sizeof(float), want.size());
  float worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    float w;
    std::memcpy(&w, want.data() + i * sizeof(float), sizeof(w));
    worst = std::max(worst, std::abs(got[i] - w));
  }
  // Both are float32 sums in different orders: logits of about 10, five layers.
  EXPECT_LE(worst, 1e-4f);
  RecordProperty("largest_difference", std::to_string(worst));
}

}  // namespace
}  // namespace refrain
