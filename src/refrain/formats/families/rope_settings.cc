#include "refrain/formats/families/rope_settings.h"

#include <limits>
#include <optional>
#include <string_view>

#include "refrain/base/error.h"
#include "refrain/formats/families/config_checks.h"
#include "refrain/formats/families/llama_keys.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kOriginalContext = "original_max_position_embeddings";

// The settings that a type of scaling has, beside its type and the base. All of them are needed.
std::vector<std::string_view> settings_of(std::string_view type) {
  if (type == "linear") return {"factor"};
  if (type == "llama3") return {"factor", "low_freq_factor", "high_freq_factor", kOriginalContext};
  return {};
}

std::string read_type(const Json& rope, const std::string& where) {
  std::optional<std::string> type;
  for (const char* key : {"rope_type", "type"}) {
    const Json* value = io::find(rope, key);
    if (!value) continue;
    if (*value != "default" && *value != "linear" && *value != "llama3")
      throw_error("{}: {}: expected default, linear or llama3, found {}", where, key,
                  io::describe(*value));
    if (type && *value != Json(*type))
      throw_error("{}: {}: expected {} as in rope_type, found {}", where, key, *type,
                  io::describe(*value));
    type = value->get<std::string>();
  }
  return type.value_or("default");
}

// One object; its scaling goes to `to`.
void read_object(const Json& rope, const std::string& where, AttentionConfig& to,
                 std::vector<std::string>& unknown) {
  const std::string type = read_type(rope, where);
  const std::vector<std::string_view> needed = settings_of(type);
  if (const Json* value = io::find(rope, "partial_rotary_factor"); value && *value != Json(1))
    throw_error("{}: partial_rotary_factor: expected 1, found {}", where, io::describe(*value));
  for (const auto& [setting, value] : rope.items()) {
    const bool is_read = setting == "rope_type" || setting == "type" || setting == "rope_theta" ||
                         setting == "partial_rotary_factor" || contains(needed, setting);
    if (value.is_null() || is_read) continue;
    if (contains(kRopeRefused, setting)) refuse_setting(where, setting, value);
    unknown.push_back(where.substr(where.rfind(' ') + 1) + "." + setting);
  }
  if (type == "default") return;
  const auto number = [&](const char* key, double least) {
    const double value = io::get_number(rope, key, where);
    if (!(value > least))
      throw_error("{}: {}: expected a number above {}, found {}", where, key, least, value);
    return value;
  };
  to.rope_scaling = type;
  to.rope_factor = number("factor", 0);
  if (type != "llama3") return;
  to.rope_low_freq_factor = number("low_freq_factor", 0);
  to.rope_high_freq_factor = number("high_freq_factor", to.rope_low_freq_factor);
  to.rope_original_context =
      io::get_int(rope, kOriginalContext, where, 1, std::numeric_limits<int32_t>::max());
}

bool same_scaling(const AttentionConfig& a, const AttentionConfig& b) {
  return a.rope_scaling == b.rope_scaling && a.rope_factor == b.rope_factor &&
         a.rope_low_freq_factor == b.rope_low_freq_factor &&
         a.rope_high_freq_factor == b.rope_high_freq_factor &&
         a.rope_original_context == b.rope_original_context;
}

}  // namespace

void read_rope_settings(const Json& json, const std::string& name, double absent_theta,
                        AttentionConfig& to, std::vector<std::string>& unknown) {
  std::optional<double> rope_theta;
  const auto take_theta = [&](const Json& object, const std::string& where) {
    if (!io::find(object, "rope_theta")) return;
    const double found = io::get_number(object, "rope_theta", where);
    if (rope_theta && *rope_theta != found)
      throw_error("{}: rope_theta: expected {} as elsewhere in this file, found {}", where,
                  *rope_theta, found);
    rope_theta = found;
  };
  take_theta(json, name);
  std::optional<AttentionConfig> scaled;
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    const Json* rope = io::find(json, key);
    if (!rope) continue;
    const std::string where = fmt::format("{}: {}", name, key);
    if (!rope->is_object())
      throw_error("{}: expected an object, found {}", where, io::describe(*rope));
    take_theta(*rope, where);
    AttentionConfig one;
    read_object(*rope, where, one, unknown);
    if (scaled && !same_scaling(*scaled, one))
      throw_error("{}: expected the scaling of rope_parameters, found another", where);
    scaled = one;
  }
  if (scaled) {
    to.rope_scaling = scaled->rope_scaling;
    to.rope_factor = scaled->rope_factor;
    to.rope_low_freq_factor = scaled->rope_low_freq_factor;
    to.rope_high_freq_factor = scaled->rope_high_freq_factor;
    to.rope_original_context = scaled->rope_original_context;
  }
  to.rope_theta = rope_theta.value_or(absent_theta);
}

AttentionConfig without_rope(AttentionConfig config) {
  const AttentionConfig plain;
  config.rope = false;
  config.rope_scaling = plain.rope_scaling;
  config.rope_factor = plain.rope_factor;
  config.rope_low_freq_factor = plain.rope_low_freq_factor;
  config.rope_high_freq_factor = plain.rope_high_freq_factor;
  config.rope_original_context = plain.rope_original_context;
  return config;
}

void put_rope_settings(const AttentionConfig& from, Json& to) {
  Json scaling = {{"rope_type", from.rope_scaling.empty() ? "default" : from.rope_scaling}};
  if (!from.rope_scaling.empty()) scaling["factor"] = from.rope_factor;
  if (from.rope_scaling == "llama3") {
    scaling["low_freq_factor"] = from.rope_low_freq_factor;
    scaling["high_freq_factor"] = from.rope_high_freq_factor;
    scaling[kOriginalContext] = from.rope_original_context;
  }
  // Version 4 of transformers reads the first two, version 5 all.
  to["rope_theta"] = from.rope_theta;
  if (!from.rope_scaling.empty()) to["rope_scaling"] = scaling;
  scaling["rope_theta"] = from.rope_theta;
  to["rope_parameters"] = scaling;
}

}  // namespace refrain
