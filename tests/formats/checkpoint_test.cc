#include "refrain/formats/checkpoint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "refrain/model/parameters/tensor_names.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using io::Json;

ModelConfig tiny_config() {
  ModelConfig c;
  c.vocab_size = 19;
  c.d_model = 12;
  c.layers = 2;
  c.heads = 2;
  c.kv_heads = 1;
  c.d_ff = 20;
  c.context = 16;
  return c;
}

std::unique_ptr<LanguageModel> tiny_model(const ModelConfig& config = tiny_config(),
                                          const SettingMap& settings = {}) {
  auto model = std::make_unique<LanguageModel>(with_settings(config, settings));
  model->initialise(3);
  return model;
}

bool same_weights(LanguageModel& a, LanguageModel& b) {
  return a.parameters().weights().size() == b.parameters().weights().size() &&
         std::memcmp(a.parameters().weights().data(), b.parameters().weights().data(),
                     a.parameters().weights().size_bytes()) == 0;
}

// A tensor as it lies in a file.
struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string bytes;
};
using RawTensors = std::map<std::string, RawTensor>;

template <class T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

RawTensors read_raw(const std::string& path) {
  const io::Safetensors file(path);
  RawTensors tensors;
  for (const io::TensorInfo& info : file.tensors()) {
    const auto bytes = file.bytes(info);
    tensors[info.name] = {std::string(info.dtype),
                          info.shape,
                          {reinterpret_cast<const char*>(bytes.data()), bytes.size()}};
  }
  return tensors;
}

std::string to_file(const RawTensors& tensors) {
  Json header = Json::object();
  std::string data;
  for (const auto& [name, t] : tensors) {
    header[name] = {{"dtype", t.dtype},
                    {"shape", t.shape},
                    {"data_offsets", {data.size(), data.size() + t.bytes.size()}}};
    data += t.bytes;
  }
  const std::string text = io::to_line(header);
  return bytes_of<uint64_t>({text.size()}) + text + data;
}

