#include "refrain/formats/config_json.h"

#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/mixers/attention/attention.h"
#include "support/error_of.h"
#include "support/temporary_folder.h"

namespace refrain {
namespace {

using io::Json;

// As version 5 of transformers writes it.
constexpr const char* kVersion5 = R"({
  "architectures": ["LlamaForCausalLM"],
  "attention_bias": false,
  "attention_dropout": 0.0,
  "bos_token_id": 1,
  "dtype": "float32",
  "eos_token_id": 2,
  "head_dim": 8,
  "hidden_act": "silu",
  "hidden_size": 32,
  "initializer_range": 0.02,
  "intermediate_size": 48,
  "max_position_embeddings": 64,
  "mlp_bias": false,
  "model_type": "llama",
  "num_attention_heads": 4,
  "num_hidden_layers": 2,
  "num_key_value_heads": 2,
  "pad_token_id": null,
  "pretraining_tp": 1,
  "rms_norm_eps": 1e-06,
  "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"},
  "tie_word_embeddings": false,
  "transformers_version": "5.0.0",
  "use_cache": true,
  "vocab_size": 67
})";

constexpr const char* kRefrain = R"({
  "model_type": "refrain",
  "vocab_size": 67,
  "d_model": 32,
  "layers": 2,
  "heads": 4,
  "kv_heads": 2,
  "head_dim": 8,
  "d_ff": 48,
  "context": 64,
  "tie_embeddings": true,
  "rms_norm_eps": 1e-06,
  "pattern": "attention",
  "block": "pre_norm",
  "feed_forward": "swiglu",
  "feed_forward_bias": false,
  "norm": "rms_norm",
  "activation_precision": "accurate",
  "learned_positions": false,
  "attention": {"output_bias": true, "qk_norm": true, "qkv_bias": true, "rope": true,
    "rope_factor": 4.5, "rope_high_freq_factor": 3, "rope_low_freq_factor": 1,
    "rope_original_context": 512, "rope_pairing": "adjacent", "rope_scaling": "llama3",
    "rope_theta": 500000.0, "stride": 8, "window": 32},
  "bos_token_id": 1,
  "eos_token_id": 2,
  "pad_token_id": null
})";

ModelDescription parse(const std::string& text) {
  return parse_model_config(io::parse_json(text, "config.json"), "config.json");
}

// `text` with one setting changed, or added.
Json changed(const char* text, const std::string& key, const std::string& value) {
  Json json = io::parse_json(text, "config.json");
  json[key] = io::parse_json(value, key);
  return json;
}
ModelDescription parse_changed(const std::string& key, const std::string& value,
                               const char* text = kVersion5) {
  return parse_model_config(changed(text, key, value), "config.json");
}
std::string error_with(const std::string& key, const std::string& value,
                       const char* text = kVersion5) {
  return error_of([&] { parse_changed(key, value, text); });
}
std::string error_without(const std::string& key, const char* text = kVersion5) {
  Json json = io::parse_json(text, "config.json");
  json.erase(key);
  return error_of([&] { parse_model_config(json, "config.json"); });
}

std::string rope_theta(const ModelDescription& d) {
  return d.config.mixer_settings().values().at("attention.rope_theta");
}

AttentionConfig& attention_of(ModelDescription& d, size_t block) {
  return d.config.mixers[block].as<AttentionConfig>();
}

std::string type_of(const ModelDescription& d) { return to_json(d).at("model_type"); }

void expect_same(ModelDescription a, ModelDescription b) {
  SettingMap of_a, of_b;
  for (ModelConfig* c : {&a.config, &b.config}) c->pattern = c->full_pattern();
  of_a.put("", a.config);
  of_b.put("", b.config);
  EXPECT_EQ(of_a.values(), of_b.values());
  EXPECT_EQ(a.config.mixer_settings().values(), b.config.mixer_settings().values());
  EXPECT_EQ(a.special, b.special);
}

TEST(LlamaConfig, ReadsVersion5) {
  const ModelDescription d = parse(kVersion5);
  EXPECT_EQ(d.config.vocab_size, 67);
  EXPECT_EQ(d.config.d_model, 32);
  EXPECT_EQ(d.config.layers, 2);
  EXPECT_EQ(d.config.heads, 4);
  EXPECT_EQ(d.config.kv_heads, 2);
  EXPECT_EQ(d.config.head_dim, 8);
  EXPECT_EQ(d.config.d_ff, 48);
  EXPECT_EQ(d.config.context, 64);
  EXPECT_FALSE(d.config.tie_embeddings);
  EXPECT_EQ(d.config.rms_norm_eps, 1e-6);
  EXPECT_EQ(d.config.mixer_kinds(), std::vector<std::string>(2, "attention"));
  EXPECT_EQ(rope_theta(d), "5e+05");
  EXPECT_EQ(d.config.mixers[0].as<AttentionConfig>().rope_pairing, "half");
  EXPECT_EQ(d.special, (SpecialTokens{1, 2, -1}));
}

