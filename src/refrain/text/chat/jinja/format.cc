// Python's `%` and str.format().
#include "refrain/text/chat/jinja/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/operators.h"

namespace refrain::text::jinja {
namespace {

// How one value is written; both ways of formatting end here.
struct Spec {
  char32_t fill = ' ';
  char align = 0;  // < > ^ =; 0: as the type has it
  char sign = '-';
  bool alternate = false;
  char grouping = 0;
  int64_t width = 0;
  std::optional<int64_t> precision;
  char type = 0;
};

size_t count_characters(std::string_view text) {
  size_t count = 0;
  for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

std::string grouped(std::string digits, char separator, size_t size) {
  if (separator)
    for (size_t at = digits.size(); at > size; at -= size) digits.insert(at - size, 1, separator);
  return digits;
}

// Sign and prefix before `digits`, and the width around or between them.
std::string finish(Runtime& rt, bool minus, const std::string& prefix, std::string digits,
                   const Spec& spec) {
  std::string head = minus ? "-" : spec.sign == '-' ? "" : std::string(1, spec.sign);
  head += prefix;
  if (spec.align == '=')
    return head + padded(rt, std::move(digits), spec.width - static_cast<int64_t>(head.size()),
                         spec.fill, '>');
  return padded(rt, head + digits, spec.width, spec.fill, spec.align ? spec.align : '>');
}

std::string format_integer(Runtime& rt, int64_t value, const Spec& spec) {
  const int base = spec.type == 'x' || spec.type == 'X' ? 16
                   : spec.type == 'o'                   ? 8
                   : spec.type == 'b'                   ? 2
                                                        : 10;
  const uint64_t size = value < 0 ? 0 - static_cast<uint64_t>(value) : static_cast<uint64_t>(value);
  char buffer[80];
  const auto end = std::to_chars(buffer, buffer + sizeof buffer, size, base);
  std::string digits(buffer, end.ptr);
  std::string prefix;
  if (spec.alternate && base != 10)
    prefix = std::string("0") + (spec.type == 'X' ? 'x' : spec.type);
  if (spec.type == 'X') {
    for (char& c : digits) c = static_cast<char>(c >= 'a' ? c - 32 : c);
    if (!prefix.empty()) prefix[1] = 'X';
  }
  return finish(rt, value < 0, prefix, grouped(digits, spec.grouping, base == 10 ? 3 : 4), spec);
}

std::string format_double(Runtime& rt, double value, const Spec& spec) {
  constexpr int64_t kMostPlaces = 1000;
  const int64_t places = spec.precision.value_or(6);
  if (places > kMostPlaces) rt.fail("a number with more than {} places", kMostPlaces);
  const auto digits_of = [&](double number) -> std::string {
    const int n = static_cast<int>(places);
    switch (spec.type) {
      case 0:
        if (!spec.precision) return repr(number);
        return fmt::format("{:.{}g}", number, std::max(n, 1));
      case 'e':
        return spec.alternate ? fmt::format("{:#.{}e}", number, n)
                              : fmt::format("{:.{}e}", number, n);
      case 'E':
        return spec.alternate ? fmt::format("{:#.{}E}", number, n)
                              : fmt::format("{:.{}E}", number, n);
      case 'g':
        return fmt::format("{:.{}g}", number, std::max(n, 1));
      case 'G':
        return fmt::format("{:.{}G}", number, std::max(n, 1));
      case '%':
        return fmt::format("{:.{}f}%", number * 100, n);
      default:
        return fmt::format("{:.{}f}", number, n);
    }
  };
  const bool minus = std::signbit(value) && !std::isnan(value);
  if (!std::isfinite(value)) {
    std::string name = std::isnan(value) ? "nan" : "inf";
    if (spec.type == 'E' || spec.type == 'G' || spec.type == 'F')
      for (char& c : name) c = static_cast<char>(c - 32);
    if (spec.type == '%') name += '%';
    return finish(rt, minus, "", name, spec);
  }
  std::string digits = digits_of(std::fabs(value));
  const size_t whole = std::min(digits.find_first_not_of("0123456789"), digits.size());
  return finish(rt, minus, "",
                grouped(digits.substr(0, whole), spec.grouping, 3) + digits.substr(whole), spec);
}

std::string format_text(Runtime& rt, std::string text, const Spec& spec) {
  if (spec.precision && count_characters(text) > static_cast<uint64_t>(*spec.precision)) {
    const Value whole = rt.text(std::move(text));
    text = characters(whole.text(), 0, static_cast<size_t>(*spec.precision));
  }
  return padded(rt, std::move(text), spec.width, spec.fill, spec.align ? spec.align : '<');
}

class Reader {
 public:
  Reader(const Runtime& rt, std::string_view text) : rt_(rt), text_(text) {}
  bool done() const { return at_ >= text_.size(); }
  char peek() const { return done() ? '\0' : text_[at_]; }
  char next(const char* what) {
    if (done()) rt_.fail("incomplete format: expected {}", what);
    return text_[at_++];
  }
  bool skip(char c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  std::optional<int64_t> number() {
    int64_t value = 0;
    const size_t start = at_;
    while (!done() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = std::min<int64_t>(value * 10 + (text_[at_++] - '0'), INT32_MAX);
    }
    return at_ == start ? std::nullopt : std::optional(value);
  }
  std::string_view up_to(char c, const char* what) {
    const size_t end = text_.find(c, at_);
    if (end == text_.npos) rt_.fail("incomplete format: expected {}", what);
    const std::string_view part = text_.substr(at_, end - at_);
    at_ = end + 1;
    return part;
  }
  std::string_view rest() const { return text_.substr(at_); }
  void advance(size_t bytes) { at_ += bytes; }

 private:
  const Runtime& rt_;
  std::string_view text_;
  size_t at_ = 0;
};

// The values after `%`, one after another or by name.
class PercentArguments {
 public:
  PercentArguments(Runtime& rt, const Value& of) : rt_(rt), of_(of) {}

  Value named(std::string_view name) {
    if (!of_.is(Kind::kMap)) rt_.fail("format requires a mapping");
    const Value* found = of_.map().find(name);
    if (!found) rt_.fail("the format asks for '{}', which is missing", name);
    used_ = true;
    return *found;
  }
  Value next() {
    if (of_.is(Kind::kTuple)) {
      if (at_ >= of_.list().items.size()) rt_.fail("not enough arguments for format string");
      return of_.list().items[at_++];
    }
    if (at_++) rt_.fail("not enough arguments for format string");
    return of_;
  }
  int64_t next_integer() {
    const Value value = next();
    if (!value.is_integer()) rt_.fail("* wants int");
    return value.integer();
  }
  void finish() const {
    // What has items counts as a mapping, whose values need not all be asked for.
    const bool mapping =
        of_.is(Kind::kMap) || of_.is(Kind::kList) || of_.is(Kind::kRange) || of_.is_undefined();
    const bool left =
        of_.is(Kind::kTuple) ? at_ < of_.list().items.size() : !at_ && !mapping && !used_;
    if (left) rt_.fail("not all arguments converted during string formatting");
  }

 private:
  Runtime& rt_;
  const Value& of_;
  size_t at_ = 0;
  bool used_ = false;
};

std::string percent_number(Runtime& rt, const Value& value, Spec spec, char type) {
  const bool wants_integer = type == 'x' || type == 'X' || type == 'o';
  if (!value.is_number() || (wants_integer && !value.is_integer()))
    rt.fail("%{} format: {} is required, not {}", type,
            wants_integer ? "an integer" : "a real number", type_name(value));
  if (type == 'd' || type == 'i' || type == 'u' || wants_integer) {
    double whole = value.is_integer() ? 0 : std::trunc(value.number());
    if (!std::isfinite(whole) || std::fabs(whole) >= 9.2e18)
      rt.fail("an integer that 64 bits cannot hold");
    spec.type = wants_integer ? type : 'd';
    if (spec.precision && spec.precision > 64) rt.fail("a number with more than 64 places");
    Spec bare;
    bare.sign = spec.sign;
    bare.alternate = spec.alternate;
    bare.type = spec.type;
    std::string digits = format_integer(
        rt, value.is_integer() ? value.integer() : static_cast<int64_t>(whole), bare);
    if (const auto places = static_cast<size_t>(spec.precision.value_or(0))) {
      const size_t head = digits.find_first_of("0123456789");
      if (digits.size() - head < places) digits.insert(head, places - (digits.size() - head), '0');
    }
    const size_t head = digits.find_first_of("0123456789abcdefABCDEF");
    if (spec.align != '=')
      return padded(rt, std::move(digits), spec.width, ' ', spec.align ? spec.align : '>');
    return digits.substr(0, head) +
           padded(rt, digits.substr(head), spec.width - static_cast<int64_t>(head), '0', '>');
  }
  spec.type = type;
  return format_double(rt, value.number(), spec);
}

}  // namespace

std::string padded(Runtime& rt, std::string text, int64_t width, char32_t fill, char align) {
  const auto length = static_cast<int64_t>(count_characters(text));
  if (width <= length) return text;
  const auto count = static_cast<size_t>(width - length);
  std::string one;
  append_utf8(one, fill);
  rt.room(one.size(), count);
  rt.step(static_cast<int64_t>(count / 64));
  const size_t odd = align == 'c' ? count & static_cast<size_t>(width) & 1 : 0;
  const size_t before = align == '<' ? 0 : align == '>' ? count : count / 2 + odd;
  std::string made;
  for (size_t i = 0; i < before; ++i) made += one;
  made += text;
  for (size_t i = before; i < count; ++i) made += one;
  return made;
}

std::string format_percent(Runtime& rt, const Value& format, const Value& arguments) {
  const auto text_of = [&](const Value& value, bool as_repr) {
    std::string text = as_repr ? repr(rt, value) : to_text(rt, value);
    const bool escapes = format.text().markup && !(value.is_text() && value.text().markup);
    return escapes ? escaped(rt, text) : text;
  };
  Reader reader(rt, format.text().bytes);
  PercentArguments values(rt, arguments);
  std::string made;
  while (!reader.done()) {
    rt.step();
    rt.room(made.size());
    const std::string_view rest = reader.rest();
    const size_t plain = std::min(rest.find('%'), rest.size());
    made += rest.substr(0, plain);
    reader.advance(plain);
    if (!reader.skip('%')) break;
    std::optional<Value> named;
    if (reader.skip('(')) named = values.named(reader.up_to(')', "')'"));
    Spec spec;
    bool zero = false;
    for (bool flags = true; flags;) {
      switch (reader.peek()) {
        case '-':
          spec.align = '<';
          break;
        case '+':
          spec.sign = '+';
          break;
        case ' ':
          if (spec.sign == '-') spec.sign = ' ';
          break;
        case '#':
          spec.alternate = true;
          break;
        case '0':
          zero = true;
          break;
        default:
          flags = false;
          continue;
      }
      reader.advance(1);
    }
    if (reader.skip('*')) {
      spec.width = values.next_integer();
      if (spec.width < 0) {
        spec.align = '<';
        spec.width = spec.width < -INT32_MAX ? INT32_MAX : -spec.width;
      }
    } else {
      spec.width = reader.number().value_or(0);
    }
    if (reader.skip('.'))
      spec.precision = reader.skip('*') ? std::max<int64_t>(values.next_integer(), 0)
                                        : reader.number().value_or(0);
    while (reader.peek() == 'h' || reader.peek() == 'l' || reader.peek() == 'L') reader.advance(1);
    const char type = reader.next("a type");
    if (type == '%') {
      made += '%';
      continue;
    }
    const Value value = named ? *named : values.next();
    if (type == 's' || type == 'r' || type == 'a') {
      Spec of;
      of.align = spec.align ? spec.align : '>';
      of.width = spec.width;
      of.precision = spec.precision;
      made += format_text(rt, text_of(value, type != 's'), of);
    } else if (type == 'c') {
      std::string one;
      if (value.is_text() && value.text().length == 1) {
        one = value.text().bytes;
      } else if (value.is_integer() && value.integer() >= 0 && value.integer() <= 0x10FFFF &&
                 (value.integer() < 0xD800 || value.integer() > 0xDFFF)) {
        append_utf8(one, static_cast<char32_t>(value.integer()));
      } else {
        rt.fail("%c requires int or char");
      }
      made += padded(rt, one, spec.width, ' ', spec.align ? spec.align : '>');
    } else if (std::string_view("diuxXoeEfFgG").find(type) != std::string_view::npos) {
      if (zero && !spec.align) {
        spec.align = '=';
        spec.fill = '0';
      }
      made += percent_number(rt, value, spec, type);
    } else {
      rt.fail("unsupported format character '{}'", type);
    }
  }
  values.finish();
  return made;
}

namespace {

class BraceFormatter {
 public:
  BraceFormatter(Runtime& rt, const Arguments& arguments, bool escapes)
      : rt_(rt), arguments_(arguments), escapes_(escapes) {}

  std::string format(std::string_view text, int depth) {
    if (depth > 2) rt_.fail("Max string recursion exceeded");
    std::string made;
    for (size_t at = 0; at < text.size();) {
      rt_.step();
      rt_.room(made.size());
      const size_t brace = text.find_first_of("{}", at);
      made += text.substr(at, brace - at);
      if (brace == text.npos) break;
      const bool doubled = brace + 1 < text.size() && text[brace + 1] == text[brace];
      if (doubled) {
        made += text[brace];
        at = brace + 2;
        continue;
      }
      if (text[brace] == '}') rt_.fail("Single '}}' encountered in format string");
      size_t end = brace + 1;
      for (int open = 1; open > 0; ++end) {
        if (end >= text.size()) rt_.fail("expected '}}' before end of string");
        open += text[end] == '{' ? 1 : text[end] == '}' ? -1 : 0;
      }
      made += field(text.substr(brace + 1, end - brace - 2), depth);
      at = end;
    }
    return made;
  }

 private:
  std::string field(std::string_view text, int depth) {
    size_t end = 0;
    for (int brackets = 0; end < text.size(); ++end) {
      brackets += text[end] == '[' ? 1 : text[end] == ']' ? -1 : 0;
      if (brackets <= 0 && (text[end] == '!' || text[end] == ':')) break;
    }
    Value value = lookup(text.substr(0, end));
    std::string_view rest = text.substr(end);
    if (rest.starts_with('!')) {
      if (rest.size() < 2 || (rest.size() > 2 && rest[2] != ':'))
        rt_.fail("expected ':' after conversion specifier");
      if (rest[1] != 's' && rest[1] != 'r') rt_.fail("Unknown conversion specifier '{}'", rest[1]);
      value = rt_.text(rest[1] == 'r' ? repr(rt_, value) : to_text(rt_, value));
      rest.remove_prefix(2);
    }
    const std::string made = write(value, rest.empty() ? "" : format(rest.substr(1), depth + 1));
    const bool markup = value.is_text() && value.text().markup;
    if (escapes_ && markup && rest.size() > 1)
      rt_.fail("Unsupported format specification for Markup.");
    return escapes_ && !markup ? escaped(rt_, made) : made;
  }

  Value lookup(std::string_view text) {
    size_t end = std::min(text.find_first_of(".["), text.size());
    Value value = first(text.substr(0, end));
    while (end < text.size()) {
      if (text[end] == '.') {
        const size_t stop = std::min(text.find_first_of(".[", end + 1), text.size());
        value = attribute_of(rt_, value, std::string(text.substr(end + 1, stop - end - 1)));
        end = stop;
      } else {
        const size_t stop = text.find(']', end);
        if (text[end] != '[' || stop == text.npos) rt_.fail("expected ']' in format string");
        const std::string_view key = text.substr(end + 1, stop - end - 1);
        Reader reader(rt_, key);
        const auto index = reader.number();
        value = item_of(rt_, value,
                        index && reader.done() ? Value::of(*index) : rt_.text(std::string(key)));
        end = stop + 1;
      }
    }
    return value;
  }

  Value first(std::string_view name) {
    Reader reader(rt_, name);
    const auto index = reader.number();
    if (name.empty() || (index && reader.done())) {
      if (name.empty() ? manual_ : at_ > 0)
        rt_.fail("cannot switch between manual and automatic field numbering");
      if (!name.empty()) manual_ = true;
      const size_t i = name.empty() ? at_++ : static_cast<size_t>(*index);
      if (i >= arguments_.positional.size())
        rt_.fail("Replacement index {} out of range for positional args tuple", i);
      return arguments_.positional[i];
    }
    for (const auto& [key, value] : arguments_.named)
      if (key == name) return value;
    rt_.fail("the format asks for '{}', which is missing", name);
  }

  std::string write(const Value& value, const std::string& text) {
    Spec spec;
    Reader reader(rt_, text);
    const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
    if (!text.empty()) {
      const CodePoint fill = decode_utf8(text);
      if (fill.bytes < text.size() && is_align(text[fill.bytes])) {
        spec.fill = fill.code;
        spec.align = text[fill.bytes];
        reader.advance(fill.bytes + 1);
      } else if (is_align(text[0])) {
        spec.align = text[0];
        reader.advance(1);
      }
    }
    if (reader.peek() == '+' || reader.peek() == '-' || reader.peek() == ' ')
      spec.sign = reader.next("a sign");
    spec.alternate = reader.skip('#');
    if (reader.skip('0') && !spec.align) {
      spec.fill = '0';
      spec.align = '=';
    }
    spec.width = reader.number().value_or(0);
    if (reader.peek() == ',' || reader.peek() == '_') spec.grouping = reader.next("a separator");
    if (reader.skip('.')) {
      spec.precision = reader.number();
      if (!spec.precision) rt_.fail("Format specifier missing precision");
    }
    if (!reader.done()) spec.type = reader.next("a type");
    if (!reader.done()) rt_.fail("Invalid format specifier");
    const std::string_view integer = "bdoxXn", number = "eEfFgG%";
    if (value.is_integer() &&
        (integer.find(spec.type) != integer.npos || (spec.type == 0 && value.is(Kind::kInt)))) {
      if (spec.precision) rt_.fail("Precision not allowed in integer format specifier");
      return format_integer(rt_, value.integer(), spec);
    }
    if (value.is_number() &&
        (number.find(spec.type) != number.npos || (spec.type == 0 && value.is(Kind::kDouble))))
      return format_double(rt_, value.number(), spec);
    if (value.is_text() && (spec.type == 0 || spec.type == 's')) {
      if (spec.align == '=') spec.align = '<';
      return format_text(rt_, value.text().bytes, spec);
    }
    if (text.empty()) return to_text(rt_, value);
    rt_.fail("a format '{}' that is not supported of {}", text, type_name(value));
  }

  Runtime& rt_;
  const Arguments& arguments_;
  const bool escapes_;
  size_t at_ = 0;
  bool manual_ = false;
};

}  // namespace

std::string format_braces(Runtime& rt, const Text& format, const Arguments& arguments) {
  return BraceFormatter(rt, arguments, format.markup).format(format.bytes, 0);
}

}  // namespace refrain::text::jinja
