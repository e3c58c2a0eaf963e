// Models of the families of checkpoints. tests/golden/families/<name> are directories that
// transformers wrote, with the logits that it computes (tools/make_golden_families.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "refrain/formats/checkpoint.h"
#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "refrain/mixers/attention/attention.h"
#include "refrain/model/form_check.h"
#include "refrain/model/workspace.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using io::Json;

std::string golden(const std::string& name) {
  return std::string(REFRAIN_GOLDEN) + "/families/" + name;
}

struct Expected {
  std::vector<int32_t> tokens;
  std::vector<float> logits;
};
Expected expected(const std::string& name) {
  const io::Safetensors file(golden(name) + "/expected.safetensors");
  const auto read = [&](const char* tensor) {
    std::vector<float> values(static_cast<size_t>(file.find(tensor)->size()));
    file.read(*file.find(tensor), values);
    return values;
  };
  const std::vector<float> tokens = read("tokens");
  return {{tokens.begin(), tokens.end()}, read("logits")};
}

std::vector<float> logits(const LanguageModel& model, const std::vector<int32_t>& tokens) {
  const auto T = std::ssize(tokens);
  const int64_t V = model.config().vocab_size;
  std::vector<int32_t> rows(tokens.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<float> out(static_cast<size_t>(T * V));
  RaggedBatchBuilder data;
  const RaggedBatch batch = data.whole(1, T);
  Workspace().run({}, [&](ExecutionContext& ctx, Arena&) {
    model.logits(ctx, batch, tokens, {}, rows, {out.data(), {T, V}});
  });
  return out;
}

void expect_near(const std::vector<float>& got, const std::vector<float>& want, double tolerance) {
  ASSERT_EQ(got.size(), want.size());
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << i;
}

// By name, whatever file they are in.
std::map<std::string, std::vector<float>> tensors_in(const std::string& directory) {
  std::map<std::string, std::vector<float>> all;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    const std::string file_name = entry.path().filename();
    if (!file_name.starts_with("model") || !file_name.ends_with(".safetensors")) continue;
    const io::Safetensors file(entry.path());
    for (const io::TensorInfo& info : file.tensors()) {
      std::vector<float>& values = all[info.name + fmt::format(" {}", fmt::join(info.shape, " "))];
      values.resize(static_cast<size_t>(info.size()));
      file.read(info, values);
    }
  }
  return all;
}

class FamilyTest : public testing::TestWithParam<const char*> {
 protected:
  std::string name() const { return GetParam(); }
  std::string model_type() const { return name().substr(0, name().find('_')); }
};

TEST_P(FamilyTest, GivesTheLogitsOfTransformers) {
  std::vector<std::string> heard;
  SpecialTokens special;
  const auto model =
      load_model(golden(name()), &special, [&](const std::string& line) { heard.push_back(line); });
  EXPECT_TRUE(heard.empty()) << heard.front();
  EXPECT_EQ(special, (SpecialTokens{1, 2, -1}));
  const Expected e = expected(name());
  // float32 on both sides; transformers' angles are float32 too.
  expect_near(logits(*model, e.tokens), e.logits, 1e-4);

  // The forms and the gradients agree with the reference in float64.
  for (const FormDifference& difference : check_forms(*model, e.tokens))
    EXPECT_TRUE(difference.passed()) << difference.what << " " << difference.between << ": "
                                     << difference.largest << " of " << difference.scale;
}

TEST_P(FamilyTest, IsPackedForInference) {
  const Expected e = expected(name());
  const auto rows = load_model(golden(name()));
  const auto packed = load_packed_model(golden(name()));
  EXPECT_TRUE(packed->parameters().is_packed());
  EXPECT_EQ(logits(*packed, e.tokens), logits(*rows, e.tokens));
  const auto rounded = load_packed_model(golden(name()), nullptr, {}, Storage::kBf16);
  for (const FormDifference& difference : check_forms(*rounded, e.tokens))
    EXPECT_TRUE(difference.passed()) << difference.what << " " << difference.between;
}