TEST(LlamaConfig, ReadsVersion4) {
  const ModelDescription d = parse(R"({
    "_name_or_path": "somewhere", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
    "hidden_size": 576, "initializer_range": 0.041666666666666664, "intermediate_size": 1536,
    "is_llama_config": true, "max_position_embeddings": 8192, "model_type": "llama",
    "num_attention_heads": 9, "num_hidden_layers": 30, "num_key_value_heads": 3,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_interleaved": false, "rope_scaling": null,
    "rope_theta": 100000, "tie_word_embeddings": true, "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3", "transformers.js_config": {"dtype": "fp16"},
    "use_cache": true, "vocab_size": 49152})");
  EXPECT_EQ(d.config.head_dim, 64);
  EXPECT_EQ(d.config.kv_heads, 3);
  EXPECT_TRUE(d.config.tie_embeddings);
  EXPECT_EQ(rope_theta(d), "1e+05");
  EXPECT_EQ(d.special, SpecialTokens{});
}

TEST(LlamaConfig, AbsentSettingsMeanWhatTheyMeanToTransformers) {
  Json json = io::parse_json(kVersion5, "config.json");
  for (const char* key : {"num_key_value_heads", "head_dim", "max_position_embeddings",
                          "rms_norm_eps", "rope_parameters", "tie_word_embeddings", "hidden_act"})
    json.erase(key);
  const ModelDescription d = parse_model_config(json, "config.json");
  EXPECT_EQ(d.config.kv_heads, 4);
  EXPECT_EQ(d.config.head_dim, 8);
  EXPECT_EQ(d.config.context, 2048);
  EXPECT_EQ(d.config.rms_norm_eps, 1e-6);
  EXPECT_FALSE(d.config.tie_embeddings);
  EXPECT_EQ(rope_theta(d), "10000");
  // Null says nothing, whatever it is said of.
  EXPECT_EQ(parse_changed("num_key_value_heads", "null").config.kv_heads, 4);
  EXPECT_EQ(parse_changed("sliding_window", "null").config.kv_heads, 2);
  EXPECT_EQ(parse_changed("quantization_config", "null").config.kv_heads, 2);
}

TEST(LlamaConfig, ReadsRopeInEverySpelling) {
  const auto theta = [](const std::string& settings) {
    Json json = io::parse_json(kVersion5, "config.json");
    json.erase("rope_parameters");
    json.update(io::parse_json(settings, "settings"));
    return rope_theta(parse_model_config(json, "config.json"));
  };
  EXPECT_EQ(theta("{}"), "10000");
  EXPECT_EQ(theta(R"({"rope_theta": 20000})"), "20000");
  EXPECT_EQ(theta(R"({"rope_theta": 20000, "rope_scaling": {"type": "default"}})"), "20000");
  EXPECT_EQ(theta(R"({"rope_parameters": {"rope_theta": 2e4}})"), "20000");
  EXPECT_EQ(theta(R"({"rope_scaling": {"rope_type": "default", "rope_theta": 2e4}})"), "20000");
  EXPECT_EQ(theta(R"({"rope_theta": 2e4, "rope_parameters": {"rope_theta": 20000.0,
                      "rope_type": "default", "factor": null}})"),
            "20000");
  EXPECT_EQ(
      error_of([&] { theta(R"({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 2e4}})"); }),
      "config.json: rope_parameters: rope_theta: expected 10000 as elsewhere in this file, "
      "found 20000");
}

