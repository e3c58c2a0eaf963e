// What every verb shares: flags, help, config files, errors and exit statuses.
//
// A verb is a plain struct of its settings, with a visit() that lists them as library configs do
// (base/setting_map.h; those may be visited from it) and a run():
//
//   struct Info {
//     std::string model;
//     bool json = false;
//     template <class V> void visit(V&& v) {
//       v("model", model, "model directory");
//       v("json", json, "print JSON");
//     }
//     void check(const CommandLine& line);  // optional: what --dump-config refuses, as run() does
//     io::Json dump(const CommandLine& line);  // optional: what --dump-config prints instead
//     int run(const CommandLine& line);
//   };
//   Verb info_verb() { return make_verb<Info>("info", "tell what a model is", "-m DIR"); }
//
// The list is the verb's flags (--max-new-tokens or --max_new_tokens; short_flags() in the .cc file
// has the short forms), its help, the keys of --config FILE and what --dump-config prints. A field
// is a number, a string, a bool (--json, --no-json) or a std::vector<std::string> (--data a b c, or
// the flag again and again; all others may be given once). A name that is listed twice is one flag
// for both fields.
#pragma once
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "refrain/base/setting_map.h"
#include "refrain/io/json.h"
#include "refrain/mixers/registry.h"

namespace refrain::cli {

struct Setting {
  enum class Kind { kSwitch, kWhole, kNumber, kText, kList };
  std::string name, help;
  Kind kind;
  std::vector<std::string> values;  // one, but of a list
  // The text in its shortest form; an Error that starts with `origin` when it is not a value of the
  // field.
  std::string (*checked)(const std::string& origin, const std::string& text);
  // On the command line, or in a config file with another value than the default.
  bool given = false;
  std::string file{};                     // the config file that said it
  std::vector<std::string> by_default{};  // its values, when nobody says any
};

// The settings of one run of a verb.
// The name that a setting has now: flags, config files and recorded runs may have an earlier one.
std::string_view present_name(std::string_view name);

// A switch that stands for a value of a setting, which is `otherwise` when it is off.
struct ShortForm {
  std::string_view name, setting, value, otherwise;
};
const ShortForm* short_form(std::string_view name);  // null when it is none

class CommandLine {
 public:
  explicit CommandLine(std::vector<Setting> settings) : settings_(std::move(settings)) {
    for (Setting& setting : settings_) setting.by_default = setting.values;
  }

  // Flags and their values; what --config names comes first, the command line wins.
  void parse(std::span<const std::string> arguments);

  const std::vector<Setting>& settings() const { return settings_; }
  const Setting& find(std::string_view name) const;
  bool given(std::string_view name) const { return find(name).given; }
  // Given, and not what it is by default: what is refused where it has no effect.
  bool changed(std::string_view name) const {
    return given(name) && find(name).values != find(name).by_default;
  }
  void require(std::initializer_list<std::string_view> names) const;  // an Error when one is empty
  void exclude(std::string_view one, std::string_view other) const;  // an Error when both are given
  void expect_utf8() const;  // an Error that names the setting which JSON cannot have
  io::Json to_json() const;
  // An error's line that begins with a setting which a config file said: with the file's name.
  std::string with_file(const std::string& error) const;
  bool wants_help() const { return help_; }
  bool wants_dump() const { return dump_config_; }

 private:
  struct Flag {
    Setting* setting;
    bool negated;
    const ShortForm* short_form = nullptr;  // a switch, for a value of the setting
  };
  Flag flag(const std::string& spelling);  // setting is null when it is not one
  static void set(Setting&, const std::string& origin, std::vector<std::string> values,
                  bool append);
  void read_config(const std::string& path);
  void replace_siblings(const Setting&);
  [[noreturn]] void unknown(const std::string& spelling) const;