TEST_P(FamilyTest, IsWrittenAsItWasRead) {
  SpecialTokens special;
  const auto model = load_model(golden(name()), &special);
  for (const std::string type : {"f32", "bf16"}) {
    const TemporaryFolder folder;
    save_model(folder.path(), *model, special, {.type = type});
    const Json config = io::read_json(folder / "config.json");
    EXPECT_EQ(config["model_type"], model_type());
    EXPECT_EQ(config["dtype"], type == "f32" ? "float32" : "bfloat16");
    const auto again = load_model(folder.path());
    EXPECT_EQ(again->config().mixer_settings().values(), model->config().mixer_settings().values());
    EXPECT_EQ(again->config().full_pattern(), model->config().full_pattern());
    // Those that were bfloat16 are the same in either type.
    const bool was_bf16 = name() != "qwen2" && name() != "llama_linear";
    if (type == "f32" || was_bf16) {
      EXPECT_EQ(tensors_in(folder.path()), tensors_in(golden(name())));
    }
  }
}

TEST_P(FamilyTest, IsWrittenInSeveralFiles) {
  const auto model = load_model(golden(name()));
  const TemporaryFolder folder;
  save_model(folder.path(), *model, {});
  const auto whole = tensors_in(folder.path());
  save_model(folder.path(), *model, {}, {.largest_file = 6000});
  EXPECT_FALSE(io::exists(folder / "model.safetensors"));  // it would count
  EXPECT_EQ(tensors_in(folder.path()), whole);
  const Json index = io::read_json(folder / "model.safetensors.index.json");
  EXPECT_EQ(index["weight_map"].size(), whole.size());
  EXPECT_EQ(index["metadata"]["total_size"], model->parameters().count() * 4);
  const std::string first = index["weight_map"].begin().value();
  EXPECT_TRUE(first.starts_with("model-00001-of-0000")) << first;
  for (const auto& entry : std::filesystem::directory_iterator(folder.path()))
    EXPECT_LE(entry.file_size(), 8000u) << entry.path();  // with its header
  const auto again = load_model(folder.path());
  const Expected e = expected(name());
  EXPECT_EQ(logits(*again, e.tokens), logits(*model, e.tokens));

  std::filesystem::remove(folder / first);
  const std::string error = error_of([&] { load_model(folder.path()); });
  EXPECT_EQ(error.find(folder / first + ": missing, with "), 0u) << error;
}

INSTANTIATE_TEST_SUITE_P(Families, FamilyTest,
                         testing::Values("llama", "llama_linear", "mistral", "ministral", "qwen2",
                                         "qwen3", "smollm3", "gpt2"),
                         [](const auto& info) { return std::string(info.param); });

// The config of a golden model with some settings changed; null takes one away.
ModelConfig changed(const std::string& name, const std::string& settings) {
  Json json = io::read_json(golden(name) + "/config.json");
  const Json changes = io::parse_json(settings, "settings");
  for (const auto& [key, value] : changes.items())
    if (value.is_null())
      json.erase(key);
    else
      json[key] = value;
  return parse_model_config(json, "config.json").config;
}
std::string error_with(const std::string& name, const std::string& settings) {
  return error_of([&] { changed(name, settings); });
}
std::vector<int64_t> windows(const ModelConfig& config) {
  std::vector<int64_t> all;
  for (const MixerConfig& mixer : config.mixers) all.push_back(mixer.as<AttentionConfig>().window);
  return all;
}
std::vector<bool> rope(const ModelConfig& config) {
  std::vector<bool> all;
  for (const MixerConfig& mixer : config.mixers) all.push_back(mixer.as<AttentionConfig>().rope);
  return all;
}
std::string type_of(const ModelConfig& config) { return to_json({config, {}}).at("model_type"); }
using Windows = std::vector<int64_t>;