TEST(LlamaConfig, RefusesByNameWhatItCannotHonour) {
  const std::vector<std::pair<std::string, std::pair<std::string, std::string>>> cases = {
      {"mlp_bias", {"true", "mlp_bias: expected false, found true"}},
      {"hidden_act", {"\"gelu\"", "hidden_act: expected \"silu\", found \"gelu\""}},
      {"architectures",
       {R"(["LlamaForSequenceClassification"])",
        R"(architectures: expected "LlamaForCausalLM", found "LlamaForSequenceClassification")"}},
      {"architectures", {"[]", R"(architectures: expected "LlamaForCausalLM", found a list)"}},
      {"rope_interleaved", {"true", "rope_interleaved: expected false, found true"}},
      {"partial_rotary_factor", {"0.5", "partial_rotary_factor: expected 1, found 0.5"}},
      {"is_encoder_decoder", {"true", "is_encoder_decoder: expected false, found true"}},
      {"rope_scaling",
       {R"({"factor": 2.0, "type": "linear"})",
        "rope_scaling: expected the scaling of rope_parameters, found another"}},
      {"rope_parameters",
       {R"({"rope_theta": 1e4, "rope_type": "llama3", "factor": 8})",
        "rope_parameters: low_freq_factor: missing"}},
      {"rope_parameters",
       {R"({"rope_theta": 1e4, "rope_type": "yarn", "factor": 8})",
        "rope_parameters: rope_type: expected default, linear or llama3, found \"yarn\""}},
      {"rope_parameters",
       {R"({"rope_type": "dynamic", "factor": 8})",
        "rope_parameters: rope_type: expected default, linear or llama3, found \"dynamic\""}},
      {"rope_parameters",
       {R"({"type": "longrope"})",
        "rope_parameters: type: expected default, linear or llama3, found \"longrope\""}},
      {"rope_parameters",
       {R"({"rope_type": "linear", "factor": 2, "low_freq_factor": 1})",
        "rope_parameters: \"low_freq_factor\": expected no setting of this name, found 1"}},
      {"rope_parameters",
       {R"({"rope_type": "linear", "factor": -1})",
        "rope_parameters: factor: expected a number above 0, found -1"}},
      {"rope_parameters",
       {R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
           "original_max_position_embeddings": 512})",
        "rope_parameters: high_freq_factor: expected a number above 4, found 4"}},
      {"rope_parameters",
       {R"({"rope_theta": 1e4, "factor": 8})",
        "rope_parameters: \"factor\": expected no setting of this name, found 8"}},
      {"rope_parameters",
       {R"({"full_attention": {"rope_theta": 1e4}})",
        "rope_parameters: \"full_attention\": expected no setting of this name, found an object"}},
      {"rope_parameters",
       {R"({"partial_rotary_factor": 0.25})",
        "rope_parameters: partial_rotary_factor: expected 1, found 0.25"}},
      {"rope_parameters", {"[]", "rope_parameters: expected an object, found a list"}},
      {"sliding_window",
       {"4096", "\"sliding_window\": expected no setting of this name, found 4096"}},
      {"quantization_config",
       {R"({"bits": 4})",
        "\"quantization_config\": expected no setting of this name, found an object"}},
      {"final_logit_softcapping",
       {"30.0", "\"final_logit_softcapping\": expected no setting of this name, found 30.0"}},
      {"num_local_experts",
       {"8", "\"num_local_experts\": expected no setting of this name, found 8"}},
      {"embedding_multiplier", {"12.0", "embedding_multiplier: expected 1, found 12.0"}},
      {"use_qk_norm", {"true", "use_qk_norm: expected false, found true"}},
      {"norm", {"\"layer_norm\"", "norm: expected \"rms_norm\", found \"layer_norm\""}},
      {"activation_precision",
       {"\"fast\"", "activation_precision: expected \"accurate\", found \"fast\""}},
      {"feed_forward_bias", {"true", "feed_forward_bias: expected false, found true"}},
      {"max_window_layers",
       {"28", "\"max_window_layers\": expected no setting of this name, found 28"}},
      {"layer_types",
       {R"(["full_attention", "sliding_attention"])",
        R"(layer_types: expected "full_attention", found "sliding_attention")"}},
      {"layer_types",
       {"\"full_attention\"",
        "layer_types: expected a list, found "
        "\"full_attention\""}},
      {"layer_types", {"[]", "layer_types: expected 2 words, one for each layer, found 0"}},
      {"model_type",
       {"\"bert\"",
        "model_type: expected llama, mistral, ministral, qwen2, qwen3, smollm3, gpt2 or refrain, "
        "found \"bert\""}},
  };
  for (const auto& [key, rest] : cases)
    EXPECT_EQ(error_with(key, rest.first), "config.json: " + rest.second);
}

