// Filters of single values; those of sequences are in sequence_filters.cc.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/operators.h"
#include "refrain/text/chat/unicode.h"

namespace refrain::text::jinja {
namespace {

// What Jinja's soft_str() makes: markup stays markup.
std::string soft(Runtime& rt, const Value& value) { return to_text(rt, value); }
bool is_markup(const Value& value) { return value.is_text() && value.text().markup; }

void no_arguments(Runtime& rt, std::string_view filter, const Arguments& arguments) {
  Bound(rt, filter, arguments, {{}, 0});
}

Value do_abs(Runtime& rt, const Value& value, Arguments& arguments) {
  no_arguments(rt, "abs", arguments);
  refuse_undefined(rt, value);
  if (value.is(Kind::kDouble)) return Value::of(std::fabs(value.number()));
  if (!value.is_integer()) rt.fail("bad operand type for abs(): '{}'", type_name(value));
  return value.integer() < 0 ? negative(rt, value) : Value::of(value.integer());
}

Value do_attr(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "attr", arguments, {{"name"}, 1});
  const std::string& name = bound.text(0);
  if (value.is(Kind::kMap) && !method_of(rt, value, name))
    return rt.undefined(fmt::format("'dict object' has no attribute '{}'", name));
  return attribute_of(rt, value, name);
}

template <std::string (*change)(std::string_view)>
Value do_change(Runtime& rt, const Value& value, Arguments& arguments) {
  no_arguments(rt, "the filter", arguments);
  const std::string text = soft(rt, value);
  rt.room(3, text.size());
  return rt.text(change(text), is_markup(value));
}

std::string title_of_words(std::string_view text) {
  std::string made;
  const auto separates = [](std::string_view c) {
    const char32_t code = decode_utf8(c).code;
    return code == '-' || code == '(' || code == '{' || code == '[' || code == '<' ||
           unicode::is_space(code);
  };
  for (size_t at = 0; at < text.size();) {
    const bool separator = separates(text.substr(at));
    size_t end = at;
    while (end < text.size() && separates(text.substr(end)) == separator)
      end += decode_utf8(text.substr(end)).bytes;
    const std::string_view word = text.substr(at, end - at);
    const size_t first = decode_utf8(word).bytes;
    made += unicode::upper(word.substr(0, first)) + unicode::lower(word.substr(first));
    at = end;
  }
  return made;
}

Value do_center(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "center", arguments, {{"width"}, 0});
  return rt.text(padded(rt, soft(rt, value), bound.integer(0, 80), ' ', 'c'), is_markup(value));
}

Value do_default(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "default", arguments, {{"default_value", "boolean"}, 0});
  if (!value.is_undefined() && !(bound.flag(1) && !truth(value))) return value;
  return bound[0] ? *bound[0] : rt.text({});
}

Value do_escape(Runtime& rt, const Value& value, Arguments& arguments) {
  no_arguments(rt, "escape", arguments);
  if (is_markup(value)) return value;
  return rt.text(escaped(rt, to_text(rt, value)), true);
}

Value do_force_escape(Runtime& rt, const Value& value, Arguments& arguments) {
  no_arguments(rt, "forceescape", arguments);
  return rt.text(escaped(rt, to_text(rt, value)), true);
}

Value do_safe(Runtime& rt, const Value& value, Arguments& arguments) {
  no_arguments(rt, "safe", arguments);
  return is_markup(value) ? value : rt.text(to_text(rt, value), true);
}

Value do_string(Runtime& rt, const Value& value, Arguments& arguments) {
  no_arguments(rt, "string", arguments);
  return value.is_text() ? value : rt.text(to_text(rt, value));
}

