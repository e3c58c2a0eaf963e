#include "cli/config_file.h"

// What the library asserts is not always so: "a = [}" would end the program, or, with NDEBUG, be
// undefined.
namespace {
struct NotToml {};
[[noreturn]] void throw_not_toml() { throw NotToml(); }
}  // namespace
#undef NDEBUG
#define TOML_ASSERT(condition) ((condition) ? void() : throw_not_toml())
#define TOML_HEADER_ONLY 1
#define TOML_ENABLE_FORMATTERS 0
#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/options.h"
#include "refrain/base/utf8.h"
#include "refrain/io/file.h"
#include "refrain/io/json.h"

namespace refrain::cli {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 22;

std::string text_of(const io::Json& value, const std::string& where) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return Options::text(value.get<bool>());
  if (value.is_number_unsigned()) return Options::text(value.get<uint64_t>());
  if (value.is_number_integer()) return Options::text(value.get<int64_t>());
  if (value.is_number()) return Options::text(value.get<double>());
  throw_error("{}: expected a value, found {}", where, io::describe(value));
}

void flatten(const io::Json& object, const std::string& prefix, const std::string& path,
             std::vector<ConfigEntry>& entries) {
  for (const auto& [key, value] : object.items()) {
    const std::string name = prefix + key, where = path + ": " + name;
    if (value.is_object()) {
      flatten(value, name + ".", path, entries);
    } else if (value.is_array()) {
      ConfigEntry entry{name, {}, true};
      for (const io::Json& item : value) entry.values.push_back(text_of(item, where));
      entries.push_back(std::move(entry));
    } else {
      entries.push_back({name, {text_of(value, where)}, false});
    }
  }
}

// The library makes a table for every part of a dotted key and takes them apart by recursion, which
// no stack bears for a hundred thousand of them. Values in values it bounds itself.
void check_key_lengths(std::string_view text, const std::string& path) {
  constexpr int kMaxDots = 64;
  int64_t line = 1;
  int dots = 0;
  for (size_t at = 0; at < text.size(); ++at) {
    const char c = text[at];
    if (c == '#') {
      at = std::min(text.find('\n', at), text.size()) - 1;
    } else if (c == '"' || c == '\'') {
      const std::string_view three = text.substr(at, 3);
      const bool many_lines = three == "\"\"\"" || three == "'''";
      const std::string_view mark = many_lines ? three : three.substr(0, 1);
      at += mark.size();
      while (at < text.size() && !text.substr(at).starts_with(mark)) {
        if (text[at] == '\n' && !many_lines) break;  // never closed: the parser's to tell
        if (text[at] == '\\' && c == '"') ++at;
        if (at < text.size() && text[at] == '\n') ++line;
        ++at;
      }
      at += mark.size() - 1;
    } else if (c == '.') {
      if (++dots > kMaxDots)
        throw_error("{}: line {}: expected at most {} dots in a key, found more", path, line,
                    kMaxDots);
    } else if (std::string_view("=,[]{}\n").find(c) != std::string_view::npos) {
      dots = 0;
      line += c == '\n';
    }
  }
}

std::string toml_text(const toml::node& value, const std::string& where) {
  if (const auto* text = value.as_string()) return text->get();
  if (const auto* flag = value.as_boolean()) return Options::text(flag->get());
  if (const auto* whole = value.as_integer()) return Options::text(whole->get());
  if (const auto* number = value.as_floating_point(); number && std::isfinite(number->get()))
    return Options::text(number->get());
  const char* found = value.is_table()            ? "a table in a list"
                      : value.is_array()          ? "a list in a list"
                      : value.is_floating_point() ? "one that is not finite"
                                                  : "a date or a time";
  throw_error("{}: expected a string, a number, true or false, found {}", where, found);
}

void flatten(const toml::table& table, const std::string& prefix, const std::string& path,
             std::vector<ConfigEntry>& entries) {
  for (const auto& [key, value] : table) {
    const std::string name = prefix + std::string(key.str());
    const std::string where = fmt::format("{}: line {}: {}", path, value.source().begin.line, name);
    if (const toml::table* inner = value.as_table()) {
      flatten(*inner, name + ".", path, entries);
    } else if (const toml::array* list = value.as_array()) {
      ConfigEntry entry{name, {}, true};
      for (const toml::node& item : *list) entry.values.push_back(toml_text(item, where));
      entries.push_back(std::move(entry));
    } else {
      entries.push_back({name, {toml_text(value, where)}, false});
    }
  }
}

std::vector<ConfigEntry> read_toml(std::string_view text, const std::string& path) {
  if (const auto bad = find_invalid_utf8(text))
    throw_error("{}: byte {}: expected UTF-8, found 0x{:02x}", path, *bad,
                static_cast<uint8_t>(text[*bad]));
  check_key_lengths(text, path);
  std::vector<ConfigEntry> entries;
  try {
    flatten(toml::parse(text), "", path, entries);
  } catch (const toml::parse_error& error) {
    std::string_view what = error.description();
    constexpr std::string_view kOpening = "Error while parsing ";
    if (what.starts_with(kOpening)) what.remove_prefix(kOpening.size());
    throw_error("{}: line {}: {}", path, error.source().begin.line, what);
  } catch (const NotToml&) {
    throw_error("{}: expected TOML, found what can be no part of it", path);
  }
  return entries;
}

}  // namespace

std::vector<ConfigEntry> read_config_file(const std::string& path) {
  const std::string text = io::read_stream(path, kMaxBytes);
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool json = path.ends_with(".json") ||
                    (!path.ends_with(".toml") && first != text.npos && text[first] == '{');
  if (!json) return read_toml(text, path);
  const io::Json root = io::parse_json(text, path);
  if (!root.is_object())
    throw_error("{}: expected an object of settings, found {}", path, io::describe(root));
  std::vector<ConfigEntry> entries;
  flatten(root, "", path, entries);
  return entries;
}

}  // namespace refrain::cli