// What real files carry that changes nothing.
TEST(LlamaConfig, LeavesUnknownSettingsAsideWithOneNote) {
  std::vector<std::string> heard;
  const Notes notes = [&](const std::string& line) { heard.push_back(line); };
  const auto parse_with = [&](const std::string& settings, const char* text = kVersion5) {
    heard.clear();
    Json json = io::parse_json(text, "config.json");
    json.update(io::parse_json(settings, "settings"));
    return parse_model_config(json, "config.json", notes);
  };
  const ModelDescription plain = parse(kVersion5);
  expect_same(plain, parse_with(R"({"unk_token_id": 0, "_model_name_or_path": "a\nb",
      "auto_map": {"AutoConfig": "x.Y"}, "do_sample": true, "rope_parameters": {
      "rope_theta": 5e5, "rope_type": "default", "max_trained_positions": 7}, "of_null": null})"));
  EXPECT_EQ(heard,
            std::vector<std::string>{"config.json: unknown settings left aside: \"unk_token_id\", "
                                     "\"_model_name_or_path\", \"auto_map\", \"do_sample\", "
                                     "\"rope_parameters.max_trained_positions\""});
  std::string many = "{\"k\\n\":1";
  for (int i = 0; i < 100; ++i) many += fmt::format(",\"k{}\":{{}}", i);
  expect_same(plain, parse_with(many + "}"));
  ASSERT_EQ(heard.size(), 1u);
  EXPECT_TRUE(heard[0].starts_with("config.json: unknown settings left aside: \"k\\n\", \"k0\","));
  EXPECT_TRUE(heard[0].ends_with("\"k8\" and 91 more")) << heard[0];
  // What is known is no news, nor is what says nothing.
  expect_same(plain, parse_with(R"({"use_cache": false, "num_experts": 0, "no_rope_layers": [],
      "quantization_config": {}, "output_router_logits": false, "final_logit_softcapping": null,
      "sliding_window": 32768, "max_window_layers": 28, "use_sliding_window": false,
      "embedding_multiplier": 1.0, "layer_types": ["full_attention", "full_attention"]})"));
  EXPECT_TRUE(heard.empty());
  expect_same(plain, parse_with(R"({"architectures": ["LlamaModel"]})"));
  // Ours are all known: a setting that is not is a mistake.
  EXPECT_NE(error_of([&] { parse_with(R"({"unk_token_id": 0})", kRefrain); }), "(no error)");
  EXPECT_TRUE(heard.empty());
}

TEST(LlamaConfig, RefusesWrongTypesAndSizes) {
  for (const char* key : {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
                          "num_attention_heads", "model_type"})
    EXPECT_EQ(error_without(key), fmt::format("config.json: {}: missing", key));
  for (const char* key :
       {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "head_dim", "max_position_embeddings"})
    for (const char* value :
         {"0", "-1", "2.0", "\"2\"", "[2]", "{}", "true", "1e300", "9223372036854775807",
          "18446744073709551615", "99999999999999999999999999"}) {
      const std::string error = error_with(key, value);
      EXPECT_EQ(error.find(fmt::format("config.json: {}: expected", key)), 0u) << error;
      EXPECT_NE(error.find("found"), error.npos) << error;
    }
  // Within the range of an integer, out of the model's: still by the name in the file.
  EXPECT_EQ(error_with("hidden_size", "2000000000"),
            "config.json: hidden_size: expected 1 to 65536, found 2000000000");
  EXPECT_EQ(error_with("num_hidden_layers", "1000000").find("config.json: num_hidden_layers: "),
            0u);
  EXPECT_EQ(error_with("num_key_value_heads", "3"),
            "config.json: num_key_value_heads: expected a divisor of heads = 4, found 3");
  for (const char* value : {"\"1e-5\"", "-1", "1", "1e300", "false"})
    EXPECT_EQ(error_with("rms_norm_eps", value).find("config.json: rms_norm_eps: expected"), 0u);
  EXPECT_EQ(error_with("tie_word_embeddings", "1"),
            "config.json: tie_word_embeddings: expected true or false, found 1");
  EXPECT_EQ(error_with("rope_theta", "\"10000\""),
            "config.json: rope_theta: expected a number, found \"10000\"");
  EXPECT_EQ(error_of([] { parse("[]"); }),
            "config.json: model_type: expected an object with this key, found a list");
}

TEST(LlamaConfig, ReadsIdsOneOrMany) {
  EXPECT_EQ(parse_changed("eos_token_id", "[3, 5, 4]").special, (SpecialTokens{1, 3, -1, {5, 4}}));
  EXPECT_EQ(parse_changed("eos_token_id", "[]").special, (SpecialTokens{1, -1, -1}));
  EXPECT_EQ(parse_changed("pad_token_id", "-1").special, (SpecialTokens{1, 2, -1}));
  EXPECT_EQ(parse_changed("pad_token_id", "[0]").special, (SpecialTokens{1, 2, 0}));
  EXPECT_EQ(parse_changed("bos_token_id", "66").special, (SpecialTokens{66, 2, -1}));
  EXPECT_EQ(error_with("bos_token_id", "67"),
            "config.json: bos_token_id: expected an id below vocab_size = 67, found 67");
  EXPECT_EQ(error_with("bos_token_id", "[1, 2]"),
            "config.json: bos_token_id: expected one id, found 2");
  EXPECT_EQ(error_with("eos_token_id", "[2, -2]"),
            "config.json: eos_token_id: expected an integer from -1 to 2147483647, found -2");
  for (const char* value : {"1.0", "\"1\"", "[[1]]", "{}", "99999999999", "true"})
    EXPECT_EQ(error_with("eos_token_id", value).find("config.json: eos_token_id: expected"), 0u);
}

