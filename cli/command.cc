#include "cli/command.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "cli/config_file.h"
#include "cli/help.h"
#include "cli/output.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {

using Kind = Setting::Kind;

// Flags that are not settings.
constexpr std::string_view kHelp = "help", kConfig = "config", kDumpConfig = "dump_config";

// Settings of which one makes the other pointless: on the command line it takes the other's place
// in a config file, unless it has the value that leaves the matter to the other.
struct Siblings {
  std::string_view name, yields;
  std::vector<std::string_view> replaced;
};
const std::vector<Siblings>& siblings() {
  static const std::vector<Siblings> all = {{"batch_size", "", {"max_tokens", "buckets"}},
                                            {"max_tokens", "0", {"batch_size"}},
                                            {"save_steps", "0", {"save_minutes"}},
                                            {"save_minutes", "", {"save_steps"}},
                                            {"mixer", "", {"pattern"}},
                                            {"mixers", "", {"pattern"}},
                                            {"pattern", "", {"mixer", "mixers"}},
                                            {"valid", "", {"valid_split"}},
                                            {"valid_split", "", {"valid"}},
                                            {"json", "false", {"score"}},
                                            {"score", "false", {"json"}}};
  return all;
}

std::string underscored(std::string_view name) {
  std::string text(name);
  std::replace(text.begin(), text.end(), '-', '_');
  return text;
}

// What a message shows of a name that a file may make as long as it likes.
std::string shown(std::string_view name) {
  constexpr size_t kMost = 80;
  return std::string(name.substr(0, kMost)) + (name.size() > kMost ? "..." : "");
}

template <class Settings>  // of std::vector<Setting>, const or not
auto* search(Settings& settings, std::string_view said) {
  const std::string_view name = present_name(said);
  const auto found = std::find_if(settings.begin(), settings.end(),
                                  [&](const Setting& setting) { return setting.name == name; });
  return found == settings.end() ? nullptr : &*found;
}

// Which of two values is meant, nobody knows.
[[noreturn]] void expect_once(const std::string& first, const std::string& second) {
  throw_error("{}: expected it once, found {}", first,
              first == second ? "it again" : second + " too, which is the same setting");
}

bool is_value_of_switch(std::string_view text) { return text == "true" || text == "false"; }

}  // namespace

std::string_view present_name(std::string_view name) {
  if (name == "spill_states") return "offload_states";
  if (name == "layer_types") return "pattern";  // as config.json of other families says
  return name;
}

const ShortForm* short_form(std::string_view name) {
  static constexpr ShortForm kAll[] = {{"bf16", "compute_type", "bf16", "f32"},
                                       {"int16", "compute_type", "int16", "f32"}};
  for (const ShortForm& one : kAll)
    if (one.name == name) return &one;
  return nullptr;
}

std::string flag_of(std::string_view name) {
  std::string text = "--" + std::string(name);
  std::replace(text.begin(), text.end(), '_', '-');
  return text;
}

const Setting& CommandLine::find(std::string_view name) const {
  const Setting* setting = search(settings_, name);
  REFRAIN_CHECK(setting && "the verb has that setting");
  return *setting;
}

CommandLine::Flag CommandLine::flag(const std::string& spelling) {
  if (spelling.size() == 2 && spelling[0] == '-') {
    for (const auto& [letter, name] : short_flags())
      if (letter == spelling[1]) return {search(settings_, name), false};
  }
  if (!spelling.starts_with("--")) return {nullptr, false};
  const std::string name = underscored(spelling.substr(2));
  if (Setting* setting = search(settings_, name)) return {setting, false};
  if (name.starts_with("no_"))
    if (Setting* setting = search(settings_, name.substr(3));
        setting && setting->kind == Kind::kSwitch)
      return {setting, true};
  const bool negated = name.starts_with("no_");
  if (const ShortForm* one = short_form(negated ? name.substr(3) : name))
    return {search(settings_, one->setting), negated, one};
  return {nullptr, false};
}

void CommandLine::unknown(const std::string& spelling) const {
  std::vector<std::string> known = {flag_of(kHelp), flag_of(kConfig), flag_of(kDumpConfig)};
  for (const Setting& setting : settings_) known.push_back(flag_of(setting.name));
  throw_error("unknown flag '{}'{}", shown(spelling),
              did_you_mean(nearest_name(flag_of(underscored(spelling).substr(2)), known)));
}

void CommandLine::set(Setting& setting, const std::string& origin, std::vector<std::string> values,
                      bool append) {
  for (std::string& value : values) value = setting.checked(origin, value);
  if (append)
    setting.values.insert(setting.values.end(), values.begin(), values.end());
  else
    setting.values = std::move(values);
  setting.given = true;
}

