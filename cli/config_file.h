// Settings from a file, JSON or TOML: flat keys ("attention.rope_theta") or tables.
#pragma once
#include <string>
#include <vector>

namespace refrain::cli {

struct ConfigEntry {
  std::string name;  // tables joined by dots; as it was written
  std::vector<std::string> values;
  bool is_list;
};

// By its name's end, .json or .toml; otherwise a file that starts with '{' is JSON. What cannot be
// a setting (null, a date, a list in a list, a list of tables) is an Error. "-" is standard input.
std::vector<ConfigEntry> read_config_file(const std::string& path);
std::string name_of_config_file(const std::string& path);  // in messages

}  // namespace refrain::cli