  std::vector<Setting> settings_;
  bool help_ = false, dump_config_ = false;
};

std::string flag_of(std::string_view name);  // "max_tokens" -> "--max-tokens"

struct Verb {
  std::string name;     // "generate", or of two words: "tokenizer train"
  std::string summary;  // a line of the program's help
  std::string usage;    // what follows the name
  std::string details;  // of the verb's help
  std::vector<Setting> settings;
  int (*run)(const CommandLine&);
  void (*check)(const CommandLine&) = nullptr;  // settings that contradict each other are an Error
  io::Json (*dump)(const CommandLine&) = nullptr;  // what would run, when it is not what was said
  std::string words{};  // the list that words before the first flag belong to, if any do
};

// Runs the verb that the arguments name and returns the exit status: 0; 2 after a mistake of the
// world and 3 after one of ours, said in one line on standard error; 141 when nobody reads what it
// prints any more; what else the verb returns.
int run_program(const std::vector<Verb>& verbs, std::span<const std::string> arguments);

namespace detail {

template <class T>
inline constexpr bool is_list = std::is_same_v<T, std::vector<std::string>>;

template <class T>
std::string checked(const std::string& origin, const std::string& text) {
  if constexpr (is_list<T>) {
    return text;
  } else {
    T value;
    SettingMap::parse(origin, text, value);
    return SettingMap::text(value);
  }
}

template <class T>
Setting declare(const char* name, const T& value, const char* help) {
  using Kind = Setting::Kind;
  constexpr Kind kind = is_list<T>                ? Kind::kList
                        : std::is_same_v<T, bool> ? Kind::kSwitch
                        : std::is_integral_v<T>   ? Kind::kWhole
                        : std::is_arithmetic_v<T> ? Kind::kNumber
                                                  : Kind::kText;
  std::vector<std::string> values;
  if constexpr (is_list<T>)
    values = value;
  else
    values = {SettingMap::text(value)};
  return {name, help, kind, std::move(values), checked<T>};
}

template <class T>
void assign(const Setting& setting, T& field) {
  if constexpr (is_list<T>)
    field = setting.values;
  else
    SettingMap::parse(setting.name, setting.values[0], field);
}

template <class Settings>
Settings settings_of(const CommandLine& line) {
  Settings settings;
  settings.visit(
      [&](const char* field, auto& value, const char*) { assign(line.find(field), value); });
  return settings;
}

}  // namespace detail

// Lists the settings of all mixers, "attention.rope_theta", for a verb's visit(): as `values` has
// them, or by default; `values` gets what they are set to.
template <class V>
void visit_mixers(V&& v, SettingMap& values) {
  visit_mixer_settings([&](const MixerSetting& setting) {
    const auto known = values.values().find(setting.name);
    const std::string text = known == values.values().end() ? setting.by_default : known->second;
    const auto as = [&](auto value) {
      SettingMap::parse(setting.name, text, value);
      v(setting.name.c_str(), value, setting.help.c_str());
      values.set(setting.name, SettingMap::text(value));
    };
    switch (setting.type) {
      case MixerSetting::Type::kSwitch:
        return as(false);
      case MixerSetting::Type::kWhole:
        return as(int64_t{0});
      case MixerSetting::Type::kNumber:
        return as(0.0);
      case MixerSetting::Type::kText:
        return as(std::string());
    }
  });
}

template <class Settings>
Verb make_verb(std::string name, std::string summary, std::string usage, std::string details = "") {
  Verb verb{std::move(name), std::move(summary), std::move(usage), std::move(details), {}, nullptr};
  Settings().visit([&](const char* field, auto& value, const char* help) {
    for (const Setting& known : verb.settings)
      if (known.name == field) return;
    verb.settings.push_back(detail::declare(field, value, help));
  });
  verb.run = [](const CommandLine& line) { return detail::settings_of<Settings>(line).run(line); };
  if constexpr (requires(Settings settings, const CommandLine& line) { settings.check(line); })
    verb.check = [](const CommandLine& line) { detail::settings_of<Settings>(line).check(line); };
  if constexpr (requires(Settings settings, const CommandLine& line) { settings.dump(line); })
    verb.dump = [](const CommandLine& line) {
      return detail::settings_of<Settings>(line).dump(line);
    };
  return verb;
}

}  // namespace refrain::cli