TEST(LlamaConfig, IsWhatAttentionWithTheUsualSettingsIs) {
  ModelDescription d = parse(kVersion5);
  EXPECT_EQ(type_of(d), "llama");
  // In the last block alone too.
  for (const size_t block : {size_t{0}, d.config.mixers.size() - 1}) {
    ModelDescription adjacent = d, other_base = d;
    attention_of(adjacent, block).rope_pairing = "adjacent";
    EXPECT_EQ(type_of(adjacent), "refrain");
    attention_of(other_base, block).rope_theta = 7;
    EXPECT_EQ(type_of(other_base), "refrain");
  }
  for (const auto& [name, value] : {std::pair{"block", "bare"},
                                    {"feed_forward", "gelu"},
                                    {"norm", "layer_norm"},
                                    {"activation_precision", "fast"}}) {
    ModelDescription other = d;
    SettingMap settings;
    settings.set(name, value);
    other.config = settings.get<ModelConfig>("", other.config);
    EXPECT_EQ(type_of(other), "refrain");
  }
  // transformers refuses these sizes, head_dim or not.
  d.config.d_model = 30;
  EXPECT_EQ(type_of(d), "refrain");
}

// Blocks of one kind with settings of their own: only our own files tell them apart.
TEST(RefrainConfig, BlocksHaveSettingsOfTheirOwn) {
  ModelDescription d = parse(kVersion5);
  d.config.layers = 4;
  d.config.pattern = "attention:window=4 attention:window=4,stride=2 attention gla";
  d.config = with_settings(
      d.config, SettingMap(std::map<std::string, std::string>{{"attention.rope_theta", "77"}}));
  const Json json = to_json(d);
  EXPECT_EQ(json["pattern"], "attention attention:stride=2 attention:window=0 gla");
  EXPECT_EQ(json["attention"]["window"], 4);
  const ModelDescription again = parse_model_config(json, "config.json");
  expect_same(again, d);
  const std::vector<int64_t> windows = {4, 4, 0}, strides = {0, 2, 0};
  for (size_t block = 0; block < 3; ++block) {
    EXPECT_EQ(again.config.mixers[block].as<AttentionConfig>().window, windows[block]);
    EXPECT_EQ(again.config.mixers[block].as<AttentionConfig>().stride, strides[block]);
    EXPECT_EQ(again.config.mixers[block].as<AttentionConfig>().rope_theta, 77);
  }
  const auto error = [&](const std::string& pattern) {
    ModelConfig config = d.config;
    config.pattern = pattern;
    return error_of([&] { with_settings(config, {}); });
  };
  EXPECT_EQ(error("attention:window"),
            "pattern: attention:window: expected settings of attention (name=value,...), found "
            "'window'");
  EXPECT_EQ(error("attention:conv=3"),
            "pattern: attention:conv=3: expected settings of attention (name=value,...), found "
            "'conv=3'");
  for (const std::string word :
       {"attention:", "attention:window=3,", "attention:window=3,,stride=2"})
    EXPECT_EQ(error(word),
              "pattern: " + word + ": expected settings of attention (name=value,...), found ''");
  EXPECT_EQ(error("attention:window=3,window=4"),
            "pattern: attention:window=3,window=4: expected every setting once, found "
            "attention.window twice");
  // Of a word that no block is left for, too.
  EXPECT_NE(error("gla gla gla gla nothing").find("no mixer is called 'nothing'"),
            std::string::npos);
  EXPECT_EQ(error("attention:window=x"), "attention.window: expected a whole number, found 'x'");
  EXPECT_NE(error("nothing:window=3").find("no mixer is called 'nothing'"), std::string::npos);
}

// A pattern that says something else than the mixers beside it does not get into the file.
TEST(RefrainConfig, MixersAreGivenWithoutAPattern) {
  ModelDescription d = parse(kVersion5);
  d.config.mixers.assign(static_cast<size_t>(d.config.layers), parse_mixer("gla"));
  for (const std::string pattern : {"attention", "", "gla attention"}) {
    d.config.pattern = pattern;
    const std::vector<std::string> kinds =
        parse_model_config(to_json(d), "config.json").config.mixer_kinds();
    EXPECT_EQ(kinds, std::vector<std::string>(kinds.size(), "gla"));
  }
}

