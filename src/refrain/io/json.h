// Reading and writing JSON. Input is hostile until checked: depth, size and types are limited here.
// Access to a missing or wrong member is an Error that names file, key, found and expected.
#pragma once
#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace refrain::io {

// Objects keep the order of their file. The cost: a lookup goes through the members. So iterate
// over a large object (a vocabulary) with items() instead of looking up one key after another.
using Json = nlohmann::ordered_json;

// `name` is the text's name in errors. Refused are: nesting deeper than 64, duplicate keys in one
// object, more than 2^23 values, invalid UTF-8, numbers that no double can hold (NaN and the like
// too), anything after the value, and text longer than max_bytes.
constexpr size_t kMaxJsonBytes = size_t{1} << 27;
Json parse_json(std::string_view text, const std::string& name, size_t max_bytes = kMaxJsonBytes);

// Reads a file, by default one of settings. Values take many times the memory of their text, so the
// limit is close to the largest sensible file.
constexpr size_t kMaxSettingsBytes = size_t{1} << 20;
Json read_json(const std::string& path, size_t max_bytes = kMaxSettingsBytes);

// The members of the object in `text`, one after another, with one value in memory at a time:
// f(key, value). It is checked as by parse_json(), but `f` must refuse a repeated key. A value that
// consists of more than max_values values is refused.
using OnMember = std::function<void(const std::string& key, Json&& value)>;
void each_member(std::string_view text, const std::string& name, size_t max_values,
                 const OnMember& f);

// UTF-8 is not escaped. A number that is not finite becomes null. A string of invalid UTF-8 is an
// Error.
std::string to_text(const Json& json);  // two-space indents, one line end at the end
std::string to_line(const Json& json);  // one line, without a line end

// Untrusted text as errors show it: quoted, escaped to one line, cut if it is long.
std::string quote(std::string_view text);
std::string describe(const Json& value);  // "an object", "a list", or the value itself

// Typed access. `where` begins the message: "config.json: hidden_size: expected ..., found ...". A
// member that is JSON null counts as absent. An absent member gives `absent`, or is an Error if
// there is no `absent`.
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