// A key at its default says nothing: a file that --dump-config wrote has all keys.
void CommandLine::read_config(const std::string& given) {
  const std::string path = name_of_config_file(given);
  std::map<const Setting*, std::string> seen;
  std::vector<const ShortForm*> off;
  for (ConfigEntry& entry : read_config_file(given)) {
    const std::string where = path + ": " + entry.name;
    const ShortForm* one = short_form(underscored(entry.name));
    Setting* setting = search(settings_, one ? one->setting : underscored(entry.name));
    if (one && setting) {
      bool is_on = false;
      SettingMap::parse(where, entry.is_list ? "a list" : entry.values[0], is_on);
      if (!is_on) {
        off.push_back(one);
        continue;
      }
      entry.values = {std::string(one->value)};
    }
    if (!setting) {
      std::vector<std::string> known;
      for (const Setting& s : settings_) known.push_back(s.name);
      throw_error("{}: unknown setting '{}'{}", path, shown(entry.name),
                  did_you_mean(nearest_name(underscored(entry.name), known)));
    }
    if (entry.is_list && setting->kind != Kind::kList)
      throw_error("{}: expected one value, found a list", where);
    if (const auto [first, is_new] = seen.emplace(setting, entry.name); !is_new)
      throw_error("{}: set twice{}", where,
                  first->second == entry.name ? "" : ", the other time as " + first->second);
    set(*setting, where, std::move(entry.values), false);
    setting->given = setting->values != setting->by_default;
    setting->file = path;
  }
  for (const ShortForm* one : off)
    if (find(one->setting).values[0] == one->value)
      throw_error("{}: {}: expected true beside {} {}, found false", path, one->name, one->setting,
                  one->value);
}

void CommandLine::parse(std::span<const std::string> arguments) {
  // Long flags may have their value behind a '='.
  struct Word {
    std::string text;
    bool is_value;
  };
  std::vector<Word> words;
  for (const std::string& argument : arguments) {
    const size_t equals = argument.starts_with("--") ? argument.find('=') : std::string::npos;
    words.push_back({argument.substr(0, equals), false});
    if (equals != std::string::npos) words.push_back({argument.substr(equals + 1), true});
  }
  const auto is_flag = [&](const Word& word) {
    const std::string name = word.text.starts_with("--") ? underscored(word.text.substr(2)) : "";
    return !word.is_value && (flag(word.text).setting || word.text == "-h" || name == kHelp ||
                              name == kConfig || name == kDumpConfig);
  };

  struct Given {
    std::string spelling;
    Flag flag;
    std::vector<std::string> values;
  };
  std::vector<Given> given;
  std::string config;
  for (size_t i = 0; i < words.size(); ++i) {
    const std::string& spelling = words[i].text;
    const Flag found = flag(spelling);
    if (!is_flag(words[i])) {
      if (words[i].is_value || spelling.size() < 2 || spelling[0] != '-')
        throw_error("expected a flag, found '{}'", shown(spelling));
      unknown(spelling);
    }
    const bool more = i + 1 < words.size(), attached = more && words[i + 1].is_value;
    std::vector<std::string> values;
    if (found.setting && (found.setting->kind == Kind::kSwitch || found.short_form)) {
      const bool said = attached || (more && is_value_of_switch(words[i + 1].text));
      values = {said ? words[++i].text : "true"};
      if (found.negated) {
        if (said) throw_error("{}: expected no value, found '{}'", spelling, values[0]);
        values = {"false"};
      }
    } else if (found.setting && found.setting->kind == Kind::kList && !attached) {
      const auto goes_on = [&](const Word& word) {
        return !word.is_value && (word.text.size() < 2 || word.text[0] != '-');
      };
      while (i + 1 < words.size() && goes_on(words[i + 1])) values.push_back(words[++i].text);
      if (values.empty()) throw_error("{}: expected one value or more, found none", spelling);
    } else if (found.setting || underscored(spelling) == "__" + std::string(kConfig)) {
      if (!more) throw_error("{}: expected a value, found none", spelling);
      if (is_flag(words[i + 1]))
        throw_error("{}: expected a value, found the flag {}", spelling, words[i + 1].text);
      values = {words[++i].text};
    } else {
      if (attached) throw_error("{}: expected no value, found '{}'", spelling, words[i + 1].text);
      (underscored(spelling) == "__" + std::string(kDumpConfig) ? dump_config_ : help_) = true;
    }
    if (found.setting) {
      given.push_back({spelling, found, std::move(values)});
    } else if (!values.empty()) {
      if (!config.empty()) expect_once(spelling, spelling);
      config = values[0];
    }
  }
  if (help_) return;
  if (!config.empty()) read_config(config);
  std::map<const Setting*, std::string> begun;  // lists: the first flag replaces, the next append
  std::vector<const Given*> off;
  for (Given& g : given) {
    if (const ShortForm* one = g.flag.short_form) {
      bool is_on = false;
      SettingMap::parse(g.spelling, g.values[0], is_on);
      if (!is_on) {
        off.push_back(&g);
        continue;
      }
      g.values = {std::string(one->value)};
    }
    const auto [first, is_new] = begun.emplace(g.flag.setting, g.spelling);
    if (!is_new && g.flag.setting->kind != Kind::kList) expect_once(first->second, g.spelling);
    set(*g.flag.setting, g.spelling, std::move(g.values), !is_new);
    g.flag.setting->file.clear();
  }
  // What is off is what it is otherwise, unless it is a third thing.
  for (const Given* g : off) {
    const ShortForm& one = *g->flag.short_form;
    Setting& setting = *g->flag.setting;
    const auto first = begun.find(&setting);
    const bool is_value = setting.values[0] == one.value;
    if (is_value && first != begun.end()) expect_once(first->second, g->spelling);
    if (first != begun.end() || (!is_value && setting.values[0] != one.otherwise)) continue;
    set(setting, g->spelling, {std::string(one.otherwise)}, false);
    setting.file.clear();
  }
  for (const Given& g : given) replace_siblings(*g.flag.setting);
  if (config != "-") return;
  for (const Setting& setting : settings_)
    if (std::ranges::count(setting.values, "-") > 0)
      throw_error("--config -: {} reads standard input, too", flag_of(setting.name));
}

