// A part of a JSON file, with the place that errors name.
#pragma once
#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>

#include "refrain/base/error.h"
#include "refrain/io/json.h"

namespace refrain::io {

// A value of the file, with the place that errors name; null when the file has none.
struct Part {
  const Json* json;
  std::string where;

  Part at(std::string_view key) const {
    return {json ? find(*json, key) : nullptr, fmt::format("{}: {}", where, key)};
  }
  std::string text(std::string_view key, std::optional<std::string> absent = {}) const {
    return get_string(*json, key, where, std::move(absent));
  }
  bool flag(std::string_view key, std::optional<bool> absent = {}) const {
    return get_bool(*json, key, where, absent);
  }
  const Json::array_t& list(std::string_view key) const {
    const Json& value = member(*json, key, where);
    if (!value.is_array())
      throw_error("{}: {}: expected a list, found {}", where, key, quote(to_line(value)));
    return value.get_ref<const Json::array_t&>();
  }
  // An object with no members but these.
  void only(std::initializer_list<std::string_view> keys) const {
    if (!json || !json->is_object())
      throw_error("{}: expected an object, found {}", where, json ? quote(to_line(*json)) : "none");
    for (const auto& [key, value] : json->items())
      if (!value.is_null() && std::find(keys.begin(), keys.end(), key) == keys.end())
        throw_error("{}: {} is not supported, found {}", where, quote(key), quote(to_line(value)));
  }
  [[noreturn]] void refuse(std::string_view expected) const {
    throw_error("{}: expected {}, found {}", where, expected,
                json ? quote(to_line(*json)) : "none");
  }
};

}  // namespace refrain::io
