#include "cli/verbs/train/recorded_settings.h"

#include <algorithm>
#include <set>
#include <vector>

#include "cli/command.h"

namespace refrain::cli {
namespace {

// A new setting of runs joins a group of its own version; ".name" is any mixer's.
const std::vector<std::set<std::string>>& later_settings() {
  static const std::vector<std::set<std::string>> groups = {
      {"optimizer", "momentum", "lr_decay", "carry_state", "character_coverage"},
      {"feed_forward_bias", "norm", "activation_precision", ".query"},
      {"init"},
      {"freeze", "lora_rank", "lora_alpha", "lora_targets", "lora_dropout", "lora_rslora",
       "base_type", "mask_prompt", "packing"},
      {"autoencoder.window", "autoencoder.stride"},
      {"learned_positions", ".qkv_bias", ".output_bias", ".qk_norm", ".rope", ".rope_scaling",
       ".rope_factor", ".rope_low_freq_factor", ".rope_high_freq_factor",
       ".rope_original_context"}};
  return groups;
}

// Former versions recorded a switch for some values of a setting.
void take_switches(const io::Json& saved, const std::string& where, io::Json& recorded) {
  for (const bool on : {true, false})  // what is off says nothing beside what is on
    for (const auto& [name, value] : saved.items()) {
      const ShortForm* one = short_form(name);
      if (!one) continue;
      if (!value.is_boolean())
        throw_error("{}: {}: expected true or false, found {}", where, name, io::describe(value));
      if (value.get<bool>() != on) continue;
      const std::string setting(one->setting);
      recorded.emplace(setting, on ? one->value : one->otherwise);
      if (on && recorded[setting] != io::Json(one->value))
        throw_error("{}: {}: expected false beside {} {}, found true", where, name, setting,
                    io::to_line(recorded[setting]));
    }
}

}  // namespace

io::Json by_present_names(const io::Json& saved, const std::string& where) {
  if (!saved.is_object()) throw_error("{}: expected an object of settings", where);
  io::Json recorded = io::Json::object();
  for (const auto& [name, value] : saved.items())
    if (!short_form(name)) recorded[std::string(present_name(name))] = value;
  take_switches(saved, where, recorded);
  return recorded;
}

bool is_retired(std::string_view name) {
  return name.ends_with(".fused") || name.ends_with(".hoisted");
}

bool came_later(const std::string& name, const io::Json& recorded) {
  return std::ranges::any_of(later_settings(), [&](const std::set<std::string>& group) {
    const auto has = [&](const std::string& setting) {
      const size_t dot = setting.find('.');
      return group.contains(setting) ||
             (dot != std::string::npos && group.contains(setting.substr(dot)));
    };
    return has(name) && std::ranges::none_of(recorded.items(),
                                             [&](const auto& item) { return has(item.key()); });
  });
}

}  // namespace refrain::cli
