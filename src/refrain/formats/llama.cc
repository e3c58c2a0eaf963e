#include "refrain/formats/llama.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "refrain/base/error.h"
#include "refrain/formats/llama_keys.h"
#include "refrain/formats/special_tokens.h"
#include "refrain/mixers/attention/attention.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kMixer = "attention";

// Sizes by both their names. `absent`: what a Llama's config.json means by leaving one out, where
// it may; 0 stands for what ModelConfig makes of it.
struct LlamaSize {
  std::string_view key, ours;
  int64_t ModelConfig::*field;
  std::optional<int64_t> absent{};
};
constexpr std::array kLlamaSizes = {
    LlamaSize{"vocab_size", "vocab_size", &ModelConfig::vocab_size},
    LlamaSize{"hidden_size", "d_model", &ModelConfig::d_model},
    LlamaSize{"intermediate_size", "d_ff", &ModelConfig::d_ff},
    LlamaSize{"num_hidden_layers", "layers", &ModelConfig::layers},
    LlamaSize{"num_attention_heads", "heads", &ModelConfig::heads},
    LlamaSize{"num_key_value_heads", "kv_heads", &ModelConfig::kv_heads, 0},
    LlamaSize{"head_dim", "head_dim", &ModelConfig::head_dim, 0},
    LlamaSize{"max_position_embeddings", "context", &ModelConfig::context, 2048},
};

// A Mistral is a Llama with a window, and other meanings of three absent settings.
constexpr const char* kMistral = "mistral";
constexpr int64_t kMistralKvHeads = 8, kMistralContext = 131072, kMistralWindow = 4096;

std::string family(bool mistral) { return mistral ? "Mistral" : "Llama"; }

void expect_value(const Json& found, const Json& expected, const std::string& where) {
  if (found != expected)
    throw_error("{}: expected {}, found {}", where, io::describe(expected), io::describe(found));
}

[[noreturn]] void refuse_unknown(const std::string& where, const std::string& key,
                                 const Json& value) {
  throw_error("{}: {}: expected no setting of this name, found {}", where, io::quote(key),
              io::describe(value));
}

// The rotary base: a setting of its own (version 4) or in rope_parameters (version 5). Angles that
// are scaled in any way are refused.
double read_rope_theta(const Json& json, const std::string& name,
                       std::vector<std::string>& unknown) {
  std::optional<double> rope_theta;
  const auto take = [&](const Json& object, const std::string& where) {
    if (!io::find(object, "rope_theta")) return;
    const double found = io::get_number(object, "rope_theta", where);
    if (rope_theta && *rope_theta != found)
      throw_error("{}: rope_theta: expected {} as elsewhere in this file, found {}", where,
                  *rope_theta, found);
    rope_theta = found;
  };
  take(json, name);
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* rope = io::find(json, key);
    if (!rope) continue;
    const std::string where = fmt::format("{}: {}", name, key);
    if (!rope->is_object())
      throw_error("{}: expected an object, found {}", where, io::describe(*rope));
    for (const char* type : {"rope_type", "type"})
      if (const Json* value = io::find(*rope, type))
        expect_value(*value, "default", fmt::format("{}: {}", where, type));
    if (const Json* value = io::find(*rope, "partial_rotary_factor"))
      expect_value(*value, 1, where + ": partial_rotary_factor");
    take(*rope, where);
    for (const auto& [setting, value] : rope->items()) {
      if (value.is_null() || setting == "rope_type" || setting == "type" ||
          setting == "partial_rotary_factor" || setting == "rope_theta")
        continue;
      if (contains(kRopeRefused, setting)) refuse_unknown(where, setting, value);
      unknown.push_back(fmt::format("{}.{}", key, setting));
    }
  }
  return rope_theta.value_or(10000);
}

// resolve(), whose errors start with our name of a setting, in this file's names.
void resolve_llama(ModelConfig& config, const std::string& name) {
  try {
    config.resolve();
  } catch (const Error& error) {
    std::string message = error.what();
    for (const LlamaSize& size : kLlamaSizes)
      if (message.starts_with(std::string(size.ours) + ":"))
        message.replace(0, size.ours.size(), size.key);
    throw_error("{}: {}", name, message);
  }
}

// Null, false, zero or empty.
bool says_nothing(const Json& value) {
  return value.is_null() || value == false || value == 0 || value == "" ||
         (value.is_structured() && value.empty());
}

// The whole model, or the stack alone, whose file lacks the output if it is not tied.
void check_architectures(const Json& value, const std::string& where, bool mistral) {
  const std::string expected = family(mistral) + "ForCausalLM";
  const Json& found = value.is_array() && value.size() == 1 ? value[0] : value;
  if (found != family(mistral) + "Model") expect_value(found, expected, where);
}

// In every layer the attention that there is.
void check_layer_types(const Json& value, const std::string& where, int64_t layers,
                       bool has_window) {
  const Json expected = has_window ? "sliding_attention" : "full_attention";
  if (!value.is_array()) throw_error("{}: expected a list, found {}", where, io::describe(value));
  if (std::ssize(value) != layers)
    throw_error("{}: expected {} words, one for each layer, found {}", where, layers, value.size());
  for (const Json& type : value) expect_value(type, expected, where);
}

