// Settings from a file, JSON or TOML: flat keys ("attention.rope_theta") or tables.
//
// Of TOML: comments, tables, bare, quoted and dotted keys, strings of one line, whole numbers,
// numbers, true and false, and lists, which may go over several lines. Dates, inline tables, arrays
// of tables and strings of several lines mean nothing in settings and are an Error.
#pragma once
#include <string>
#include <vector>

#include "refrain/io/json.h"

namespace refrain::cli {

struct ConfigEntry {
  std::string name;  // tables joined by dots; as it was written
  std::vector<std::string> values;
  bool is_list;
};

// By its name's end, .json or .toml; otherwise a file that starts with '{' is JSON.
std::vector<ConfigEntry> read_config_file(const std::string& path);

io::Json parse_toml(std::string_view text, const std::string& name);

}  // namespace refrain::cli
