// str(), repr() and JSON.
#include <algorithm>
#include <charconv>
#include <cmath>

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/operators.h"
#include "refrain/text/chat/unicode.h"

namespace refrain::text::jinja {
namespace {

void append_repr(Runtime& rt, std::string& to, std::string_view text) {
  const bool single = text.find('\'') == text.npos || text.find('"') != text.npos;
  const char quote = single ? '\'' : '"';
  to += quote;
  for (size_t i = 0; i < text.size();) {
    const CodePoint next = decode_utf8(text.substr(i));
    const auto code = static_cast<uint32_t>(next.code);
    if (code == '\\' || code == static_cast<uint32_t>(quote)) {
      to += '\\';
      to += static_cast<char>(code);
    } else if (code == '\n') {
      to += "\\n";
    } else if (code == '\r') {
      to += "\\r";
    } else if (code == '\t') {
      to += "\\t";
    } else if (code < 0x7F ? code >= 0x20 : unicode::is_printable(next.code)) {
      to += text.substr(i, next.bytes);
    } else {
      to += code < 0x100     ? fmt::format("\\x{:02x}", code)
            : code < 0x10000 ? fmt::format("\\u{:04x}", code)
                             : fmt::format("\\U{:08x}", code);
    }
    i += next.bytes;
  }
  to += quote;
  rt.room(to.size());
}

void append_repr(Runtime& rt, std::string& to, const Value& value) {
  const Runtime::Deeper deeper(rt);
  rt.step(1);
  rt.room(to.size());
  const auto items = [&](const std::vector<Value>& all, const char* open, const char* close) {
    to += open;
    for (size_t i = 0; i < all.size(); ++i) {
      if (i) to += ", ";
      append_repr(rt, to, all[i]);
    }
    to += close;
  };
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      to += "Undefined";
      break;
    case Kind::kNone:
      to += "None";
      break;
    case Kind::kBool:
      to += value.integer() ? "True" : "False";
      break;
    case Kind::kInt:
      to += std::to_string(value.integer());
      break;
    case Kind::kDouble:
      to += repr(value.number());
      break;
    case Kind::kText:
      rt.step(static_cast<int64_t>(value.text().bytes.size() / 16));
      if (value.text().markup) to += "Markup(";
      append_repr(rt, to, std::string_view(value.text().bytes));
      if (value.text().markup) to += ")";
      break;
    case Kind::kList:
      items(value.list().items, "[", "]");
      break;
    case Kind::kTuple:
      items(value.list().items, "(", value.list().items.size() == 1 ? ",)" : ")");
      break;
    case Kind::kMap: {
      to += "{";
      bool first = true;
      for (const auto& [key, item] : value.map().items) {
        if (!std::exchange(first, false)) to += ", ";
        append_repr(rt, to, key);
        to += ": ";
        append_repr(rt, to, item);
      }
      to += "}";
      break;
    }
    case Kind::kRange: {
      const Range& range = value.range();
      to += fmt::format("range({}, {}", range.start, range.stop);
      to += range.step == 1 ? ")" : fmt::format(", {})", range.step);
      break;
    }
    case Kind::kView:
      to += std::string(type_name(value)) + "(";
      items(items_of(rt, value), "[", "]");
      to += ")";
      break;
    case Kind::kNamespace: {
      to += "<Namespace {";
      bool first = true;
      for (const auto& [name, item] : value.name_space().attributes) {
        if (!std::exchange(first, false)) to += ", ";
        append_repr(rt, to, std::string_view(name));
        to += ": ";
        append_repr(rt, to, item);
      }
      to += "}>";
      break;
    }
    case Kind::kLoop:
      to += fmt::format("<LoopContext {}/{}>", value.loop().index0 + 1, value.loop().count());
      break;
    case Kind::kCallable:
      if (!value.callable().is_macro) rt.fail("a function has no text");
      to += "<Macro ";
      append_repr(rt, to, std::string_view(value.callable().name));
      to += ">";
      break;
    case Kind::kIterator:
      rt.fail("a generator has no text; the filter 'list' makes a list of it");
  }
}

void append_unicode(std::string& to, uint32_t unit) { to += fmt::format("\\u{:04x}", unit); }

void append_json(Runtime& rt, std::string& to, std::string_view text, bool ensure_ascii) {
  rt.step(static_cast<int64_t>(text.size() / 16));
  rt.room(to.size() + text.size());
  to += '"';
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (c >= 0x80 && ensure_ascii) {
      const CodePoint next = decode_utf8(text.substr(i));
      const auto code = static_cast<uint32_t>(next.code);
      if (code < 0x10000) {
        append_unicode(to, code);
      } else {
        append_unicode(to, 0xD800 + ((code - 0x10000) >> 10));
        append_unicode(to, 0xDC00 + ((code - 0x10000) & 0x3FF));
      }
      i += next.bytes;
      continue;
    }
    constexpr std::string_view kFrom = "\"\\\n\r\t\f\b", kTo = "\"\\nrtfb";
    if (const size_t simple = kFrom.find(text[i]); simple != kFrom.npos) {
      to += '\\';
      to += kTo[simple];
    } else if (c < 0x20) {
      append_unicode(to, c);
    } else {
      to += text[i];
    }
    ++i;
  }
  to += '"';
  rt.room(to.size());
}

