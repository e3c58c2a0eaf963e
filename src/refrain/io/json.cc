#include "refrain/io/json.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/io/file.h"

namespace refrain::io {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxValues = size_t{1} << 23;
constexpr size_t kMaxQuoted = 80;

// Builds the value from the parser's events. Members are appended without looking for an equal key
// (which would cost quadratic time); duplicates are found when the object ends. With `on_member`
// the outermost object gives its members away and stays empty.
class Builder : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& name, size_t max_values = kMaxValues,
          const OnMember* on_member = nullptr)
      : text_(text), name_(name), max_values_(max_values), on_member_(on_member) {}

  Json take() { return std::move(root_); }

  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(int64_t value) override { return add(value); }
  bool number_unsigned(uint64_t value) override { return add(value); }
  bool number_float(double value, const std::string&) override { return add(value); }
  bool string(std::string& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return false; }  // JSON has none

  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool key(std::string& key) override {
    keys_.back() = std::move(key);
    return true;
  }
  bool end_object() override {
    refuse_duplicates(open_.back().get_ref<const Json::object_t&>());
    return close();
  }
  bool end_array() override { return close(); }

  bool parse_error(size_t position, const std::string&,
                   const nlohmann::detail::exception& error) override {
    const std::string_view before = text_.substr(0, std::max<size_t>(position, 1) - 1);
    const auto line = 1 + std::count(before.begin(), before.end(), '\n');
    const size_t column = before.size() - before.rfind('\n');
    // A text of one line may itself be a line of a file, which its name tells.
    const bool one_line = text_.find('\n') == text_.npos;
    throw_error("{}: {}column {}: invalid JSON: {}", name_,
                one_line ? "" : fmt::format("line {}, ", line), column, reason(error.what()));
  }

 private:
  // What the parser says, without its error code, its position and the text it had read.
  static std::string reason(std::string_view what) {
    if (const size_t at = what.find(" - "); at != what.npos) {
      what.remove_prefix(at + 3);
    } else if (const size_t code = what.find("] "); code != what.npos) {
      what.remove_prefix(code + 2);
    }
    const size_t read = what.find("; last read: "), expected = what.rfind("; expected ");
    std::string said(what.substr(0, read));
    if (expected != what.npos && expected > read) said += what.substr(expected);
    return said.substr(0, 2 * kMaxQuoted);
  }

  bool open(Json container) {
    if (open_.size() == kMaxDepth)
      throw_error("{}: JSON nested deeper than {} levels", name_, kMaxDepth);
    open_.push_back(std::move(container));
    keys_.emplace_back();
    return true;
  }

  bool close() {
    Json done = std::move(open_.back());
    open_.pop_back();
    keys_.pop_back();
    return add(std::move(done));
  }

  bool add(Json value) {
    if (++values_ > max_values_) throw_error("{}: more than {} JSON values", name_, max_values_);
    if (open_.empty()) {
      root_ = std::move(value);
    } else if (on_member_ && open_.size() == 1 && open_[0].is_object()) {
      (*on_member_)(keys_[0], std::move(value));
      values_ = 0;
    } else if (open_.back().is_array()) {
      open_.back().get_ref<Json::array_t&>().push_back(std::move(value));
    } else {
      Json::object_t::Container& members = open_.back().get_ref<Json::object_t&>();
      members.emplace_back(std::move(keys_.back()), std::move(value));
    }
    return true;
  }

  void refuse_duplicates(const Json::object_t& object) const {
    std::vector<std::string_view> keys;
    keys.reserve(object.size());
    for (const auto& [key, value] : object) keys.push_back(key);
    std::sort(keys.begin(), keys.end());
    const auto twice = std::adjacent_find(keys.begin(), keys.end());
    if (twice != keys.end()) throw_error("{}: key {} twice in one object", name_, quote(*twice));
  }

  std::string_view text_;
  const std::string& name_;
  size_t max_values_;
  const OnMember* on_member_;
  Json root_;
  std::vector<Json> open_;         // containers being filled, outermost first
  std::vector<std::string> keys_;  // for each, the key that awaits its value
  size_t values_ = 0;
};

