#include "cli/config_file.h"

#include <algorithm>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/base/options.h"
#include "refrain/base/utf8.h"
#include "refrain/io/file.h"

namespace refrain::cli {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 24;
constexpr size_t kMaxKeys = 8;

class TomlReader {
 public:
  TomlReader(std::string_view text, const std::string& name) : text_(text), name_(name) {}

  io::Json read() {
    io::Json root = io::Json::object();
    std::vector<std::string> table;
    for (skip(true); !at_end(); skip(true)) {
      if (take('[')) {
        if (peek() == '[') fail("a table or key = value", "an array of tables");
        table = keys();
        expect(']');
      } else {
        std::vector<std::string> path = table;
        for (std::string& key : keys()) path.push_back(std::move(key));
        expect('=');
        add(root, path, value());
      }
      end_of_line();
    }
    return root;
  }

 private:
  [[noreturn]] void fail(const std::string& expected, const std::string& found) const {
    throw_error("{}: line {}: expected {}, found {}", name_, line_, expected, found);
  }
  [[noreturn]] void fail(const std::string& expected) const {
    const std::string_view rest = text_.substr(at_, text_.find('\n', at_) - at_);
    fail(expected, rest.empty() ? "the end of the line" : io::quote(rest));
  }

  bool at_end() const { return at_ == text_.size(); }
  char peek() const { return at_end() ? '\0' : text_[at_]; }
  bool take(char c) {
    if (peek() != c) return false;
    ++at_;
    return true;
  }
  void expect(char c) {
    skip(false);
    if (!take(c)) fail(fmt::format("'{}'", c));
    skip(false);
  }

  // White space and comments; line ends too when `lines`.
  void skip(bool lines) {
    for (; !at_end(); ++at_) {
      if (peek() == '#') at_ = std::min(text_.find('\n', at_), text_.size());
      if (peek() == '\n' && lines)
        ++line_;
      else if (peek() != ' ' && peek() != '\t' && peek() != '\r')
        return;
    }
  }
  void end_of_line() {
    skip(false);
    if (!at_end() && peek() != '\n') fail("the end of the line");
  }

  static bool is_bare(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           c == '-';
  }
  std::vector<std::string> keys() {
    std::vector<std::string> path;
    do {
      skip(false);
      if (peek() == '"' || peek() == '\'') {
        path.push_back(string());
      } else {
        const size_t begin = at_;
        while (is_bare(peek())) ++at_;
        if (at_ == begin) fail("a key");
        path.emplace_back(text_.substr(begin, at_ - begin));
      }
      skip(false);
      if (path.size() > kMaxKeys) fail(fmt::format("at most {} keys joined by dots", kMaxKeys));
    } while (take('.'));
    return path;
  }

  std::string string() {
    const char mark = text_[at_++];
    std::string value;
    while (!take(mark)) {
      if (at_end() || peek() == '\n') fail(fmt::format("a closing {}", mark));
      const char c = text_[at_++];
      value += c == '\\' && mark == '"' ? escape() : std::string(1, c);
    }
    if (value.empty() && peek() == mark) fail("a string of one line", "one of several");
    return value;
  }
  std::string escape() {
    constexpr std::string_view kFrom = "\"\\bfnrt", kTo = "\"\\\b\f\n\r\t";
    const char c = peek();
    ++at_;
    if (const size_t i = kFrom.find(c); i != kFrom.npos) return {kTo[i]};
    const size_t digits = c == 'u' ? 4 : c == 'U' ? 8 : 0;
    uint32_t code = 0;
    const std::string_view hex = text_.substr(std::min(at_, text_.size()), digits);
    const auto [end, error] = std::from_chars(hex.data(), hex.data() + hex.size(), code, 16);
    const bool complete = digits > 0 && hex.size() == digits && end == hex.data() + digits;
    if (error != std::errc() || !complete || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000))
      fail("an escape of TOML", io::quote(fmt::format("\\{}{}", c, hex)));
    at_ += digits;
    std::string text;
    append_utf8(text, static_cast<char32_t>(code));
    return text;
  }

  io::Json value() {
    if (peek() == '"' || peek() == '\'') return string();
    if (take('[')) return list();
    const size_t begin = at_;
    while (!at_end() && std::string_view(" \t\r\n,]#").find(peek()) == std::string_view::npos)
      ++at_;
    std::string word(text_.substr(begin, at_ - begin));
    if (word == "true" || word == "false") return word == "true";
    std::string digits = word;
    std::erase(digits, '_');
    if (digits.starts_with('+')) digits.erase(0, 1);
    const char* last = digits.data() + digits.size();
    int64_t whole = 0;
    if (const auto r = std::from_chars(digits.data(), last, whole);
        r.ec == std::errc() && r.ptr == last)
      return whole;
    double number = 0;
    if (const auto r = std::from_chars(digits.data(), last, number);
        r.ec == std::errc() && r.ptr == last && number - number == 0)
      return number;
    fail("a string, a number, true, false or a list", word.empty() ? "none" : io::quote(word));
  }
  io::Json list() {
    io::Json values = io::Json::array();
    for (skip(true); !take(']'); skip(true)) {
      if (!values.empty()) {
        if (!take(',')) fail("',' or ']'");
        skip(true);
        if (take(']')) break;
      }
      if (peek() == '[') fail("a value", "a list in a list");
      values.push_back(value());
    }
    return values;
  }

  void add(io::Json& root, const std::vector<std::string>& path, io::Json value) const {
    io::Json* table = &root;
    for (size_t i = 0; i + 1 < path.size(); ++i) {
      table = &(*table)[path[i]];
      if (table->is_null()) *table = io::Json::object();
      if (!table->is_object()) fail("a table", "a value with that key above");
    }
    io::Json& place = (*table)[path.back()];
    if (!place.is_null()) throw_error("{}: line {}: {} is set twice", name_, line_, path.back());
    place = std::move(value);
  }

  std::string_view text_;
  const std::string& name_;
  size_t at_ = 0;
  int64_t line_ = 1;
};

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

}  // namespace

io::Json parse_toml(std::string_view text, const std::string& name) {
  if (const auto bad = find_invalid_utf8(text))
    throw_error("{}: byte {}: expected UTF-8, found 0x{:02x}", name, *bad,
                static_cast<uint8_t>(text[*bad]));
  return TomlReader(text, name).read();
}

std::vector<ConfigEntry> read_config_file(const std::string& path) {
  const std::string text = io::read_file(path, kMaxBytes);
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool json = path.ends_with(".json") ||
                    (!path.ends_with(".toml") && first != text.npos && text[first] == '{');
  const io::Json root = json ? io::parse_json(text, path) : parse_toml(text, path);
  if (!root.is_object())
    throw_error("{}: expected an object of settings, found {}", path, io::describe(root));
  std::vector<ConfigEntry> entries;
  flatten(root, "", path, entries);
  return entries;
}

}  // namespace refrain::cli