// Digits with single underscores between them and white space around, as int() and float() take
// them; nothing if an underscore is elsewhere.
std::optional<std::string> number_text(std::string_view text) {
  std::string made;
  text = strip(text, nullptr, true, true);
  for (size_t at = 0; at < text.size();) {
    const CodePoint next = decode_utf8(text.substr(at));
    if (const int digit = next.code < 0x80 ? -1 : unicode::decimal_value(next.code); digit >= 0) {
      made += static_cast<char>('0' + digit);
    } else {
      made += text.substr(at, next.bytes);
    }
    at += next.bytes;
  }
  const auto is_alnum = [&](size_t i) {
    const char c = i < made.size() ? made[i] : '\0';
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  for (size_t i = 0; i < made.size(); ++i)
    if (made[i] == '_' && !(i > 0 && is_alnum(i - 1) && is_alnum(i + 1))) return {};
  std::erase(made, '_');
  return made;
}

std::optional<double> parse_double(std::string_view text) {
  const auto digits = number_text(text);
  if (!digits || digits->empty()) return {};
  std::string_view body = *digits;
  if (body[0] == '+') body.remove_prefix(1);
  if (body.empty() || body[0] == '+') return {};
  double value = 0;
  const auto read = std::from_chars(body.data(), body.data() + body.size(), value);
  if (read.ptr != body.data() + body.size() || read.ec == std::errc::invalid_argument) return {};
  if (body.back() == ')') return {};                // nan(...)
  if (read.ec == std::errc::result_out_of_range) {  // as strtod says it: too small or too large
    const bool small = body.find("e-") != body.npos || body.find("E-") != body.npos ||
                       body.starts_with("0.") || body.starts_with("-0.");
    value = small ? 0 : HUGE_VAL;
    if (body[0] == '-') value = -value;
  }
  return value;
}

std::optional<int64_t> parse_integer(Runtime& rt, std::string_view text, int64_t base) {
  const auto digits = number_text(text);
  if (!digits) return {};
  std::string_view body = *digits;
  const bool minus = body.starts_with('-');
  if (minus || body.starts_with('+')) body.remove_prefix(1);
  if (body.size() > 2 && body[0] == '0') {
    const char mark = static_cast<char>(body[1] | 0x20);
    const int marked = mark == 'b' ? 2 : mark == 'o' ? 8 : mark == 'x' ? 16 : 0;
    if (marked && (base == marked || base == 0)) {
      body.remove_prefix(2);
      base = marked;
    }
  }
  if (base == 0) {
    if (body.size() > 1 && body[0] == '0' && body.find_first_not_of('0') != body.npos) return {};
    base = 10;
  }
  if (body.empty() || body[0] == '-' || base < 2 || base > 36) return {};
  uint64_t value = 0;
  const auto read =
      std::from_chars(body.data(), body.data() + body.size(), value, static_cast<int>(base));
  if (read.ec == std::errc::invalid_argument || read.ptr != body.data() + body.size()) return {};
  if (read.ec != std::errc() || value > uint64_t{INT64_MAX} + minus)
    rt.fail("an integer that 64 bits cannot hold");
  return static_cast<int64_t>(minus ? 0 - value : value);
}

std::optional<int64_t> truncated(Runtime& rt, double number) {
  if (!std::isfinite(number)) return {};
  if (std::fabs(number) >= 9.2233720368547758e18) rt.fail("an integer that 64 bits cannot hold");
  return static_cast<int64_t>(number);
}

Value do_int(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "int", arguments, {{"default", "base"}, 0});
  refuse_undefined(rt, value);
  const Value absent = bound[0] ? *bound[0] : Value::of(int64_t{0});
  if (value.is_integer()) return Value::of(value.integer());
  std::optional<int64_t> made;
  if (value.is(Kind::kDouble)) {
    made = truncated(rt, value.number());
  } else if (value.is_text()) {
    rt.step(static_cast<int64_t>(value.text().bytes.size() / 16));
    made = parse_integer(rt, value.text().bytes, bound.integer(1, 10));
    if (!made)
      if (const auto number = parse_double(value.text().bytes)) made = truncated(rt, *number);
  }
  return made ? Value::of(*made) : absent;
}

Value do_float(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "float", arguments, {{"default"}, 0});
  refuse_undefined(rt, value);
  if (value.is_number()) return Value::of(value.number());
  if (value.is_text()) {
    rt.step(static_cast<int64_t>(value.text().bytes.size() / 16));
    if (const auto number = parse_double(value.text().bytes)) return Value::of(*number);
  }
  return bound[0] ? *bound[0] : Value::of(0.0);
}

