#include "refrain/formats/native.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string_view>
#include <type_traits>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/formats/special_tokens.h"
#include "refrain/mixers/registry.h"

namespace refrain {
namespace {

using io::Json;

// Our own settings that came after the first files: there, absent is the default.
constexpr std::string_view kLater[] = {"block", "feed_forward",         "feed_forward_bias",
                                       "norm",  "activation_precision", "learned_positions"};

// Those that some stacks do not have (has_setting).
constexpr std::string_view kOfSome[] = {"d_ff", "rms_norm_eps", "kv_heads"};

// Settings of mixers that files of former versions have: how to compute, which is not saved.
constexpr std::string_view kRetired[] = {"fused", "hoisted"};

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

bool is_word(const Json& value) {
  if (!value.is_string()) return false;
  const auto& text = value.get_ref<const std::string&>();
  return !text.empty() && text.find_first_of(" \t\n\v\f\r") == text.npos;
}

// A list with a word for each block, in the place of a pattern.
std::string pattern_of(const Json& types, int64_t layers, const std::string& name) {
  const bool is_list = types.is_array() && std::cmp_equal(types.size(), layers) &&
                       std::ranges::all_of(types, is_word);
  if (!is_list)
    throw_error("{}: layer_types: expected a list of {} words, found {}", name, layers,
                io::describe(types));
  std::string pattern;
  for (const Json& type : types) pattern += (pattern.empty() ? "" : " ") + type.get<std::string>();
  return pattern;
}

ModelConfig parse(const Json& json, const std::string& name, const Notes&) {
  ModelConfig config;
  std::set<std::string, std::less<>> known = {"model_type"};
  known.insert(kSpecialTokenKeys.begin(), kSpecialTokenKeys.end());
  const Json* types = io::find(json, "layer_types");
  known.insert("layer_types");
  config.visit([&]<class T>(const char* key, T& field, const char*) {
    known.insert(key);
    const bool may_be_absent =
        std::ranges::count(kLater, key) > 0 || std::ranges::count(kOfSome, key) > 0;
    if (may_be_absent && !io::find(json, key)) return;
    if constexpr (std::is_same_v<T, std::string>) {
      if (types && std::string_view(key) == "pattern") {
        if (io::find(json, key))
          throw_error("{}: layer_types: expected none beside a pattern, found both", name);
        field = pattern_of(*types, config.layers, name);
        return;
      }
    }
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
  within(name, [&] { config.resolve(); });  // with defaults, which say what settings there are
  for (const std::string_view key : kOfSome)
    if (has_setting(config, key)) io::member(json, key, name);

  SettingMap given;
  const std::vector<std::string> all = config.mixer_kinds();
  for (const std::string& kind : std::set(all.begin(), all.end())) {
    known.insert(kind);
    SettingMap defaults;
    put_mixer_settings(parse_mixer(kind), defaults);
    const Json* group = io::find(json, kind);
    if (!group) continue;
    const std::string where = fmt::format("{}: {}", name, kind);
    if (!group->is_object())
      throw_error("{}: expected an object, found {}", where, io::describe(*group));
    for (const auto& [key, value] : group->items()) {
      if (value.is_null() || std::ranges::count(kRetired, key) > 0) continue;
      const auto absent = defaults.values().find(kind + "." + key);
      if (absent == defaults.values().end()) refuse_unknown(where, key, value);
      given.set(absent->first, setting_to_text(value, absent->second, where + "." + key));
    }
  }
  for (const auto& [key, value] : json.items())
    if (!known.contains(key) && !value.is_null()) refuse_unknown(name, key, value);
  within(name, [&] { config = with_settings(std::move(config), given); });
  return config;
}

std::optional<Json> write(const ModelConfig& config) {
  Json json = {{"model_type", kNativeFamily.model_type}};
  ModelConfig as_text = config;
  as_text.pattern = config.full_pattern();
  as_text.visit([&](const char* key, const auto& field, const char*) {
    if (has_setting(config, key)) json[key] = field;
  });
  const SettingMap settings = config.mixer_settings();
  for (const auto& [full, value] : settings.values()) {
    const size_t dot = full.find('.');
    const std::string kind = full.substr(0, dot);
    SettingMap defaults;
    put_mixer_settings(parse_mixer(kind), defaults);
    json[kind][full.substr(dot + 1)] = setting_to_json(value, defaults.values().at(full));
  }
  return json;
}

}  // namespace

namespace {

// Whether some mixer norms queries and keys.
bool norms_within(const ModelConfig& config) {
  return std::ranges::any_of(config.mixers, [](const MixerConfig& mixer) {
    SettingMap settings;
    put_mixer_settings(mixer, settings);
    const auto found = settings.values().find(mixer.kind() + ".qk_norm");
    return found != settings.values().end() && found->second == SettingMap::text(true);
  });
}

}  // namespace

bool has_setting(const ModelConfig& config, std::string_view setting) {
  if (setting == "rms_norm_eps" && norms_within(config)) return true;
  for (const std::string_view of_blocks : {"d_ff", "feed_forward", "rms_norm_eps"})
    if (setting == of_blocks) return !config.bare();
  if (setting != "kv_heads") return true;
  const std::vector<std::string> kinds = config.mixer_kinds();
  return std::ranges::any_of(
      kinds, [](const std::string& kind) { return mixer_traits(kind).grouped_queries; });
}

const Family kNativeFamily = {"refrain", parse, write, &kOurTensors};

}  // namespace refrain