TEST(Families, WindowsAreThoseOfTransformers) {
  EXPECT_EQ(windows(changed("qwen2", "{}")), (Windows{0, 8}));
  EXPECT_EQ(windows(changed("qwen2", R"({"layer_types": null})")), (Windows{0, 8}));
  EXPECT_EQ(windows(changed("qwen2", R"({"layer_types": null, "max_window_layers": 0})")),
            (Windows{8, 8}));
  EXPECT_EQ(windows(changed("qwen2", R"({"layer_types": null, "max_window_layers": null})")),
            (Windows{0, 0}));
  EXPECT_EQ(windows(changed("qwen2", R"({"layer_types": null, "sliding_window": null})")),
            (Windows{0, 4096}));
  // Real files have a window that is not used.
  for (const char* unused : {"false", "null"})
    EXPECT_EQ(
        windows(changed("qwen2", fmt::format(R"({{"layer_types": null, "sliding_window": 32768,
                              "max_window_layers": 21, "use_sliding_window": {}}})",
                                             unused))),
        (Windows{0, 0}));
  EXPECT_EQ(windows(changed("qwen3", "{}")), (Windows{8, 0}));
  EXPECT_EQ(windows(changed("ministral", "{}")), (Windows{8, 0}));
  EXPECT_EQ(windows(changed("ministral", R"({"layer_types": null})")), (Windows{8, 8}));
  EXPECT_EQ(windows(changed("mistral", "{}")), (Windows{8, 8}));
  // In files of a Mistral, transformers does not read them.
  EXPECT_EQ(error_with("mistral", R"({"layer_types": ["sliding_attention", "full_attention"]})"),
            "config.json: layer_types: expected \"sliding_attention\", found \"full_attention\"");
  EXPECT_EQ(error_with("qwen2", R"({"use_sliding_window": false})"),
            "config.json: layer_types: expected \"full_attention\", found \"sliding_attention\"");
  EXPECT_EQ(error_with("qwen2", R"({"layer_types": ["full_attention", "chunked_attention"]})"),
            "config.json: layer_types: expected full_attention or sliding_attention, found "
            "\"chunked_attention\"");
  EXPECT_EQ(error_with("qwen2", R"({"layer_types": ["full_attention"]})"),
            "config.json: layer_types: expected 2 words, one for each layer, found 1");
  EXPECT_EQ(error_with("qwen2", R"({"sliding_window": 0})").find("config.json: sliding_window: "),
            0u);
}

TEST(Families, AbsentSettingsMeanWhatTheyMeanToTransformers) {
  const ModelConfig qwen3 =
      changed("qwen3", R"({"head_dim": null, "max_position_embeddings": null})");
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_EQ(qwen3.context, 32768);
  EXPECT_FALSE(changed("qwen3", R"({"tie_word_embeddings": null})").tie_embeddings);
  EXPECT_TRUE(changed("smollm3", R"({"tie_word_embeddings": null})").tie_embeddings);
  const ModelConfig deep = changed("smollm3", R"({"no_rope_layers": null, "layer_types": null,
                                                  "num_hidden_layers": 8})");
  EXPECT_EQ(rope(deep), (std::vector<bool>{true, true, true, false, true, true, true, false}));
  EXPECT_EQ(windows(changed("smollm3", R"({"layer_types": null, "use_sliding_window": true,
                                           "sliding_window": 5})")),
            (Windows{0, 5}));
  EXPECT_EQ(
      changed("smollm3", R"({"rope_parameters": null})").mixers[0].as<AttentionConfig>().rope_theta,
      2e6);
  const ModelConfig gpt2 = changed("gpt2", R"({"n_inner": null, "layer_norm_epsilon": null,
      "activation_function": null, "tie_word_embeddings": null, "n_positions": null})");
  EXPECT_EQ(gpt2.d_ff, 64);
  EXPECT_EQ(gpt2.rms_norm_eps, 1e-5);
  EXPECT_EQ(gpt2.feed_forward, "gelu_tanh");
  EXPECT_EQ(gpt2.context, 1024);
  EXPECT_TRUE(gpt2.tie_embeddings);
}

