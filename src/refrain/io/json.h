// JSON that was read is hostile until checked: depth, size and types are bounded here, and what is
// asked of it names file, key, found and expected when it is not there.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace refrain::io {

using Json = nlohmann::ordered_json;  // files keep the order they were written in

// `name` is what errors call the text. Refuses: nesting deeper than 64, duplicate keys in one
// object, invalid UTF-8, anything after the value, text longer than max_bytes.
Json parse_json(std::string_view text, const std::string& name,
                size_t max_bytes = size_t{1} << 28);
Json read_json(const std::string& path);
std::string to_text(const Json& json);  // two-space indents, one line end at the end, UTF-8 as is

// Typed access; `where` starts the message: "config.json: hidden_size: expected ..., found ...".
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