Value do_format(Runtime& rt, const Value& value, Arguments& arguments) {
  const Value text = value.is_text() ? value : rt.text(to_text(rt, value));
  if (!arguments.named.empty()) {
    if (!arguments.positional.empty())
      rt.fail("can't handle positional and keyword arguments at the same time");
    Members members;
    for (auto& [name, item] : arguments.named) members.emplace_back(rt.text(name), item);
    return rt.text(format_percent(rt, text, rt.map(std::move(members))));
  }
  return rt.text(format_percent(rt, text, rt.tuple(arguments.positional)));
}

Value do_indent(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "indent", arguments, {{"width", "first", "blank"}, 0});
  refuse_undefined(rt, value);
  if (!value.is_text()) rt.fail("indent() expected a str, found {}", type_name(value));
  std::string indent(4, ' ');
  if (bound[0] && bound[0]->is_text()) {
    indent = bound[0]->text().bytes;
  } else if (bound[0]) {
    const auto width = static_cast<size_t>(std::max<int64_t>(bound.integer(0, 4), 0));
    rt.room(width);
    indent.assign(width, ' ');
  }
  const bool blank = bound.flag(2);
  const std::string text = value.text().bytes + "\n";
  rt.room(sizeof(std::string_view), text.size() / 2);
  const std::vector<std::string_view> lines = split_lines(text, false);
  rt.room(indent.size(), lines.size());
  rt.step(static_cast<int64_t>(lines.size() * (1 + indent.size() / 64)));
  std::string made = bound.flag(1) ? indent : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i) {
      made += '\n';
      if (blank || !lines[i].empty()) made += indent;
    }
    made += lines[i];
  }
  return rt.text(std::move(made), value.text().markup);
}

Value do_replace(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "replace", arguments, {{"old", "new", "count"}, 2});
  Arguments passed;
  passed.positional = {rt.text(to_text(rt, *bound[0])), rt.text(to_text(rt, *bound[1])),
                       Value::of(bound.integer(2, -1))};
  const Value text = rt.text(to_text(rt, value));
  return method_of(rt, text, "replace")->callable().call(rt, passed);
}

double rounded(double value, int64_t precision) {
  if (!std::isfinite(value)) return value;
  if (precision > 320) return value;
  if (precision < -310) return std::copysign(0.0, value);
  if (precision >= 0) {  // the decimal text of that many places is rounded exactly
    const std::string text = fmt::format("{:.{}f}", value, static_cast<int>(precision));
    double made = 0;
    std::from_chars(text.data(), text.data() + text.size(), made);
    return made;
  }
  const long double unit = std::pow(10.0L, static_cast<long double>(-precision));
  return static_cast<double>(std::nearbyint(static_cast<long double>(value) / unit) * unit);
}

Value do_round(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "round", arguments, {{"precision", "method"}, 0});
  const int64_t precision = bound.integer(0, 0);
  const std::string method = bound.text(1, "common");
  if (method != "common" && method != "ceil" && method != "floor")
    rt.fail("method must be common, ceil or floor");
  refuse_undefined(rt, value);
  if (!value.is_number()) rt.fail("type {} doesn't define __round__ method", type_name(value));
  if (method == "common") {
    if (!value.is_integer()) return Value::of(rounded(value.number(), precision));
    if (precision >= 0) return Value::of(value.integer());
    if (precision < -18) return Value::of(int64_t{0});
    int64_t unit = 1;
    for (int64_t i = precision; i < 0; ++i) unit *= 10;
    int64_t quotient = value.integer() / unit, rest = value.integer() % unit;
    if (rest < 0) {
      rest += unit;
      --quotient;
    }
    if (rest > unit - rest || (rest == unit - rest && quotient % 2 != 0)) ++quotient;
    return arithmetic(rt, "*", Value::of(quotient), Value::of(unit));
  }
  const Value scale = arithmetic(rt, "**", Value::of(int64_t{10}), Value::of(precision));
  const Value scaled = arithmetic(rt, "*", value, scale);
  const double whole = method == "ceil" ? std::ceil(scaled.number()) : std::floor(scaled.number());
  return arithmetic(rt, "/", Value::of(whole), scale);
}

Value do_title(Runtime& rt, const Value& value, Arguments& arguments) {
  return do_change<title_of_words>(rt, value, arguments);
}

