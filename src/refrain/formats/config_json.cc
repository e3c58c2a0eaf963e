#include "refrain/formats/config_json.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <set>
#include <string_view>
#include <type_traits>

#include "refrain/base/error.h"
#include "refrain/formats/llama_keys.h"
#include "refrain/io/file.h"
#include "refrain/mixers/registry.h"

namespace refrain {
namespace {

using io::Json;

constexpr std::string_view kIdKeys[] = {"bos_token_id", "eos_token_id", "pad_token_id"};
constexpr const char* kRopeTheta = "attention.rope_theta";
constexpr const char* kWindow = "attention.window";

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

// Our own settings that came after the first files: there, absent is the default.
constexpr std::string_view kLater[] = {"block", "feed_forward"};

void expect_value(const Json& found, const Json& expected, const std::string& where) {
  if (found != expected)
    throw_error("{}: expected {}, found {}", where, io::describe(expected), io::describe(found));
}

[[noreturn]] void refuse_unknown(const std::string& where, const std::string& key,
                                 const Json& value) {
  throw_error("{}: {}: expected no setting of this name, found {}", where, io::quote(key),
              io::describe(value));
}

// f(), its errors with `name` in front.
template <class F>
void within(const std::string& name, F&& f) {
  try {
    f();
  } catch (const Error& error) {
    throw_error("{}: {}", name, error.what());
  }
}

// An id or a list of them; -1 and null are none.
std::vector<int32_t> get_ids(const Json& json, std::string_view key, const std::string& where) {
  const Json* value = io::find(json, key);
  std::vector<int32_t> ids;
  if (!value) return ids;
  const Json list = value->is_array() ? *value : Json::array({*value});
  for (const Json& id : list) {
    const Json member = {{key, id}};
    ids.push_back(static_cast<int32_t>(
        io::get_int(member, key, where, -1, std::numeric_limits<int32_t>::max())));
  }
  std::erase(ids, -1);
  return ids;
}

// What `json` says of ids goes into `special`; what it leaves out stays.
void read_ids(const Json& json, const std::string& where, int64_t vocab_size,
              SpecialTokens& special) {
  for (std::string_view key : kIdKeys) {
    const std::vector<int32_t> ids = get_ids(json, key, where);
    for (int32_t id : ids)
      if (id >= vocab_size)
        throw_error("{}: {}: expected an id below vocab_size = {}, found {}", where, key,
                    vocab_size, id);
    if (ids.empty()) continue;
    if (key == "eos_token_id") {
      special.eos = ids[0];
      special.more_eos.assign(ids.begin() + 1, ids.end());
      continue;
    }
    if (ids.size() > 1) throw_error("{}: {}: expected one id, found {}", where, key, ids.size());
    (key == "bos_token_id" ? special.bos : special.pad) = ids[0];
  }
}

void put_ids(const SpecialTokens& special, Json& to) {
  const auto one = [](int32_t id) { return id < 0 ? Json() : Json(id); };
  to["bos_token_id"] = one(special.bos);
  to["eos_token_id"] = one(special.eos);
  if (!special.more_eos.empty()) {
    Json& eos = to["eos_token_id"] = Json::array({special.eos});
    for (int32_t id : special.more_eos) eos.push_back(id);
  }
  to["pad_token_id"] = one(special.pad);
}

// The rotary base: a setting of its own (version 4) or in rope_parameters (version 5). Angles that
// are scaled in any way are refused.
double read_rope_theta(const Json& json, const std::string& name,
                       std::vector<std::string>& unknown) {
  std::optional<double> theta;
  const auto take = [&](const Json& object, const std::string& where) {
    if (!io::find(object, "rope_theta")) return;
    const double found = io::get_number(object, "rope_theta", where);
    if (theta && *theta != found)
      throw_error("{}: rope_theta: expected {} as elsewhere in this file, found {}", where, *theta,
                  found);
    theta = found;
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
  return theta.value_or(10000);
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
void check_layer_types(const Json& value, const std::string& where, bool has_window) {
  const Json expected = has_window ? "sliding_attention" : "full_attention";
  if (!value.is_array()) throw_error("{}: expected a list, found {}", where, io::describe(value));
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
    } else if (contains(kLlamaRead, known) || contains(kIdKeys, known) ||
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

ModelDescription parse_llama(const Json& json, const std::string& name, bool mistral,
                             const Notes& notes) {
  std::vector<std::string> unknown;
  check_llama_settings(json, name, mistral, unknown);

  ModelDescription d;
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  for (const LlamaSize& size : kLlamaSizes)
    d.config.*size.field = io::find(json, size.key) || !size.absent
                               ? io::get_int(json, size.key, name, 1, kMost)
                               : *size.absent;
  int64_t window = 0;
  if (mistral) {
    if (!io::find(json, "num_key_value_heads")) d.config.kv_heads = kMistralKvHeads;
    if (!io::find(json, "max_position_embeddings")) d.config.context = kMistralContext;
    if (!json.contains("sliding_window"))
      window = kMistralWindow;
    else if (io::find(json, "sliding_window"))
      window = io::get_int(json, "sliding_window", name, 1, kMost);
  }
  if (const Json* types = io::find(json, "layer_types"))
    check_layer_types(*types, name + ": layer_types", window > 0);
  d.config.rms_norm_eps = io::get_number(json, "rms_norm_eps", name, 1e-6);
  d.config.tie_embeddings = io::get_bool(json, "tie_word_embeddings", name, false);
  d.config.pattern = "attention";
  resolve_llama(d.config, name);

  SettingMap given;
  given.set(kRopeTheta, SettingMap::text(read_rope_theta(json, name, unknown)));
  given.set(kWindow, SettingMap::text(window));
  put_mixer_settings("attention", given, d.mixer_settings);
  note_unknown(unknown, name, notes);
  return d;
}

Json llama_to_json(const ModelConfig& config, const SettingMap& mixer_settings) {
  double theta;
  int64_t window;
  SettingMap::parse(kRopeTheta, mixer_settings.values().at(kRopeTheta), theta);
  SettingMap::parse(kWindow, mixer_settings.values().at(kWindow), window);
  const bool mistral = window > 0;
  Json json = {{"architectures", Json::array({family(mistral) + "ForCausalLM"})},
               {"model_type", mistral ? kMistral : "llama"}};
  if (mistral) json["sliding_window"] = window;
  for (const LlamaSize& size : kLlamaSizes) json[std::string(size.key)] = config.*size.field;
  json["hidden_act"] = "silu";
  json["attention_bias"] = false;
  json["mlp_bias"] = false;
  json["rms_norm_eps"] = config.rms_norm_eps;
  // Version 4 of transformers reads the first, version 5 both.
  json["rope_theta"] = theta;
  json["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", theta}};
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["dtype"] = "float32";
  return json;
}

std::set<std::string> kinds_of(const ModelConfig& config) {
  const std::vector<std::string> mixers = config.mixers();
  return {mixers.begin(), mixers.end()};
}

// Every setting of the mixers of this model, with its value or its default.
SettingMap settings_of(const ModelConfig& config, const SettingMap& given) {
  SettingMap all;
  for (const std::string& kind : kinds_of(config)) put_mixer_settings(kind, given, all);
  return all;
}

// A setting is a number or a truth value in JSON if its default is one, else a string.
Json setting_to_json(const std::string& text, const std::string& absent) {
  return Json::accept(absent) ? Json::parse(text) : Json(text);
}

std::string setting_to_text(const Json& value, const std::string& absent,
                            const std::string& where) {
  const Json example = setting_to_json(absent, absent);
  const bool same_type = example.is_number() ? value.is_number() : value.type() == example.type();
  if (!same_type)
    throw_error("{}: expected {}, found {}", where,
                example.is_number()    ? "a number"
                : example.is_boolean() ? "true or false"
                                       : "a string",
                io::describe(value));
  return value.is_string() ? value.get<std::string>() : value.dump();
}

ModelDescription parse_refrain(const Json& json, const std::string& name) {
  ModelDescription d;
  std::set<std::string> known = {"model_type"};
  known.insert(std::begin(kIdKeys), std::end(kIdKeys));
  d.config.visit([&]<class T>(const char* key, T& field, const char*) {
    known.insert(key);
    if (contains(kLater, key) && !io::find(json, key)) return;
    if constexpr (std::is_same_v<T, bool>)
      field = io::get_bool(json, key, name);
    else if constexpr (std::is_same_v<T, int64_t>)
      field = io::get_int(json, key, name, std::numeric_limits<T>::min(),
                          std::numeric_limits<T>::max());
    else if constexpr (std::is_same_v<T, double>)
      field = io::get_number(json, key, name);
    else
      field = io::get_string(json, key, name);
  });
  within(name, [&] { d.config.resolve(); });

  SettingMap given;
  for (const std::string& kind : kinds_of(d.config)) {
    known.insert(kind);
    SettingMap defaults;
    within(name, [&] { put_mixer_settings(kind, {}, defaults); });
    const Json* group = io::find(json, kind);
    if (!group) continue;
    const std::string where = fmt::format("{}: {}", name, kind);
    if (!group->is_object())
      throw_error("{}: expected an object, found {}", where, io::describe(*group));
    for (const auto& [key, value] : group->items()) {
      if (value.is_null()) continue;
      const auto absent = defaults.values().find(kind + "." + key);
      if (absent == defaults.values().end()) refuse_unknown(where, key, value);
      given.set(absent->first, setting_to_text(value, absent->second, where + "." + key));
    }
  }
  within(name, [&] { d.mixer_settings = settings_of(d.config, given); });

  for (const auto& [key, value] : json.items())
    if (!known.contains(key) && !value.is_null()) refuse_unknown(name, key, value);
  return d;
}

Json refrain_to_json(ModelConfig config, const SettingMap& mixer_settings) {
  Json json = {{"model_type", "refrain"}};
  config.visit([&](const char* key, const auto& field, const char*) { json[key] = field; });
  for (const std::string& kind : kinds_of(config)) {
    SettingMap defaults;
    put_mixer_settings(kind, {}, defaults);
    Json& group = json[kind] = Json::object();
    for (const auto& [full, absent] : defaults.values())
      group[full.substr(kind.size() + 1)] =
          setting_to_json(mixer_settings.values().at(full), absent);
  }
  return json;
}

}  // namespace

bool is_llama(const ModelConfig& config, const SettingMap& mixer_settings, bool or_mistral) {
  ModelConfig resolved = config;
  resolved.resolve();
  if (kinds_of(resolved) != std::set<std::string>{"attention"} || resolved.bare() ||
      !resolved.gated())
    return false;
  // transformers wants this even where head_dim says how wide a head is.
  if (resolved.d_model % resolved.heads != 0) return false;
  SettingMap settings = settings_of(resolved, mixer_settings);
  const SettingMap defaults = settings_of(resolved, {});
  settings.set(kRopeTheta, defaults.values().at(kRopeTheta));
  if (or_mistral) settings.set(kWindow, defaults.values().at(kWindow));
  return settings.values() == defaults.values();
}

Json to_json(const ModelDescription& description) {
  ModelConfig config = description.config;
  config.resolve();
  const SettingMap settings = settings_of(config, description.mixer_settings);
  Json json = is_llama(config, settings, true) ? llama_to_json(config, settings)
                                               : refrain_to_json(config, settings);
  put_ids(description.special, json);
  return json;
}

Json to_json(const SpecialTokens& special) {
  Json json;
  put_ids(special, json);
  return json;
}

ModelDescription parse_model_config(const Json& json, const std::string& name, const Notes& notes) {
  const std::string type = io::get_string(json, "model_type", name);
  if (type != "llama" && type != kMistral && type != "refrain")
    throw_error("{}: model_type: expected llama, mistral or refrain, found {}", name,
                io::quote(type));
  ModelDescription d = type == "refrain" ? parse_refrain(json, name)
                                         : parse_llama(json, name, type == kMistral, notes);
  read_ids(json, name, d.config.vocab_size, d.special);
  return d;
}

ModelDescription read_model_config(const std::string& directory, const Notes& notes) {
  const std::string path = directory + "/config.json";
  ModelDescription d = parse_model_config(io::read_json(path), path, notes);
  const std::string generation = directory + "/generation_config.json";
  if (!io::exists(generation)) return d;
  const Json ids = io::read_json(generation);
  if (!ids.is_object())
    throw_error("{}: expected an object, found {}", generation, io::describe(ids));
  read_ids(ids, generation, d.config.vocab_size, d.special);
  return d;
}

}  // namespace refrain