TEST(Families, RefuseWhatTheyCannotHonour) {
  const std::vector<std::array<std::string, 3>> cases = {
      {"gpt2", R"({"scale_attn_by_inverse_layer_idx": true})",
       "scale_attn_by_inverse_layer_idx: expected false, found true"},
      {"gpt2", R"({"scale_attn_weights": false})",
       "scale_attn_weights: expected true, found false"},
      {"gpt2", R"({"add_cross_attention": true})",
       "add_cross_attention: expected false, found true"},
      {"gpt2", R"({"activation_function": "silu"})",
       "activation_function: expected gelu_new, gelu_pytorch_tanh, gelu or relu, found \"silu\""},
      {"gpt2", R"({"architectures": ["GPT2ForSequenceClassification"]})",
       "architectures: expected \"GPT2LMHeadModel\", found \"GPT2ForSequenceClassification\""},
      {"gpt2", R"({"quantization_config": {"bits": 4}})",
       "\"quantization_config\": expected no setting of this name, found an object"},
      {"gpt2", R"({"n_head": 3})", "n_head: expected a divisor of d_model = 16, found 3"},
      {"qwen2", R"({"attention_bias": true})", "attention_bias: expected false, found true"},
      {"qwen2", R"({"num_experts": 4})",
       "\"num_experts\": expected no setting of this name, found 4"},
      {"qwen3", R"({"mlp_bias": true})", "mlp_bias: expected false, found true"},
      {"mistral", R"({"attention_bias": true})", "attention_bias: expected false, found true"},
      {"llama", R"({"no_rope_layers": [1, 0]})",
       "\"no_rope_layers\": expected no setting of this name, found a list"},
      {"smollm3", R"({"no_rope_layers": [1]})",
       "no_rope_layers: expected a list of 2 numbers, one for each layer, found 1"},
      {"smollm3", R"({"no_rope_layers": [1, 2]})",
       "no_rope_layers: expected 1 (rotary positions) or 0 (none), found 2"},
      {"llama", R"({"architectures": ["Qwen2ForCausalLM"]})",
       "architectures: expected \"LlamaForCausalLM\", found \"Qwen2ForCausalLM\""},
  };
  for (const auto& [name, settings, error] : cases)
    EXPECT_EQ(error_with(name, settings), "config.json: " + error);
}

TEST(Families, AreChosenByWhatTheyCompute) {
  const auto with = [](const std::string& pattern, auto&& change) {
    ModelConfig config{.vocab_size = 11, .d_model = 8, .layers = 2, .heads = 2, .pattern = pattern};
    change(config);
    config.resolve();
    return type_of(config);
  };
  const auto plain = [&](const std::string& pattern) { return with(pattern, [](ModelConfig&) {}); };
  EXPECT_EQ(plain("attention"), "llama");
  EXPECT_EQ(plain("attention:output_bias=true,qkv_bias=true"), "llama");
  EXPECT_EQ(plain("attention:rope_scaling=linear,rope_factor=2"), "llama");
  EXPECT_EQ(plain("attention:window=4"), "mistral");
  EXPECT_EQ(plain("attention:window=4 attention"), "ministral");
  EXPECT_EQ(plain("attention:qkv_bias=true"), "qwen2");
  EXPECT_EQ(plain("attention:qkv_bias=true,window=4 attention:qkv_bias=true"), "qwen2");
  EXPECT_EQ(plain("attention:qk_norm=true"), "qwen3");
  EXPECT_EQ(plain("attention attention:rope=false"), "smollm3");
  for (const char* pattern :
       {"attention:window=4 attention:window=5", "attention:output_bias=true",
        "attention:qkv_bias=true attention", "attention:rope=false",
        "attention:qk_norm=true,qkv_bias=true", "attention:window=4,output_bias=true,qkv_bias=true",
        "attention:rope_scaling=linear,rope_factor=2 attention",
        "attention:qk_norm=true,stride=2,window=4",
        "attention:qk_norm=true attention:qk_norm=true,rope=false"})
    EXPECT_EQ(plain(pattern), "refrain") << pattern;
  const auto gpt2 = [](ModelConfig& c) {
    c.feed_forward = "gelu_tanh";
    c.feed_forward_bias = c.learned_positions = true;
    c.norm = "layer_norm";
  };
  const std::string biased = "attention:output_bias=true,qkv_bias=true,rope=false";
  EXPECT_EQ(with(biased, gpt2), "gpt2");
  EXPECT_EQ(with("attention:output_bias=true,qkv_bias=true", gpt2), "refrain");
  EXPECT_EQ(with(biased, [&](ModelConfig& c) { gpt2(c), c.kv_heads = 1; }), "refrain");
  EXPECT_EQ(with(biased, [&](ModelConfig& c) { gpt2(c), c.learned_positions = false; }), "refrain");
  EXPECT_EQ(with(biased, [&](ModelConfig& c) { gpt2(c), c.feed_forward_bias = false; }), "refrain");
}

