// Named settings as text: "attention.rope_theta" -> "500000". The command line, a config file and
// the recorded settings of a run are SettingMaps.
//
// A config is a plain struct that lists its fields once, in visit(). Flags, help text, defaults and
// recorded settings come from that list:
//
//   template <class V> void visit(V&& v) { v("layers", layers, "blocks in the stack"); }
#pragma once
#include <charconv>
#include <cmath>
#include <concepts>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "refrain/base/error.h"

namespace refrain {

// The candidate nearest to `name` by edit distance, or "" when none is near.
std::string nearest_name(std::string_view name, const std::vector<std::string>& candidates);

// In the place of a setting's help: the setting changes how the work is done, how long, or what is
// told of it, never what is computed. It may change in a run that goes on, and no model is saved
// with it.
struct How {
  const char* help;
  constexpr operator const char*() const { return help; }
};
constexpr How how(const char* help) { return {help}; }

class SettingMap {
 public:
  SettingMap() = default;
  explicit SettingMap(std::map<std::string, std::string> values) : values_(std::move(values)) {}

  void set(const std::string& name, std::string value) { values_[name] = std::move(value); }
  bool has(const std::string& name) const { return values_.contains(name); }
  const std::map<std::string, std::string>& values() const { return values_; }

  // Sets the fields of `config` from the values named prefix + field. Fields without a value keep
  // theirs.
  template <class Config>
  Config get(const std::string& prefix = "", Config config = {}) const {
    config.visit([&](const char* name, auto& field, const char*) {
      const std::string full = prefix + name;
      known_.insert(full);
      if (const auto it = values_.find(full); it != values_.end()) parse(full, it->second, field);
    });
    return config;
  }

  // All but what changes how the work is done.
  template <class Config>
  void put(const std::string& prefix, Config config) {
    config.visit([&](const char* name, auto& field, auto help) {
      if constexpr (!std::is_same_v<decltype(help), How>) values_[prefix + name] = text(field);
    });
  }

  // Call it after all get() calls: a name that no config has is the user's mistake, an Error.
  void check_all_known() const;

  // The shortest text that reads back as the same value.
  template <class T>
  static std::string text(const T& value) {
    if constexpr (std::is_same_v<T, std::string>) {
      return value;
    } else if constexpr (std::is_same_v<T, bool>) {
      return value ? "true" : "false";
    } else {
      char buffer[40];
      return {buffer, std::to_chars(buffer, buffer + sizeof(buffer), value).ptr};
    }
  }

  template <class T>
  static void parse(const std::string& name, const std::string& text, T& field) {
    if constexpr (std::is_same_v<T, std::string>) {
      field = text;
    } else if constexpr (std::is_same_v<T, bool>) {
      if (text != "true" && text != "false")
        throw_error("{}: expected true or false, found '{}'", name, text);
      field = text == "true";
    } else {
      T value{};
      const char* last = text.data() + text.size();
      const auto [end, error] = std::from_chars(text.data(), last, value);
      if (error == std::errc::result_out_of_range)
        throw_error("{}: '{}' is out of range", name, text);
      if (error != std::errc() || end != last)
        throw_error("{}: expected {}, found '{}'", name,
                    std::is_integral_v<T> ? "a whole number" : "a number", text);
      if constexpr (std::is_floating_point_v<T>) {
        if (!std::isfinite(value)) throw_error("{}: '{}' is not a finite number", name, text);
      }
      field = value;
    }
  }

 private:
  std::map<std::string, std::string> values_;
  mutable std::set<std::string> known_;  // every name a config has asked for
};

}  // namespace refrain