Json build(std::string_view text, const std::string& name, Builder builder) {
  // The parser takes a zero byte for the end of the text.
  if (const size_t zero = text.find('\0'); zero != text.npos)
    throw_error("{}: invalid JSON: a zero byte at offset {}", name, zero);
  Json::sax_parse(text.begin(), text.end(), &builder);
  return builder.take();
}

std::string dump(const Json& json, int indent) {
  try {
    return json.dump(indent);
  } catch (const Json::type_error&) {
    throw_error("cannot write JSON: a string is not valid UTF-8");
  }
}

// find() where the object itself may be something else; null only when there may be a default.
const Json* lookup(const Json& object, std::string_view key, const std::string& where,
                   bool required) {
  if (!object.is_object())
    throw_error("{}: {}: expected an object with this key, found {}", where, key, describe(object));
  const Json* value = find(object, key);
  if (!value && required) throw_error("{}: {}: missing", where, key);
  return value;
}

[[noreturn]] void wrong(const Json& value, std::string_view key, const std::string& where,
                        const std::string& expected) {
  throw_error("{}: {}: expected {}, found {}", where, key, expected, describe(value));
}

}  // namespace

Json parse_json(std::string_view text, const std::string& name, size_t max_bytes) {
  if (text.size() > max_bytes)
    throw_error("{}: {} bytes of JSON, at most {} are read", name, text.size(), max_bytes);
  return build(text, name, Builder(text, name));
}

Json read_json(const std::string& path, size_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path, max_bytes);
}

void each_member(std::string_view text, const std::string& name, size_t max_values,
                 const OnMember& f) {
  const Json root = build(text, name, Builder(text, name, max_values, &f));
  if (!root.is_object()) throw_error("{}: expected an object, found {}", name, describe(root));
}

std::string to_text(const Json& json) { return dump(json, 2) + "\n"; }

std::string to_line(const Json& json) { return dump(json, -1); }

std::string quote(std::string_view text) {
  const Json shown = std::string(text.substr(0, kMaxQuoted));
  std::string quoted = shown.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > kMaxQuoted) quoted += "...";
  return quoted;
}

std::string describe(const Json& value) {
  if (value.is_object()) return "an object";
  if (value.is_array()) return "a list";
  if (value.is_string()) return quote(value.get_ref<const std::string&>());
  return value.dump();
}

const Json* find(const Json& object, std::string_view key) {
  if (!object.is_object()) return nullptr;
  for (const auto& [name, value] : object.get_ref<const Json::object_t&>())
    if (name == key) return value.is_null() ? nullptr : &value;
  return nullptr;
}

const Json& member(const Json& object, std::string_view key, const std::string& where) {
  return *lookup(object, key, where, true);
}

int64_t get_int(const Json& object, std::string_view key, const std::string& where, int64_t low,
                int64_t high, std::optional<int64_t> absent) {
  const Json* value = lookup(object, key, where, !absent);
  if (!value) return *absent;
  const bool too_large =
      value->is_number_unsigned() && value->get<uint64_t>() > uint64_t{INT64_MAX};
  if (value->is_number_integer() && !too_large) {
    const auto number = value->get<int64_t>();
    if (low <= number && number <= high) return number;
  }
  wrong(*value, key, where, fmt::format("an integer from {} to {}", low, high));
}

double get_number(const Json& object, std::string_view key, const std::string& where,
                  std::optional<double> absent) {
  const Json* value = lookup(object, key, where, !absent);
  if (!value) return *absent;
  if (!value->is_number()) wrong(*value, key, where, "a number");
  return value->get<double>();
}

bool get_bool(const Json& object, std::string_view key, const std::string& where,
              std::optional<bool> absent) {
  const Json* value = lookup(object, key, where, !absent);
  if (!value) return *absent;
  if (!value->is_boolean()) wrong(*value, key, where, "true or false");
  return value->get<bool>();
}

std::string get_string(const Json& object, std::string_view key, const std::string& where,
                       std::optional<std::string> absent) {
  const Json* value = lookup(object, key, where, !absent);
  if (!value) return *absent;
  if (!value->is_string()) wrong(*value, key, where, "a string");
  return value->get<std::string>();
}

}  // namespace refrain::io