// Refuses what is known and cannot be honoured; what is unknown goes into the list.
void check_llama_settings(const Json& json, const std::string& name, bool mistral,
                          std::vector<std::string>& unknown) {
  const Json fixed = llama_fixed();
  const Json* slides = io::find(json, "use_sliding_window");
  const bool no_window = !mistral && slides && *slides == false;
  for (const auto& [key, value] : json.items()) {
    const std::string_view known = key;
    const std::string where = fmt::format("{}: {}", name, key);
    const bool is_window = known == "sliding_window" || known == "max_window_layers";
    if (value.is_null()) continue;  // says nothing
    if (const Json* expected = io::find(fixed, known)) {
      expect_value(value, *expected, where);
    } else if (known == "architectures") {
      check_architectures(value, where, mistral);
    } else if (contains(kLlamaRead, known) || contains(kSpecialTokenKeys, known) ||
               contains(kLlamaIndifferent, known) || (mistral && known == "sliding_window") ||
               (no_window && is_window) ||
               std::any_of(kLlamaSizes.begin(), kLlamaSizes.end(),
                           [&](const LlamaSize& size) { return size.key == known; })) {
      continue;
    } else if (!contains(kLlamaRefused, known)) {
      unknown.push_back(key);
    } else if (!says_nothing(value)) {
      refuse_unknown(name, key, value);
    }
  }
}

void note_unknown(const std::vector<std::string>& unknown, const std::string& name,
                  const Notes& notes) {
  if (unknown.empty()) return;
  constexpr size_t kNamed = 10;
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, unknown.size()); ++i)
    names += (i == 0 ? "" : ", ") + io::quote(unknown[i]);
  if (unknown.size() > kNamed) names += fmt::format(" and {} more", unknown.size() - kNamed);
  add_note(notes, "{}: unknown settings left aside: {}", name, names);
}

ModelConfig parse(const Json& json, const std::string& name, bool mistral, const Notes& notes) {
  std::vector<std::string> unknown;
  check_llama_settings(json, name, mistral, unknown);

  ModelConfig config;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  for (const LlamaSize& size : kLlamaSizes)
    config.*size.field = io::find(json, size.key) || !size.absent
                             ? io::get_int(json, size.key, name, 1, kMost)
                             : *size.absent;
  int64_t window = 0;
  if (mistral) {
    if (!io::find(json, "num_key_value_heads")) config.kv_heads = kMistralKvHeads;
    if (!io::find(json, "max_position_embeddings")) config.context = kMistralContext;
    if (!json.contains("sliding_window"))
      window = kMistralWindow;
    else if (io::find(json, "sliding_window"))
      window = io::get_int(json, "sliding_window", name, 1, kMost);
  }
  if (const Json* types = io::find(json, "layer_types"))
    check_layer_types(*types, name + ": layer_types", config.layers, window > 0);
  config.rms_norm_eps = io::get_number(json, "rms_norm_eps", name, 1e-6);
  config.tie_embeddings = io::get_bool(json, "tie_word_embeddings", name, false);
  config.pattern = kMixer;
  const AttentionConfig attention{.rope_theta = read_rope_theta(json, name, unknown),
                                  .window = window};
  resolve_llama(config, name);
  config.mixers.assign(static_cast<size_t>(config.layers), {kMixer, attention});
  note_unknown(unknown, name, notes);
  return config;
}

// The settings that all blocks share, if `transformers` computes the same: attention alone, every
// setting of it but rope_theta and the window at its default.
std::optional<AttentionConfig> attention_of(const ModelConfig& config) {
  if (config.bare() || !config.gated() || config.centred()) return {};
  if (config.activation_precision != "accurate") return {};
  // transformers wants this even where head_dim says how wide a head is.
  if (config.d_model % config.heads != 0) return {};
  std::optional<AttentionConfig> all;
  for (const MixerConfig& mixer : config.mixers) {
    if (mixer.kind() != kMixer) return {};
    const auto& one = mixer.as<AttentionConfig>();
    const AttentionConfig plain{.rope_theta = one.rope_theta, .window = one.window};
    if (one != plain || (all && one != *all)) return {};
    all = one;
  }
  return all;
}

std::optional<Json> write(const ModelConfig& config, bool mistral) {
  const std::optional<AttentionConfig> attention = attention_of(config);
  if (!attention || (attention->window > 0) != mistral) return {};
  Json json = {{"architectures", Json::array({family(mistral) + "ForCausalLM"})},
               {"model_type", mistral ? kMistral : "llama"}};
  if (mistral) json["sliding_window"] = attention->window;
  for (const LlamaSize& size : kLlamaSizes) json[std::string(size.key)] = config.*size.field;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["rms_norm_eps"] = config.rms_norm_eps;
  // Version 4 of transformers reads the first, version 5 both.
  json["rope_theta"] = attention->rope_theta;
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", attention->rope_theta}};
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["dtype"] = "float32";
  return json;
}

}  // namespace

const Family kLlamaFamily = {"llama",
                             [](const Json& json, const std::string& name, const Notes& notes) {
                               return parse(json, name, false, notes);
                             },
                             [](const ModelConfig& config) { return write(config, false); },
                             llama_name};
const Family kMistralFamily = {kMistral,
                               [](const Json& json, const std::string& name, const Notes& notes) {
                                 return parse(json, name, true, notes);
                               },
                               [](const ModelConfig& config) { return write(config, true); },
                               llama_name};

}  // namespace refrain