TEST(RefrainConfig, LayerTypesAreAPattern) {
  Json json = io::parse_json(kRefrain, "config.json");
  json.erase("pattern");
  json["layer_types"] = Json::array();
  for (int64_t i = 0; i < json["layers"]; ++i)
    json["layer_types"].push_back(i % 2 == 0 ? "attention:window=8" : "gla");
  const ModelDescription d = parse_model_config(json, "config.json");
  EXPECT_EQ(d.config.mixers[0].as<AttentionConfig>().window, 8);
  EXPECT_EQ(d.config.mixer_kinds()[1], "gla");
  const auto error = [](const Json& wrong) {
    return error_of([&] { parse_model_config(wrong, "config.json"); });
  };
  for (const char* word : {"", "gla gla", "gla\n"}) {
    Json wrong = json;
    wrong["layer_types"][0] = word;
    EXPECT_EQ(error(wrong).find("config.json: layer_types: expected a list of"), 0u) << word;
  }
  Json both = json;
  both["pattern"] = "attention:window=4 gla";
  EXPECT_EQ(error(both), "config.json: layer_types: expected none beside a pattern, found both");
  json["layer_types"].push_back("gla");
  EXPECT_EQ(error(json).find("config.json: layer_types: expected a list of"), 0u);
}

// Files of former versions have settings that only measured.
TEST(RefrainConfig, SettingsThatOnlyMeasuredAreLeftAside) {
  Json json = io::parse_json(kRefrain, "config.json");
  json["attention"]["fused"] = false;
  expect_same(parse_model_config(json, "config.json"), parse(kRefrain));
}

TEST(LlamaConfig, WritesWhatBothVersionsRead) {
  ModelDescription d = parse(kVersion5);
  d.special = {1, 2, -1, {3}};
  const Json json = to_json(d);
  EXPECT_EQ(json["model_type"], "llama");
  EXPECT_EQ(json["architectures"], Json::array({"LlamaForCausalLM"}));
  EXPECT_EQ(json["hidden_size"], 32);
  EXPECT_EQ(json["rope_theta"], 5e5);
  EXPECT_EQ(json["rope_parameters"], (Json{{"rope_type", "default"}, {"rope_theta", 5e5}}));
  EXPECT_EQ(json["eos_token_id"], Json::array({2, 3}));
  // Left out, the bos of a Llama would be 1.
  EXPECT_TRUE(json.contains("pad_token_id") && json["pad_token_id"].is_null());
}

TEST(MistralConfig, IsALlamaWithAWindow) {
  const auto window = [](const ModelDescription& d) {
    return d.config.mixer_settings().values().at("attention.window");
  };
  Json json = io::parse_json(kVersion5, "config.json");
  json["model_type"] = "mistral";
  json["architectures"] = Json::array({"MistralForCausalLM"});
  json["sliding_window"] = 16;
  ModelDescription d = parse_model_config(json, "config.json");
  EXPECT_EQ(window(d), "16");
  EXPECT_EQ(d.config.kv_heads, 2);
  EXPECT_EQ(to_json(d)["model_type"], "mistral");
  EXPECT_EQ(to_json(d)["architectures"], Json::array({"MistralForCausalLM"}));
  EXPECT_EQ(to_json(d)["sliding_window"], 16);
  expect_same(parse_model_config(to_json(d), "config.json"), d);
  // A stride is nobody else's.
  for (MixerConfig& mixer : d.config.mixers) mixer.as<AttentionConfig>().stride = 8;
  EXPECT_EQ(to_json(d)["model_type"], "refrain");
  expect_same(parse_model_config(to_json(d), "config.json"), d);

  json["layer_types"] = Json::array({"sliding_attention", "sliding_attention"});
  EXPECT_EQ(window(parse_model_config(json, "config.json")), "16");
  // A Mistral's window counts, whatever this says.
  json["use_sliding_window"] = false;
  EXPECT_EQ(window(parse_model_config(json, "config.json")), "16");
  json["layer_types"][1] = "full_attention";
  EXPECT_NE(error_of([&] { parse_model_config(json, "config.json"); }), "(no error)");
  json.erase("layer_types");
  json["sliding_window"] = nullptr;
  EXPECT_EQ(window(parse_model_config(json, "config.json")), "0");
  json["num_attention_heads"] = 8;
  for (const char* key :
       {"sliding_window", "num_key_value_heads", "max_position_embeddings", "head_dim"})
    json.erase(key);
  d = parse_model_config(json, "config.json");
  EXPECT_EQ(window(d), "4096");
  EXPECT_EQ(d.config.kv_heads, 8);
  EXPECT_EQ(d.config.context, 131072);
  json["sliding_window"] = 0;
  EXPECT_NE(error_of([&] { parse_model_config(json, "config.json"); }), "(no error)");
  json["sliding_window"] = 16;
  json["architectures"] = Json::array({"LlamaForCausalLM"});
  EXPECT_NE(error_of([&] { parse_model_config(json, "config.json"); }), "(no error)");
}

