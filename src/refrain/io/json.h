// JSON that was read is hostile until checked: depth, size and types are bounded here, and what is
// asked of it names file, key, found and expected when it is not there.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace refrain::io {

// Files keep the order they were written in. The price: a lookup in an object walks its members, so
// go through a large object (a vocabulary) with items() instead of asking for one key after
// another.
using Json = nlohmann::ordered_json;

// `name` is what errors call the text. Refuses: nesting deeper than 64, duplicate keys in one
// object, more than 2^23 values, invalid UTF-8, numbers no double can hold (NaN and the like too),
// anything after the value, text longer than max_bytes.
constexpr size_t kMaxJsonBytes = size_t{1} << 27;
Json parse_json(std::string_view text, const std::string& name, size_t max_bytes = kMaxJsonBytes);

// A file, by default one of settings: values take many times the bytes of their text, so that a
// limit beyond what such a file can sensibly have would be a limit on nothing.
constexpr size_t kMaxSettingsBytes = size_t{1} << 20;
Json read_json(const std::string& path, size_t max_bytes = kMaxSettingsBytes);

// The members of the object that the text is, one after another, with one value in memory at a
// time: f(key, value). Checked as parse_json() does, but it is for `f` to refuse a key that was
// there before; a value made of more than max_values values is refused.
using OnMember = std::function<void(const std::string& key, Json&& value)>;
void each_member(std::string_view text, const std::string& name, size_t max_values,
                 const OnMember& f);

// UTF-8 as it is; a number that is not finite becomes null. Error on strings of invalid UTF-8.
std::string to_text(const Json& json);  // two-space indents, one line end at the end
std::string to_line(const Json& json);  // one line, without a line end

// Text of unknown origin as errors show it: quoted, escaped to one line, cut when it is long.
std::string quote(std::string_view text);
std::string describe(const Json& value);  // "an object", "a list", or the value itself

// Typed access; `where` starts the message: "config.json: hidden_size: expected ..., found ...".
// A member that is JSON null counts as absent. An absent member gives `absent`, or is an Error.
const Json& member(const Json& object, std::string_view key, const std::string& where);
const Json* find(const Json& object, std::string_view key);  // null when absent or JSON null
int64_t get_int(const Json& object, std::string_view key, const std::string& where, int64_t low,
                int64_t high, std::optional<int64_t> absent = {});
double get_number(const Json& object, std::string_view key, const std::string& where,
                  std::optional<double> absent = {});
bool get_bool(const Json& object, std::string_view key, const std::string& where,
              std::optional<bool> absent = {});
std::string get_string(const Json& object, std::string_view key, const std::string& where,
                       std::optional<std::string> absent = {});

}  // namespace refrain::io