// As the first GPT-2s were published: the stack alone, with the masks of attention.
TEST(Gpt2, FilesOfTheStackAlone) {
  const TemporaryFolder folder;
  folder.put("config.json", io::read_file(golden("gpt2") + "/config.json"));
  const io::Safetensors file(golden("gpt2") + "/model.safetensors");
  std::vector<std::vector<float>> values;
  std::vector<io::TensorToWrite> tensors;
  for (const io::TensorInfo& info : file.tensors()) {
    values.emplace_back(static_cast<size_t>(info.size()));
    file.read(info, values.back());
  }
  size_t next = 0;
  for (const io::TensorInfo& info : file.tensors())
    tensors.push_back({.name = info.name.substr(std::string("transformer.").size()),
                       .shape = info.shape,
                       .data = values[next++].data()});
  const std::vector<float> mask(64 * 64);
  for (const char* name : {"h.0.attn.bias", "h.1.attn.bias", "h.0.attn.masked_bias"})
    tensors.push_back({.name = name, .shape = {1, 1, 64, 64}, .data = mask.data()});
  const std::string path = folder / "model.safetensors";
  io::write_safetensors(path, tensors, {});
  const Expected e = expected("gpt2");
  expect_near(logits(*load_model(folder.path()), e.tokens), e.logits, 1e-4);

  tensors.back().name = "h.0.attn.another";
  io::write_safetensors(path, tensors, {});
  EXPECT_EQ(error_of([&] { load_model(folder.path()); }),
            path + ": \"h.0.attn.another\": expected no tensor of this name");
  tensors.pop_back();
  for (io::TensorToWrite& tensor : tensors)
    if (tensor.name == "h.1.mlp.c_fc.weight") std::swap(tensor.shape[0], tensor.shape[1]);
  io::write_safetensors(path, tensors, {});
  EXPECT_EQ(error_of([&] { load_model(folder.path()); }),
            path + ": \"h.1.mlp.c_fc.weight\": expected shape [16, 20], found [20, 16]");
}

TEST(Gpt2, SequencesEndWithTheLearnedPositions) {
  const auto model = load_model(golden("gpt2"));
  EXPECT_NO_THROW(logits(*model, std::vector<int32_t>(64, 3)));
  EXPECT_EQ(
      error_of([&] { logits(*model, std::vector<int32_t>(65, 3)); }),
      "context: expected sequences of at most 64 tokens, because positions are learned, found "
      "a token behind 64 others");
  EXPECT_FALSE(model->bounded_state());
}

TEST(SaveModel, RoundsToTheTypeOfTheFile) {
  auto model = load_model(golden("qwen2"));
  float& first = model->parameters().weights()[0];
  const TemporaryFolder folder;
  first = 1 + 0x1p-8f + 0x1p-20f;  // of bfloat16's last digit a little more than a half
  save_model(folder.path(), *model, {}, {.type = "bf16"});
  EXPECT_EQ(load_model(folder.path())->parameters().weights()[0], 1 + 0x1p-7f);
  first = 65504;
  save_model(folder.path(), *model, {}, {.type = "f16"});
  EXPECT_EQ(load_model(folder.path())->parameters().weights()[0], 65504);
  first = 70000;
  EXPECT_EQ(error_of([&] { save_model(folder.path(), *model, {}, {.type = "f16"}); }),
            folder / "model.safetensors" +
                ": \"model.embed_tokens.weight\": expected numbers up to 65504 for F16, found "
                "70000");
  EXPECT_EQ(load_model(folder.path())->parameters().weights()[0], 65504);  // nothing is lost
  EXPECT_EQ(error_of([&] { save_model(folder.path(), *model, {}, {.type = "q8_0"}); }),
            "type: expected f32, bf16 or f16, found \"q8_0\"");
}

}  // namespace
}  // namespace refrain