TEST(ModelConfigJson, RoundTrips) {
  const std::vector<std::pair<const char*, std::pair<std::string, std::string>>> cases = {
      {kVersion5, {"tie_word_embeddings", "true"}},
      {kVersion5, {"rms_norm_eps", "1.2345678901234567e-05"}},
      {kVersion5, {"rope_parameters", R"({"rope_theta": 123456.78901234567})"}},
      {kVersion5, {"eos_token_id", "[5, 6, 7]"}},
      {kVersion5, {"hidden_size", "30"}},  // becomes one of ours
      {kRefrain, {"eos_token_id", "[5, 6, 7]"}},
      {kRefrain, {"rms_norm_eps", "0"}},
      {kRefrain, {"layers", "7"}},
      {kRefrain, {"attention", R"({"rope_theta": 123456.78901234567})"}},  // a Llama
  };
  for (const auto& [text, change] : cases) {
    SCOPED_TRACE(change.first + " " + change.second);
    const ModelDescription d = parse_changed(change.first, change.second, text);
    const std::string written = io::to_text(to_json(d));
    expect_same(d, parse(written));
    EXPECT_EQ(io::to_text(to_json(parse(written))), written);
  }
  EXPECT_EQ(to_json(parse(kRefrain)), io::parse_json(kRefrain, "ours"));
}

TEST(RefrainConfig, ReadsItsOwnNames) {
  const ModelDescription d = parse(kRefrain);
  EXPECT_EQ(d.config.d_model, 32);
  EXPECT_EQ(d.config.d_ff, 48);
  EXPECT_TRUE(d.config.tie_embeddings);
  EXPECT_EQ(rope_theta(d), "5e+05");
  EXPECT_EQ(d.config.mixers[0].as<AttentionConfig>().rope_pairing, "adjacent");
  EXPECT_EQ(d.special, (SpecialTokens{1, 2, -1}));
  // Settings a mixer got after the file was written have their defaults.
  EXPECT_EQ(rope_theta(parse_changed("attention", "{}", kRefrain)), "10000");
  EXPECT_EQ(rope_theta(parse_changed("attention", "null", kRefrain)), "10000");
  // So does what models got later.
  Json older = io::parse_json(kRefrain, "config.json");
  older.erase("block");
  for (const char* later : {"feed_forward", "feed_forward_bias", "norm", "activation_precision"})
    older.erase(later);
  EXPECT_EQ(parse(io::to_text(older)).config.activation_precision, "accurate");
  EXPECT_EQ(parse(io::to_text(older)).config.norm, "rms_norm");
  EXPECT_EQ(parse(io::to_text(older)).config.block, "pre_norm");
  EXPECT_EQ(parse(io::to_text(older)).config.feed_forward, "swiglu");
  EXPECT_EQ(parse_changed("block", "\"bare\"", kRefrain).config.block, "bare");
  EXPECT_EQ(parse_changed("feed_forward", "\"gelu\"", kRefrain).config.feed_forward, "gelu");
  EXPECT_EQ(parse_changed("activation_precision", "\"fast\"", kRefrain).config.precision(),
            kernels::ActivationPrecision::kFast);
}