void CommandLine::replace_siblings(const Setting& said) {
  for (const Siblings& one : siblings()) {
    if (one.name != said.name || said.values[0] == one.yields) continue;
    for (const std::string_view name : one.replaced)
      if (Setting* other = search(settings_, name); other && !other->file.empty()) {
        other->values = other->by_default;
        other->given = false;
        other->file.clear();
      }
  }
}

std::string CommandLine::with_file(const std::string& error) const {
  const std::string_view first = std::string_view(error).substr(0, error.find(": "));
  if (first.size() == error.size()) return error;
  const std::string name = underscored(first.substr(first.starts_with("--") ? 2 : 0));
  const Setting* setting = search(settings_, name);
  if (!setting || setting->file.empty() || !setting->given) return error;
  return fmt::format("{}: {}{}", setting->file, name, error.substr(first.size()));
}

void CommandLine::require(std::initializer_list<std::string_view> names) const {
  for (const std::string_view name : names) {
    const Setting& setting = find(name);
    if (!setting.values.empty() && !setting.values[0].empty()) continue;
    const std::string letter = short_flag_of(name);
    throw_error("{}{} is missing: {}", letter.empty() ? "" : letter + " or ", flag_of(name),
                setting.help);
  }
}

void CommandLine::exclude(std::string_view one, std::string_view other) const {
  const auto asks = [&](std::string_view name) {
    const Setting& setting = find(name);
    return setting.given && !(setting.kind == Kind::kSwitch && setting.values[0] == "false");
  };
  const auto origin = [&](std::string_view name) {
    const std::string& file = find(name).file;
    return file.empty() ? flag_of(name) : fmt::format("{}: {}", file, name);
  };
  if (asks(one) && asks(other))
    throw_error("{} and {} contradict each other; give one of them", origin(one), origin(other));
}

void CommandLine::expect_utf8() const {
  for (const Setting& setting : settings_)
    for (const std::string& value : setting.values)
      if (const auto bad = find_invalid_utf8(value))
        throw_error("{}: expected UTF-8, as settings are written in, found byte 0x{:02x} in '{}'",
                    flag_of(setting.name), static_cast<uint8_t>(value[*bad]),
                    shown(valid_utf8(value)));
}

io::Json CommandLine::to_json() const {
  expect_utf8();
  io::Json object = io::Json::object();
  for (const Setting& setting : settings_) {
    io::Json& place = object[setting.name];
    switch (setting.kind) {
      case Kind::kSwitch:
      case Kind::kWhole:
      case Kind::kNumber:
        place = io::parse_json(setting.values[0], setting.name);
        break;
      case Kind::kText:
        place = setting.values[0];
        break;
      case Kind::kList:
        place = setting.values;
        break;
    }
  }
  return object;
}

}  // namespace refrain::cli