// A directory that holds tiny_model(config), whose weights a test may change.
struct Directory {
  explicit Directory(const ModelConfig& config = tiny_config()) : model(tiny_model(config)) {
    save_model(folder.path(), *model, {1, 2, -1});
    weights = read_raw(path());
  }
  std::string path() const { return folder / "model.safetensors"; }
  std::string index_path() const { return folder / "model.safetensors.index.json"; }
  std::unique_ptr<LanguageModel> load() const { return load_model(folder.path()); }
  // Writes `weights` and says what loading them says.
  std::string error() const {
    folder.put("model.safetensors", to_file(weights));
    return error_of([&] { load(); });
  }
  void put_config(const std::string& key, const Json& value) const {
    Json json = io::read_json(folder / "config.json");
    json[key] = value;
    folder.put("config.json", io::to_text(json));
  }
  // In two files, tensors by turns; the map from tensors to files can be changed before.
  std::map<std::string, RawTensors> shards() const {
    std::map<std::string, RawTensors> files;
    int n = 0;
    for (const auto& [name, t] : weights)
      files[fmt::format("model-{:05}-of-00002.safetensors", 1 + n++ % 2)][name] = t;
    return files;
  }
  static Json index_of(const std::map<std::string, RawTensors>& files) {
    Json map = Json::object();
    for (const auto& [file, tensors] : files)
      for (const auto& [name, t] : tensors) map[name] = file;
    return {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
  }
  std::string put_shards(const std::map<std::string, RawTensors>& files, const Json& index) const {
    io::remove_all(path());
    for (const auto& [file, tensors] : files) folder.put(file, to_file(tensors));
    folder.put("model.safetensors.index.json", io::to_text(index));
    return error_of([&] { load(); });
  }

  TemporaryFolder folder;
  std::unique_ptr<LanguageModel> model;
  RawTensors weights;
};

constexpr const char* kGate = "model.layers.1.mlp.gate_proj.weight";

TEST(Checkpoint, RoundTripsToTheBit) {
  ModelConfig tied = tiny_config(), wide = tiny_config(), ours = tiny_config();
  ModelConfig convolved = tiny_config();
  convolved.pattern = "gla simple_rnn";
  tied.tie_embeddings = true;
  tied.kv_heads = 2;
  wide.head_dim = 10;
  wide.rms_norm_eps = 1.25e-7;
  SettingMap adjacent, far, taps;
  taps.set("gla.conv", "4");
  taps.set("simple_rnn.conv", "3");
  adjacent.set("attention.rope_pairing", "adjacent");
  far.set("attention.rope_theta", "500000.5");
  const std::vector<std::pair<ModelConfig, SettingMap>> cases = {
      {tiny_config(), {}}, {tied, {}}, {wide, far}, {ours, adjacent}};
  for (const auto& [config, settings] : cases) {
    const TemporaryFolder folder;
    const auto model = tiny_model(config, settings);
    const SpecialTokens special{1, 2, 0, {5}};
    save_model(folder.path(), *model, special);
    SpecialTokens loaded_special;
    const auto loaded = load_model(folder.path(), &loaded_special);
    EXPECT_TRUE(same_weights(*model, *loaded));
    EXPECT_EQ(loaded_special, special);
    SettingMap a, b;
    a.put("", model->config());
    b.put("", loaded->config());
    EXPECT_EQ(a.values(), b.values());
    EXPECT_EQ(model->config().mixer_settings().values(),
              loaded->config().mixer_settings().values());

    const TemporaryFolder again;
    save_model(again.path(), *loaded, special);
    for (const char* file : {"config.json", "generation_config.json", "model.safetensors"})
      EXPECT_EQ(io::read_file(folder / file), io::read_file(again / file)) << file;
  }
}

// Under their own names, and under those of former versions: Llamas', whatever the mixers are.
TEST(Checkpoint, OurOwnModelsHaveOurOwnNames) {
  ModelConfig config = tiny_config();
  config.pattern = "gla attention";
  Directory d(config);
  EXPECT_TRUE(d.weights.contains("embedding.weight"));
  EXPECT_TRUE(d.weights.contains("layers.0.mixer.q_proj.weight"));
  EXPECT_TRUE(d.weights.contains("layers.1.mixer_norm.weight"));
  EXPECT_TRUE(d.weights.contains("layers.1.feed_forward_norm.weight"));
  EXPECT_TRUE(d.weights.contains("layers.1.feed_forward.down_proj.weight"));
  EXPECT_TRUE(d.weights.contains("norm.weight") && d.weights.contains("head.weight"));

  RawTensors former;
  for (const auto& [name, tensor] : d.weights) former[llama_name(name)] = tensor;
  EXPECT_TRUE(former.contains("model.layers.0.self_attn.q_proj.weight"));
  d.weights = former;
  EXPECT_EQ(d.error(), "(no error)");
  EXPECT_TRUE(same_weights(*d.model, *d.load()));
  d.weights.erase("model.layers.1.mlp.down_proj.weight");
  EXPECT_NE(d.error().find("\"model.layers.1.mlp.down_proj.weight\": missing"), std::string::npos);
}

TEST(Checkpoint, NamesTensorsAsHuggingFaceDoes) {
  ModelConfig config = tiny_config();
  config.layers = 1;
  const Directory d(config);
  const std::map<std::string, std::vector<int64_t>> expected = {
      {"model.embed_tokens.weight", {19, 12}},
      {"model.layers.0.input_layernorm.weight", {12}},
      {"model.layers.0.self_attn.q_proj.weight", {12, 12}},
      {"model.layers.0.self_attn.k_proj.weight", {6, 12}},
      {"model.layers.0.self_attn.v_proj.weight", {6, 12}},
      {"model.layers.0.self_attn.o_proj.weight", {12, 12}},
      {"model.layers.0.post_attention_layernorm.weight", {12}},
      {"model.layers.0.mlp.gate_proj.weight", {20, 12}},
      {"model.layers.0.mlp.up_proj.weight", {20, 12}},
      {"model.layers.0.mlp.down_proj.weight", {12, 20}},
      {"model.norm.weight", {12}},
      {"lm_head.weight", {19, 12}},
  };
  std::map<std::string, std::vector<int64_t>> found;
  for (const auto& [name, t] : d.weights) {
    EXPECT_EQ(t.dtype, "F32");
    found[name] = t.shape;
  }
  EXPECT_EQ(found, expected);
  EXPECT_EQ(io::Safetensors(d.path()).metadata(),
            (std::map<std::string, std::string>{{"format", "pt"}}));
  EXPECT_EQ(io::read_json(d.folder / "generation_config.json"),
            (Json{{"bos_token_id", 1}, {"eos_token_id", 2}, {"pad_token_id", nullptr}}));
}

TEST(Checkpoint, RefusesWhatIsMissingExtraOrMisshapen) {
  {
    Directory d;
    d.weights.erase(kGate);
    EXPECT_EQ(d.error(), fmt::format("{}: \"{}\": missing, expected a tensor of shape [20, 12]",
                                     d.path(), kGate));
  }
  {
    Directory d;
    d.weights["model.layers.2.input_layernorm.weight"] = d.weights["model.norm.weight"];
    EXPECT_EQ(d.error(), d.path() +
                             ": \"model.layers.2.input_layernorm.weight\": expected no tensor of "
                             "this name");
  }
  for (const auto& shape : std::vector<std::vector<int64_t>>{{12, 20}, {240}, {20, 12, 1}}) {
    Directory d;
    d.weights[kGate].shape = shape;
    EXPECT_EQ(d.error(), fmt::format("{}: \"{}\": expected shape [20, 12], found [{}]", d.path(),
                                     kGate, fmt::join(shape, ", ")));
  }
  {
    Directory d;
    d.weights[kGate].dtype = "I32";
    EXPECT_EQ(d.error(), fmt::format("{}: \"{}\": expected F32, BF16, F16 or F64, found I32",
                                     d.path(), kGate));
  }
}

TEST(Checkpoint, LoadWeightsChangesNothingBeforeNamesAndShapesAreChecked) {
  Directory d;
  d.weights.erase("lm_head.weight");
  d.error();
  auto other = tiny_model(), same = tiny_model();
  other->initialise(4);
  same->initialise(4);
  EXPECT_NE(error_of([&] { load_weights(d.folder.path(), *other); }), "(no error)");
  EXPECT_TRUE(same_weights(*other, *same));
}

TEST(Checkpoint, ReadsOtherTypes) {
  // Values all four types hold.
  Directory d;
  std::vector<float> values;
  for (int i = 0; i < 240; ++i) values.push_back(static_cast<float>(i % 32 - 16) / 8);
  std::vector<uint16_t> bf16, f16;
  for (float v : values) {
    uint32_t bits;
    std::memcpy(&bits, &v, sizeof(bits));
    bf16.push_back(static_cast<uint16_t>(bits >> 16));
    const uint32_t exponent = bits >> 23 & 0xFF;
    f16.push_back(static_cast<uint16_t>(
        (bits >> 16 & 0x8000) | (v == 0 ? 0 : (exponent - 112) << 10) | (bits >> 13 & 0x3FF)));
  }
  const std::map<std::string, std::string> as = {
      {"F32", bytes_of(values)},
      {"BF16", bytes_of(bf16)},
      {"F16", bytes_of(f16)},
      {"F64", bytes_of(std::vector<double>(values.begin(), values.end()))}};
  for (const auto& [dtype, bytes] : as) {
    d.weights[kGate] = {dtype, {20, 12}, bytes};
    ASSERT_EQ(d.error(), "(no error)") << dtype;
    const auto model = d.load();
    int seen = 0;
    for (const auto& [name, shape, w, g] : model->parameters().file_tensors()) {
      if (llama_name(name) != kGate) continue;
      ++seen;
      EXPECT_EQ(std::vector<float>(w.begin(), w.end()), values) << dtype;
    }
    EXPECT_EQ(seen, 1);
  }
}

TEST(Checkpoint, LeavesOutWhatSaysNothingNew) {
  Directory d;
  const RawTensor table = {"F32", {3}, bytes_of(std::vector<float>(3, 1))};
  d.weights["model.layers.1.self_attn.rotary_emb.inv_freq"] = table;
  d.weights["model.rotary_emb.inv_freq"] = table;
  EXPECT_EQ(d.error(), "(no error)");
  for (const char* name : {"model.layers..self_attn.rotary_emb.inv_freq",
                           "model.layers.x.self_attn.rotary_emb.inv_freq",
                           "model.layers.self_attn.rotary_emb.inv_freq", "inv_freq"}) {
    Directory other;
    other.weights[name] = table;
    EXPECT_NE(other.error().find("expected no tensor of this name"), std::string::npos) << name;
  }
}

TEST(Checkpoint, TiedHeadMayComeTwiceIfItIsTheSame) {
  ModelConfig tied = tiny_config();
  tied.tie_embeddings = true;
  Directory d(tied);
  EXPECT_FALSE(d.weights.contains("lm_head.weight"));
  RawTensor head = d.weights["lm_head.weight"] = d.weights["model.embed_tokens.weight"];
  EXPECT_EQ(d.error(), "(no error)");

  d.weights["lm_head.weight"].bytes[17] ^= 1;
  EXPECT_EQ(d.error(), d.path() +
                           ": \"lm_head.weight\": expected the values of "
                           "model.embed_tokens.weight, to which config.json ties it, found others");
  d.weights["lm_head.weight"] = {"F32", {12, 19}, head.bytes};
  EXPECT_EQ(d.error(), d.path() + ": \"lm_head.weight\": expected shape [19, 12], found [12, 19]");
}

TEST(Checkpoint, TiedHeadMayStandForTheEmbedding) {
  ModelConfig tied = tiny_config();
  tied.tie_embeddings = true;
  Directory d(tied);
  d.weights["lm_head.weight"] = d.weights["model.embed_tokens.weight"];
  d.weights.erase("model.embed_tokens.weight");
  ASSERT_EQ(d.error(), "(no error)");
  EXPECT_TRUE(same_weights(*d.load(), *d.model));
  d.weights["lm_head.weight"].shape = {12, 19};
  EXPECT_EQ(d.error(), d.path() + ": \"lm_head.weight\": expected shape [19, 12], found [12, 19]");
  d.weights.erase("lm_head.weight");
  EXPECT_EQ(d.error(), d.path() +
                           ": \"model.embed_tokens.weight\": missing, expected a tensor of shape "
                           "[19, 12]");
  // Where nothing ties them, the head stands for itself alone.
  Directory untied;
  untied.weights.erase("model.embed_tokens.weight");
  EXPECT_EQ(untied.error(), untied.path() +
                                ": \"model.embed_tokens.weight\": missing, expected a tensor of "
                                "shape [19, 12]");
}

// As transformers saves a LlamaModel.
TEST(Checkpoint, ReadsAStackSavedAlone) {
  for (const bool tie : {true, false}) {
    ModelConfig config = tiny_config();
    config.tie_embeddings = tie;
    Directory d(config);
    RawTensors alone;
    for (const auto& [name, t] : d.weights)
      alone[name.starts_with("model.") ? name.substr(6) : name] = t;
    std::swap(d.weights, alone);
    d.weights["layers.0.self_attn.rotary_emb.inv_freq"] = {"F32", {1}, std::string(4, '\0')};
    ASSERT_EQ(d.error(), "(no error)");
    EXPECT_TRUE(same_weights(*d.load(), *d.model));
    // Sharded as well.
    d.weights.erase("layers.0.self_attn.rotary_emb.inv_freq");
    const auto files = d.shards();
    ASSERT_EQ(d.put_shards(files, Directory::index_of(files)), "(no error)");
    EXPECT_TRUE(same_weights(*d.load(), *d.model));
  }
  {
    Directory d;
    RawTensors alone;
    for (const auto& [name, t] : d.weights)
      if (name.starts_with("model.")) alone[name.substr(6)] = t;
    std::swap(d.weights, alone);
    EXPECT_EQ(d.error(),
              d.path() + ": \"lm_head.weight\": missing, expected a tensor of shape [19, 12]");
    d.weights["lm_head.weight"] = alone["lm_head.weight"];
    d.weights["norm.weight"].shape = {1, 12};
    EXPECT_EQ(d.error(), d.path() + ": \"norm.weight\": expected shape [12], found [1, 12]");
  }
  // Some with and some without: no writer leaves that.
  Directory d;
  d.weights["norm.weight"] = d.weights["model.norm.weight"];
  d.weights.erase("model.norm.weight");
  EXPECT_EQ(d.error(),
            d.path() + ": \"model.norm.weight\": missing, expected a tensor of shape [12]");
}

TEST(Checkpoint, ReadsShards) {
  Directory d;
  const auto files = d.shards();
  ASSERT_EQ(files.size(), 2u);
  ASSERT_EQ(d.put_shards(files, Directory::index_of(files)), "(no error)");
  EXPECT_TRUE(same_weights(*d.load(), *d.model));
  // A whole file beside them comes first, as it does for others.
  d.weights.erase(kGate);
  EXPECT_EQ(d.error().find(d.path() + ": "), 0u);
}

TEST(Checkpoint, RefusesAnIndexThatLies) {
  const Directory d;
  const auto files = d.shards();
  const std::string first = files.begin()->first, second = files.rbegin()->first;
  const std::string a = files.at(first).begin()->first;

  for (const Json& file : {Json("../" + first), Json("/etc/passwd"), Json("sub/" + first),
                           Json(".."), Json(""), Json("model.bin"), Json(7), Json(nullptr),
                           Json::array({first}), Json(std::string("x\0.safetensors", 14))}) {
    Json index = Directory::index_of(files);
    index["weight_map"][a] = file;
    EXPECT_EQ(d.put_shards(files, index),
              fmt::format("{}: weight_map: \"{}\": expected the name of a .safetensors file, "
                          "found {}",
                          d.index_path(), a, io::describe(file)));
  }

  Json index = Directory::index_of(files);
  index["weight_map"][a] = second;
  EXPECT_EQ(d.put_shards(files, index), fmt::format("{}: \"{}\": {} does not say that it is here",
                                                    d.folder / first, a, d.index_path()));
  index["weight_map"].erase(a);
  EXPECT_EQ(d.put_shards(files, index), fmt::format("{}: \"{}\": {} does not say that it is here",
                                                    d.folder / first, a, d.index_path()));
  index["weight_map"][a] = first;
  index["weight_map"]["another"] = first;
  EXPECT_EQ(d.put_shards(files, index),
            fmt::format("{}: \"another\": missing; {} says that it is here", d.folder / first,
                        d.index_path()));
  index = Directory::index_of(files);
  index["weight_map"][a] = "absent.safetensors";
  EXPECT_NE(d.put_shards(files, index).find(d.folder / "absent.safetensors"), std::string::npos);

  EXPECT_EQ(d.put_shards(files, Json::object()), d.index_path() + ": weight_map: missing");
  EXPECT_EQ(d.put_shards(files, {{"weight_map", 1}}),
            d.index_path() + ": weight_map: expected an object, found 1");
  EXPECT_EQ(d.put_shards(files, {{"weight_map", Json::object()}}).find(d.folder.path()), 0u);
  index = Directory::index_of(files);
  Json::object_t::Container& members = index["weight_map"].get_ref<Json::object_t&>();
  for (int i = 0; i < 1 << 16; ++i) members.emplace_back(fmt::format("t{}", i), first);
  EXPECT_EQ(d.put_shards(files, index), d.index_path() + ": more than 65536 JSON values");
  // What else is in it is not kept.
  std::string many = "{\"weight_map\": {}";
  for (int i = 0; i < 100'000; ++i) many += fmt::format(", \"{}\": 0", i);
  d.folder.put("model.safetensors.index.json", many + ", \"weight_map\": {}}");
  EXPECT_EQ(error_of([&] { d.load(); }),
            d.index_path() + ": key \"weight_map\" twice in one object");
  d.folder.put("model.safetensors.index.json", std::string(200, '['));
  EXPECT_EQ(error_of([&] { d.load(); }), d.index_path() + ": JSON nested deeper than 64 levels");
}

TEST(Checkpoint, NamesWhatIsAbsent) {
  const Directory d;
  io::remove_all(d.path());
  EXPECT_EQ(error_of([&] { d.load(); }),
            d.folder.path() +
                ": expected model.safetensors or model.safetensors.index.json, found neither");
  io::remove_all(d.folder / "config.json");
  EXPECT_NE(error_of([&] { d.load(); }).find(d.folder / "config.json"), std::string::npos);
}

TEST(Checkpoint, TakesNoMemoryForAModelTheFilesCannotFill) {
  for (const auto& [key, value] : std::map<std::string, int64_t>{{"vocab_size", 1 << 24},
                                                                 {"intermediate_size", 1 << 20},
                                                                 {"num_hidden_layers", 4096},
                                                                 {"head_dim", 4096}}) {
    const Directory d;
    d.put_config(key, value);
    const std::string error = error_of([&] { d.load(); });
    EXPECT_EQ(error.find(d.folder.path() + "/config.json: expected the settings of a model of"), 0u)
        << error;
  }
  // Every size at its limit at once: counting must not overflow.
  const Directory d;
  for (const auto& [key, value] : std::map<std::string, int64_t>{{"vocab_size", 1 << 24},
                                                                 {"hidden_size", 1 << 16},
                                                                 {"intermediate_size", 1 << 20},
                                                                 {"num_hidden_layers", 4096},
                                                                 {"num_attention_heads", 4096},
                                                                 {"num_key_value_heads", 4096},
                                                                 {"head_dim", 4096}})
    d.put_config(key, value);
  const std::string error = error_of([&] { d.load(); });
  EXPECT_NE(error.find("config.json: expected the settings of a model of"), error.npos) << error;
  EXPECT_EQ(error.find('-', error.find("found")), error.npos) << error;
}

// A byte of another type is no weight.
TEST(Checkpoint, CountsAsWeightsWhatCanBeOne) {
  for (const char* dtype : {"BOOL", "I8", "F8_E4M3", "I64"}) {
    Directory d;
    const int64_t bytes = int64_t{1} << 22;
    d.weights["x"] = {dtype,
                      {dtype == std::string("I64") ? bytes / 8 : bytes},
                      std::string(static_cast<size_t>(bytes), '\0')};
    d.put_config("vocab_size", dtype == std::string("I64") ? 20'000 : 160'000);
    const std::string error = d.error();
    EXPECT_EQ(error.find(d.folder.path() + "/config.json: expected the settings of a model of"), 0u)
        << error;
  }
}

// Rotary tables are made by a context that no weight is behind.
TEST(Checkpoint, TablesOfADeepStackAreBounded) {
  ModelConfig deep = tiny_config();
  deep.layers = 4096;
  deep.context = 1 << 24;
#ifdef __SANITIZE_THREAD__
  GTEST_SKIP() << "the sanitizer's memory of what was accessed counts as well";
#endif
  const auto resident = [] {
    std::ifstream file("/proc/self/statm");
    int64_t all = 0, pages = 0;
    file >> all >> pages;
    return pages * 4096;
  };
  const int64_t before = resident();
  const LanguageModel model(deep, LanguageModel::Memory::kLater);
  EXPECT_LT(resident() - before, int64_t{1} << 29);  // one of 1 MiB per block would be 4 GiB
}

TEST(Checkpoint, NamesTheFileOfASettingAMixerRefuses) {
  const Directory d;
  d.put_config("head_dim", 5);
  EXPECT_EQ(error_of([&] { d.load(); }).find(d.folder.path() + "/config.json: head_dim: "), 0u);
}

// A directory is loaded or refused with one line, whatever a few bytes of it are.
TEST(Checkpoint, SurvivesMutation) {
  const Directory d;
  Random random(11);
  for (const char* file : {"config.json", "generation_config.json", "model.safetensors"}) {
    const std::string original = io::read_file(d.folder / file);
    // Of the weights, their header is what can be wrong.
    const size_t end = std::min<size_t>(original.size(), 1200);
    int refused = 0;
    for (int i = 0; i < 300; ++i) {
      std::string bytes = original;
      for (uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
        constexpr std::string_view kBytes = "0123456789-.eE\"{}[],:ntf\\\n \xff";
        bytes.replace(random.below(end), random.below(3), 1, kBytes[random.below(kBytes.size())]);
      }
      d.folder.put(file, bytes);
      try {
        d.load();
      } catch (const Error& error) {
        ++refused;
        EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      }
    }
    EXPECT_GT(refused, 30) << file;
    d.folder.put(file, original);
  }
  EXPECT_TRUE(same_weights(*d.load(), *d.model));
}

}  // namespace
}  // namespace refrain