TEST(RefrainConfig, RefusesWhatItDoesNotKnow) {
  const auto error = [](const char* key, const char* value) {
    return error_with(key, value, kRefrain);
  };
  EXPECT_EQ(error("hidden_size", "32"),
            "config.json: \"hidden_size\": expected no setting of this name, found 32");
  EXPECT_EQ(error("d_model", "32.0").find("config.json: d_model: expected an integer"), 0u);
  EXPECT_EQ(error("d_model", "0"), "config.json: d_model: expected 1 to 65536, found 0");
  EXPECT_EQ(error("d_ff", "-9223372036854775808").find("config.json: d_ff: expected"), 0u);
  EXPECT_EQ(error("pattern", "\"attention tension\"").find("config.json: pattern: no mixer"), 0u);
  EXPECT_EQ(error("pattern", "\"\"").find("config.json: pattern: expected"), 0u);
  EXPECT_EQ(error("pattern", "7").find("config.json: pattern: expected a string"), 0u);
  EXPECT_EQ(error("tie_embeddings", "\"true\"").find("config.json: tie_embeddings: expected"), 0u);
  EXPECT_EQ(error("attention", "[]"), "config.json: attention: expected an object, found a list");
  EXPECT_EQ(
      error("attention", R"({"rope_base": 1e4})"),
      "config.json: attention: \"rope_base\": expected no setting of this name, found 10000.0");
  EXPECT_EQ(error("attention", R"({"rope_theta": "1e4"})"),
            "config.json: attention.rope_theta: expected a number, found \"1e4\"");
  EXPECT_EQ(error("attention", R"({"rope_theta": {}})"),
            "config.json: attention.rope_theta: expected a number, found an object");
  EXPECT_EQ(error("attention", R"({"rope_pairing": 1})"),
            "config.json: attention.rope_pairing: expected a string, found 1");
  for (const char* key : {"vocab_size", "d_model", "layers", "heads", "kv_heads", "head_dim",
                          "d_ff", "context", "tie_embeddings", "rms_norm_eps", "pattern"})
    EXPECT_EQ(error_without(key, kRefrain), fmt::format("config.json: {}: missing", key));
}

TEST(ReadModelConfig, PrefersIdsOfGenerationConfig) {
  const TemporaryFolder folder;
  folder.put("config.json", kVersion5);
  EXPECT_EQ(read_model_config(folder.path()).special, (SpecialTokens{1, 2, -1}));
  folder.put(
      "generation_config.json",
      R"({"eos_token_id": [7, 8], "pad_token_id": 0, "temperature": 0.6, "do_sample": true})");
  EXPECT_EQ(read_model_config(folder.path()).special, (SpecialTokens{1, 7, 0, {8}}));
  const std::string path = folder.put("generation_config.json", R"({"eos_token_id": 67})");
  EXPECT_EQ(error_of([&] { read_model_config(folder.path()); }),
            path + ": eos_token_id: expected an id below vocab_size = 67, found 67");
  folder.put("generation_config.json", "[]");
  EXPECT_EQ(error_of([&] { read_model_config(folder.path()); }),
            path + ": expected an object, found a list");
}

TEST(ReadModelConfig, NamesTheFile) {
  const TemporaryFolder folder;
  const std::string path = folder / "config.json";
  const auto error = [&] { return error_of([&] { read_model_config(folder.path()); }); };
  EXPECT_NE(error().find(path), std::string::npos);  // absent
  folder.put("config.json", "");
  EXPECT_EQ(error().find(path), 0u);
  folder.put("config.json", std::string(100000, '[') + std::string(100000, ']'));
  EXPECT_EQ(error(), path + ": JSON nested deeper than 64 levels");
  folder.put("config.json", R"({"model_type": "llama", "model_type": "refrain"})");
  EXPECT_EQ(error().find(path + ": key \"model_type\" twice"), 0u);
}

// Whatever the bytes, there is a model's description or one line of Error; and a description can be
// written and read again.
TEST(ReadModelConfig, SurvivesMutation) {
  Random random(2024);
  const std::vector<std::string> pieces = {
      "null",      "-1",      "0",    "1e999", "1e308",      "9223372036854775808",
      "\"\"",      "[]",      "{}",   "true",  "\"",         ",",
      ":",         "{",       "}",    "[",     "]",          "0.5",
      "4096",      "\\u0000", "\xff", "\n",    "attention ", "67",
      "2147483648"};
  int read = 0, refused = 0;
  for (int i = 0; i < 6000; ++i) {
    std::string text = i % 2 ? kVersion5 : kRefrain;
    for (uint64_t changes = 1 + random.below(3); changes > 0; --changes) {
      const std::string& piece = pieces[random.below(pieces.size())];
      // A whole value, or some bytes anywhere.
      size_t at = random.below(text.size()), length = random.below(4);
      if (const size_t colon = text.find(": ", at); random.below(2) && colon != text.npos) {
        at = colon + 2;
        length = std::min(text.find_first_of(",}\n", at), text.size()) - at;
      }
      text.replace(at, length, piece);
    }
    try {
      const ModelDescription d = parse(text);
      expect_same(d, parse(io::to_text(to_json(d))));
      ++read;
    } catch (const Error& error) {
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(read, 150);
  EXPECT_GT(refused, 1500);
}

}  // namespace
}  // namespace refrain