Value do_tojson(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "tojson", arguments,
                    {{"ensure_ascii", "indent", "separators", "sort_keys"}, 0});
  JsonForm form;
  form.ensure_ascii = bound.flag(0);
  form.sort_keys = bound.flag(3);
  if (bound[1] && !bound[1]->is_none()) {
    form.indented = true;
    form.item_separator = ",";
    if (bound[1]->is_text()) {
      form.indent = bound[1]->text().bytes;
    } else {
      const int64_t width = std::max<int64_t>(bound.integer(1, 0), 0);
      rt.room(static_cast<size_t>(width));
      form.indent.assign(static_cast<size_t>(width), ' ');
    }
  }
  if (bound[2] && !bound[2]->is_none()) {
    const std::vector<Value> both = items_of(rt, *bound[2]);
    if (both.size() != 2 || !both[0].is_text() || !both[1].is_text())
      rt.fail("tojson() expected two separators");
    form.item_separator = both[0].text().bytes;
    form.key_separator = both[1].text().bytes;
  }
  return rt.text(to_json(rt, value, form));
}

Value do_trim(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "trim", arguments, {{"chars"}, 0});
  const Value* characters = bound[0] && !bound[0]->is_none() ? bound[0] : nullptr;
  if (characters) (void)bound.text(0);
  const std::string text = soft(rt, value);
  return rt.text(std::string(strip(text, characters, true, true)), is_markup(value));
}

Value do_truncate(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "truncate", arguments, {{"length", "killwords", "end", "leeway"}, 0});
  const Value end = rt.text(bound.text(2, "..."));
  const auto length_of_end = static_cast<int64_t>(end.text().length);
  const int64_t length = bound.integer(0, 255), leeway = bound.integer(3, 5);
  if (length < length_of_end) rt.fail("expected length >= {}, got {}", length_of_end, length);
  if (leeway < 0) rt.fail("expected leeway >= 0, got {}", leeway);
  const int64_t of = length_of(rt, value);
  if (of <= length || of - length <= leeway) return value;
  if (!value.is_text()) rt.fail("truncate() expected a str, found {}", type_name(value));
  const Text& text = value.text();
  std::string kept(characters(text, 0, static_cast<size_t>(length - length_of_end)));
  if (!bound.flag(1))
    if (const size_t space = kept.rfind(' '); space != kept.npos) kept.resize(space);
  return rt.text(kept + end.text().bytes);
}

Value do_wordcount(Runtime& rt, const Value& value, Arguments& arguments) {
  no_arguments(rt, "wordcount", arguments);
  int64_t words = 0;
  bool in_word = false;
  const std::string text = soft(rt, value);
  rt.step(static_cast<int64_t>(text.size() / 16));
  for (size_t at = 0; at < text.size();) {
    const CodePoint next = decode_utf8(std::string_view(text).substr(at));
    const bool is_word = next.code == '_' || unicode::is_alnum(next.code);
    words += is_word && !in_word;
    in_word = is_word;
    at += next.bytes;
  }
  return Value::of(words);
}

}  // namespace

Filter find_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kFilters = {
      {"abs", do_abs},
      {"attr", do_attr},
      {"capitalize", do_change<unicode::capitalize>},
      {"center", do_center},
      {"d", do_default},
      {"default", do_default},
      {"e", do_escape},
      {"escape", do_escape},
      {"float", do_float},
      {"forceescape", do_force_escape},
      {"format", do_format},
      {"indent", do_indent},
      {"int", do_int},
      {"lower", do_change<unicode::lower>},
      {"replace", do_replace},
      {"round", do_round},
      {"safe", do_safe},
      {"string", do_string},
      {"title", do_title},
      {"tojson", do_tojson},
      {"trim", do_trim},
      {"truncate", do_truncate},
      {"upper", do_change<unicode::upper>},
      {"wordcount", do_wordcount},
  };
  const auto at = kFilters.find(name);
  return at == kFilters.end() ? find_sequence_filter(name) : at->second;
}

Value apply_filter(Runtime& rt, const std::string& name, const Value& value, Arguments& arguments) {
  const Filter filter = find_filter(name);
  if (!filter) rt.fail("no filter named '{}'", name);
  return filter(rt, value, arguments);
}

}  // namespace refrain::text::jinja