std::string json_number(double number) {
  if (std::isnan(number)) return "NaN";
  if (std::isinf(number)) return number > 0 ? "Infinity" : "-Infinity";
  return repr(number);
}

class JsonWriter {
 public:
  JsonWriter(Runtime& rt, const JsonForm& form) : rt_(rt), form_(form) {}

  std::string write(const Value& value) {
    append(value, 1);
    return std::move(to_);
  }

 private:
  void line(int level) {
    if (!form_.indented) return;
    rt_.room(to_.size() + form_.indent.size() * static_cast<size_t>(level));
    to_ += '\n';
    for (int i = 0; i < level; ++i) to_ += form_.indent;
  }

  void append(const Value& value, int level) {
    const Runtime::Deeper deeper(rt_);
    rt_.step();
    switch (value.kind()) {
      case Kind::kNone:
        to_ += "null";
        break;
      case Kind::kBool:
        to_ += value.integer() ? "true" : "false";
        break;
      case Kind::kInt:
        to_ += std::to_string(value.integer());
        break;
      case Kind::kDouble:
        to_ += json_number(value.number());
        break;
      case Kind::kText:
        append_json(rt_, to_, value.text().bytes, form_.ensure_ascii);
        break;
      case Kind::kList:
      case Kind::kTuple:
        append_list(value.list().items, level);
        break;
      case Kind::kMap:
        append_map(value.map(), level);
        break;
      default:
        rt_.fail("Object of type {} is not JSON serializable", type_name(value));
    }
    rt_.room(to_.size());
  }

  void append_list(const std::vector<Value>& items, int level) {
    if (items.empty()) {
      to_ += "[]";
      return;
    }
    to_ += '[';
    for (size_t i = 0; i < items.size(); ++i) {
      if (i) to_ += form_.item_separator;
      line(level);
      append(items[i], level + 1);
    }
    line(level - 1);
    to_ += ']';
  }

  void append_map(const Map& map, int level) {
    if (map.items.empty()) {
      to_ += "{}";
      return;
    }
    std::vector<const std::pair<Value, Value>*> members;
    rt_.room(sizeof(void*), map.items.size());
    for (const auto& member : map.items) members.push_back(&member);
    if (form_.sort_keys)
      std::stable_sort(members.begin(), members.end(), [&](const auto* a, const auto* b) {
        return ordered(rt_, "<", a->first, b->first);
      });
    to_ += '{';
    for (size_t i = 0; i < members.size(); ++i) {
      if (i) to_ += form_.item_separator;
      line(level);
      append_key(members[i]->first);
      to_ += form_.key_separator;
      append(members[i]->second, level + 1);
    }
    line(level - 1);
    to_ += '}';
  }

  void append_key(const Value& key) {
    if (key.is_text()) {
      append_json(rt_, to_, key.text().bytes, form_.ensure_ascii);
    } else if (key.is_number() || key.is_none()) {
      to_ += '"';
      append(key, 0);
      to_ += '"';
    } else {
      rt_.fail("keys must be str, int, float, bool or None, not {}", type_name(key));
    }
  }

  Runtime& rt_;
  const JsonForm& form_;
  std::string to_;
};

}  // namespace

std::string repr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number > 0 ? "inf" : "-inf";
  char buffer[64];
  const auto end =
      std::to_chars(buffer, buffer + sizeof buffer, number, std::chars_format::scientific);
  const std::string_view shortest(buffer, static_cast<size_t>(end.ptr - buffer));
  const size_t e = shortest.find('e');
  int exponent = 0;
  const char* first = shortest.data() + e + 1;
  std::from_chars(*first == '+' ? first + 1 : first, end.ptr, exponent);
  std::string digits(shortest.substr(0, e));
  std::string sign;
  if (digits[0] == '-') {
    sign = "-";
    digits.erase(0, 1);
  }
  std::erase(digits, '.');
  const int count = static_cast<int>(digits.size());
  if (exponent < -4 || exponent >= 16) {
    std::string made = sign + digits.substr(0, 1);
    if (count > 1) made += "." + digits.substr(1);
    return made + fmt::format("e{}{:02}", exponent < 0 ? '-' : '+', std::abs(exponent));
  }
  if (exponent < 0)
    return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  if (count <= exponent + 1)
    return sign + digits + std::string(static_cast<size_t>(exponent + 1 - count), '0') + ".0";
  return sign + digits.substr(0, static_cast<size_t>(exponent) + 1) + "." +
         digits.substr(static_cast<size_t>(exponent) + 1);
}

std::string repr(Runtime& rt, const Value& value) {
  std::string made;
  append_repr(rt, made, value);
  return made;
}

std::string to_text(Runtime& rt, const Value& value) {
  if (value.is_text()) return value.text().bytes;
  if (value.is_undefined()) return {};
  return repr(rt, value);
}

std::string to_json(Runtime& rt, const Value& value, const JsonForm& form) {
  return JsonWriter(rt, form).write(value);
}

}  // namespace refrain::text::jinja
