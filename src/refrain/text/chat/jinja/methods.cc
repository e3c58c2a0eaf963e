// Methods of Python's str, dict, list and tuple, and of `loop`.
#include <algorithm>
#include <unordered_map>

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/operators.h"
#include "refrain/text/chat/unicode.h"

namespace refrain::text::jinja {
namespace {

using Method = Value (*)(Runtime& rt, const Value& self, Arguments& arguments);
using Methods = std::unordered_map<std::string_view, Method>;

void no_arguments(Runtime& rt, std::string_view name, const Arguments& arguments) {
  Bound(rt, name, arguments, {{}, 0});
}

Value like(Runtime& rt, const Text& self, std::string_view text) {
  return rt.text(std::string(text), self.markup);
}

Value texts(Runtime& rt, const Text& self, const std::vector<std::string_view>& parts,
            Kind kind = Kind::kList) {
  rt.room(sizeof(Value), parts.size());
  std::vector<Value> made;
  made.reserve(parts.size());
  for (const std::string_view part : parts) made.push_back(like(rt, self, part));
  rt.step(static_cast<int64_t>(parts.size()));
  return rt.list(std::move(made), kind);
}

template <bool left, bool right>
Value do_strip(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "strip", arguments, {{"chars"}, 0});
  const Value* characters = bound[0] && !bound[0]->is_none() ? bound[0] : nullptr;
  if (characters) (void)bound.text(0);
  return like(rt, self.text(), strip(self.text().bytes, characters, left, right));
}

template <std::string (*change)(std::string_view)>
Value do_change(Runtime& rt, const Value& self, Arguments& arguments) {
  no_arguments(rt, "the method", arguments);
  rt.room(3, self.text().bytes.size());
  return rt.text(change(self.text().bytes), self.text().markup);
}

std::vector<std::string_view> split_at_spaces(std::string_view text, size_t most, bool from_right) {
  std::vector<std::string_view> parts;
  text = strip(text, nullptr, !from_right, from_right);
  if (from_right) {
    while (!text.empty()) {
      if (parts.size() == most) {
        parts.push_back(text);
        break;
      }
      size_t begin = text.size();
      while (begin > 0) {
        size_t last = begin - 1;
        while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
        if (unicode::is_space(decode_utf8(text.substr(last)).code)) break;
        begin = last;
      }
      parts.push_back(text.substr(begin));
      text = strip(text.substr(0, begin), nullptr, false, true);
    }
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  while (!text.empty()) {
    if (parts.size() == most) {
      parts.push_back(text);
      break;
    }
    size_t end = 0;
    while (end < text.size()) {
      const CodePoint next = decode_utf8(text.substr(end));
      if (unicode::is_space(next.code)) break;
      end += next.bytes;
    }
    parts.push_back(text.substr(0, end));
    text = strip(text.substr(end), nullptr, true, false);
  }
  return parts;
}

template <bool from_right>
Value do_split(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "split", arguments, {{"sep", "maxsplit"}, 0});
  const int64_t count = bound.integer(1, -1);
  const size_t most = count < 0 ? SIZE_MAX : static_cast<size_t>(count);
  std::string_view text = self.text().bytes;
  rt.step(static_cast<int64_t>(text.size() / 16));
  rt.room(sizeof(std::string_view), text.size() / 2);
  if (!bound[0] || bound[0]->is_none())
    return texts(rt, self.text(), split_at_spaces(text, most, from_right));
  const std::string& separator = bound.text(0);
  if (separator.empty()) rt.fail("empty separator");
  std::vector<std::string_view> parts;
  if (from_right) {
    while (parts.size() < most) {
      const size_t at = text.rfind(separator);
      if (at == text.npos) break;
      parts.push_back(text.substr(at + separator.size()));
      text = text.substr(0, at);
    }
    parts.push_back(text);
    std::reverse(parts.begin(), parts.end());
  } else {
    while (parts.size() < most) {
      const size_t at = text.find(separator);
      if (at == text.npos) break;
      parts.push_back(text.substr(0, at));
      text.remove_prefix(at + separator.size());
    }
    parts.push_back(text);
  }
  return texts(rt, self.text(), parts);
}

Value do_splitlines(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "splitlines", arguments, {{"keepends"}, 0});
  rt.room(sizeof(std::string_view), self.text().bytes.size());
  return texts(rt, self.text(), split_lines(self.text().bytes, bound.flag(0)));
}

// The part of the text between two indices, and the index of its start.
struct Part {
  std::string_view text;
  int64_t start;
  bool valid;  // not from behind the end
};
Part part_of(const Text& text, const Bound& bound, size_t first) {
  const auto length = static_cast<int64_t>(text.length);
  const auto index = [&](int64_t i) { return i < 0 ? std::max<int64_t>(i + length, 0) : i; };
  const int64_t start = index(std::max<int64_t>(bound.integer(first, 0), -length));
  const int64_t stop =
      std::min(index(std::max<int64_t>(bound.integer(first + 1, length), -length)), length);
  if (start > length || start > stop) return {{}, start, false};
  return {characters(text, static_cast<size_t>(start), static_cast<size_t>(stop - start)), start,
          true};
}

template <bool at_end>
Value do_starts(Runtime& rt, const Value& self, Arguments& arguments) {
  const char* name = at_end ? "endswith" : "startswith";
  const Bound bound(rt, name, arguments, {{"prefix", "start", "end"}, 1});
  const Part part = part_of(self.text(), bound, 1);
  const auto matches = [&](const Value& affix) {
    refuse_undefined(rt, affix);
    if (!affix.is_text())
      rt.fail("{} first arg must be str or a tuple of str, not {}", name, type_name(affix));
    const std::string& text = affix.text().bytes;
    return part.valid && (at_end ? part.text.ends_with(text) : part.text.starts_with(text));
  };
  if (!bound[0]->is(Kind::kTuple)) return Value::of(matches(*bound[0]));
  for (const Value& affix : bound[0]->list().items)
    if (matches(affix)) return Value::of(true);
  return Value::of(false);
}

template <bool from_right, bool must>
Value do_find(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "find", arguments, {{"sub", "start", "end"}, 1});
  const Part part = part_of(self.text(), bound, 1);
  const std::string& wanted = bound.text(0);
  rt.step(static_cast<int64_t>(part.text.size() / 16));
  const size_t at = !part.valid  ? part.text.npos
                    : from_right ? part.text.rfind(wanted)
                                 : part.text.find(wanted);
  if (at == part.text.npos) {
    if (must) rt.fail("substring not found");
    return Value::of(int64_t{-1});
  }
  int64_t before = 0;
  for (const char c : part.text.substr(0, at))
    before += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return Value::of(part.start + before);
}

Value do_count(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "count", arguments, {{"sub", "start", "end"}, 1});
  const Part part = part_of(self.text(), bound, 1);
  const std::string& wanted = bound.text(0);
  rt.step(static_cast<int64_t>(part.text.size() / 16));
  int64_t count = 0;
  if (!part.valid) return Value::of(count);
  if (wanted.empty()) {
    for (const char c : part.text) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
    return Value::of(count + 1);
  }
  for (size_t at = part.text.find(wanted); at != part.text.npos;
       at = part.text.find(wanted, at + wanted.size()))
    ++count;
  return Value::of(count);
}

Value do_replace(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "replace", arguments, {{"old", "new", "count"}, 2});
  const std::string& text = self.text().bytes;
  const std::string& old = bound.text(0);
  std::string to = bound.text(1);
  if (self.text().markup && !bound[1]->text().markup) to = escaped(rt, to);
  int64_t left = bound.integer(2, -1);
  if (left < 0) left = INT64_MAX;
  rt.step(static_cast<int64_t>(text.size() / 16));
  std::string made;
  size_t at = 0;
  const auto put = [&](std::string_view part) {
    made += part;
    rt.step(static_cast<int64_t>(1 + to.size() / 64));
    rt.room(made.size() + to.size());
    made += to;
    --left;
  };
  if (old.empty()) {  // before each character and at the end
    while (left > 0) {
      put({});
      if (at >= text.size()) break;
      const size_t bytes = decode_utf8(std::string_view(text).substr(at)).bytes;
      made.append(text, at, bytes);
      at += bytes;
    }
  } else {
    for (size_t next = text.find(old); left > 0 && next != text.npos; next = text.find(old, at)) {
      put(std::string_view(text).substr(at, next - at));
      at = next + old.size();
    }
  }
  rt.room(made.size() + text.size());
  made.append(text, std::min(at, text.size()));
  return rt.text(std::move(made), self.text().markup);
}

Value do_join(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "join", arguments, {{"iterable"}, 1});
  std::string made;
  int64_t index = 0;
  Cursor cursor(rt, *bound[0]);
  for (Value item; cursor.next(item); ++index) {
    if (!item.is_text())
      rt.fail("sequence item {}: expected str instance, {} found", index, type_name(item));
    if (index) made += self.text().bytes;
    made += self.text().markup && !item.text().markup ? escaped(rt, item.text().bytes)
                                                      : item.text().bytes;
    rt.step(static_cast<int64_t>(self.text().bytes.size() / 64));
    rt.room(made.size());
  }
  return rt.text(std::move(made), self.text().markup);
}

Value do_format(Runtime& rt, const Value& self, Arguments& arguments) {
  return rt.text(format_braces(rt, self.text(), arguments), self.text().markup);
}

template <bool at_end>
Value do_remove(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "removeprefix or removesuffix", arguments, {{"affix"}, 1});
  std::string_view text = self.text().bytes;
  const std::string& affix = bound.text(0);
  if (at_end ? text.ends_with(affix) : text.starts_with(affix))
    text = at_end ? text.substr(0, text.size() - affix.size()) : text.substr(affix.size());
  return like(rt, self.text(), text);
}

template <bool from_right>
Value do_partition(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "partition", arguments, {{"sep"}, 1});
  const std::string& separator = bound.text(0);
  if (separator.empty()) rt.fail("empty separator");
  const std::string_view text = self.text().bytes;
  const size_t at = from_right ? text.rfind(separator) : text.find(separator);
  std::vector<std::string_view> parts = {text.substr(0, at), separator,
                                         at == text.npos ? "" : text.substr(at + separator.size())};
  if (at == text.npos) {
    parts = {text, "", ""};
    if (from_right) std::reverse(parts.begin(), parts.end());
  }
  return texts(rt, self.text(), parts, Kind::kTuple);
}

template <char align>
Value do_pad(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "the method", arguments, {{"width", "fillchar"}, 1});
  const std::string fill = bound.text(1, " ");
  const CodePoint one = fill.empty() ? CodePoint{0, 0, false} : decode_utf8(fill);
  if (fill.empty() || one.bytes != fill.size())
    rt.fail("The fill character must be exactly one character long");
  return rt.text(padded(rt, self.text().bytes, bound.integer(0, 0), one.code, align),
                 self.text().markup);
}

Value do_zfill(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "zfill", arguments, {{"width"}, 1});
  std::string text = padded(rt, self.text().bytes, bound.integer(0, 0), '0', '>');
  const std::string& before = self.text().bytes;
  const size_t zeros = text.size() - before.size();
  if (zeros && (before.starts_with('-') || before.starts_with('+')))
    std::swap(text[0], text[zeros]);
  return rt.text(std::move(text), self.text().markup);
}

// One character at least, and all of them with the property.
template <bool (*property)(char32_t)>
Value do_all(Runtime& rt, const Value& self, Arguments& arguments) {
  no_arguments(rt, "the method", arguments);
  const std::string_view text = self.text().bytes;
  rt.step(static_cast<int64_t>(text.size() / 16));
  for (size_t at = 0; at < text.size();) {
    const CodePoint next = decode_utf8(text.substr(at));
    if (!property(next.code)) return Value::of(false);
    at += next.bytes;
  }
  return Value::of(!text.empty());
}

template <bool upper>
Value do_is_case(Runtime& rt, const Value& self, Arguments& arguments) {
  no_arguments(rt, "the method", arguments);
  const std::string_view text = self.text().bytes;
  rt.step(static_cast<int64_t>(text.size() / 16));
  bool found = false;
  for (size_t at = 0; at < text.size();) {
    const CodePoint next = decode_utf8(text.substr(at));
    if (upper ? unicode::is_upper(next.code) : unicode::is_lower(next.code)) {
      found = true;
    } else if (unicode::is_cased(next.code)) {
      return Value::of(false);
    }
    at += next.bytes;
  }
  return Value::of(found);
}

Value do_is_ascii(Runtime& rt, const Value& self, Arguments& arguments) {
  no_arguments(rt, "isascii", arguments);
  return Value::of(self.text().ascii());
}

template <View::Of of>
Value do_view(Runtime& rt, const Value& self, Arguments& arguments) {
  no_arguments(rt, "the method", arguments);
  return rt.view(self, of);
}

Value do_get(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "get", arguments, {{"key", "default"}, 1});
  if (!hashable(*bound[0])) rt.fail("unhashable type: '{}'", type_name(*bound[0]));
  if (const Value* found = find(rt, self.map(), *bound[0])) return *found;
  return bound[1] ? *bound[1] : Value::none();
}

Value do_copy(Runtime& rt, const Value& self, Arguments& arguments) {
  no_arguments(rt, "copy", arguments);
  return self;  // neither changes
}

Value do_index(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "index", arguments, {{"value"}, 1});
  int64_t i = 0;
  Cursor cursor(rt, self);
  for (Value item; cursor.next(item); ++i)
    if (equal(rt, item, *bound[0])) return Value::of(i);
  rt.fail("the value is not in the {}", type_name(self));
}

Value do_count_items(Runtime& rt, const Value& self, Arguments& arguments) {
  const Bound bound(rt, "count", arguments, {{"value"}, 1});
  int64_t count = 0;
  Cursor cursor(rt, self);
  for (Value item; cursor.next(item);) count += equal(rt, item, *bound[0]);
  return Value::of(count);
}

Value do_cycle(Runtime& rt, const Value& self, Arguments& arguments) {
  if (arguments.positional.empty()) rt.fail("no items for cycling given");
  const auto index = static_cast<size_t>(std::max<int64_t>(self.loop().index0, 0));
  return arguments.positional[index % arguments.positional.size()];
}

Value do_changed(Runtime& rt, const Value& self, Arguments& arguments) {
  Loop& loop = self.loop();
  const auto same = [&] {
    if (!loop.last_changed || loop.last_changed->size() != arguments.positional.size())
      return false;
    for (size_t i = 0; i < arguments.positional.size(); ++i)
      if (!equal(rt, (*loop.last_changed)[i], arguments.positional[i])) return false;
    return true;
  };
  if (same()) return Value::of(false);
  loop.last_changed = arguments.positional;
  return Value::of(true);
}

bool alnum(char32_t code) { return unicode::is_alnum(code); }

const Methods& text_methods() {
  static const Methods kMethods = {
      {"capitalize", do_change<unicode::capitalize>},
      {"center", do_pad<'c'>},
      {"count", do_count},
      {"endswith", do_starts<true>},
      {"find", do_find<false, false>},
      {"format", do_format},
      {"index", do_find<false, true>},
      {"isalnum", do_all<alnum>},
      {"isalpha", do_all<unicode::is_alpha>},
      {"isascii", do_is_ascii},
      {"isdecimal", do_all<unicode::is_decimal>},
      {"isdigit", do_all<unicode::is_digit>},
      {"islower", do_is_case<false>},
      {"isnumeric", do_all<unicode::is_numeric>},
      {"isspace", do_all<unicode::is_space>},
      {"isupper", do_is_case<true>},
      {"join", do_join},
      {"ljust", do_pad<'<'>},
      {"lower", do_change<unicode::lower>},
      {"lstrip", do_strip<true, false>},
      {"partition", do_partition<false>},
      {"removeprefix", do_remove<false>},
      {"removesuffix", do_remove<true>},
      {"replace", do_replace},
      {"rfind", do_find<true, false>},
      {"rindex", do_find<true, true>},
      {"rjust", do_pad<'>'>},
      {"rpartition", do_partition<true>},
      {"rsplit", do_split<true>},
      {"rstrip", do_strip<false, true>},
      {"split", do_split<false>},
      {"splitlines", do_splitlines},
      {"startswith", do_starts<false>},
      {"strip", do_strip<true, true>},
      {"swapcase", do_change<unicode::swapcase>},
      {"title", do_change<unicode::title>},
      {"upper", do_change<unicode::upper>},
      {"zfill", do_zfill},
  };
  return kMethods;
}

const Methods& map_methods() {
  static const Methods kMethods = {{"copy", do_copy},
                                   {"get", do_get},
                                   {"items", do_view<View::Of::kItems>},
                                   {"keys", do_view<View::Of::kKeys>},
                                   {"values", do_view<View::Of::kValues>}};
  return kMethods;
}

const Methods& list_methods() {
  static const Methods kMethods = {
      {"copy", do_copy}, {"count", do_count_items}, {"index", do_index}};
  return kMethods;
}

const Methods& loop_methods() {
  static const Methods kMethods = {{"changed", do_changed}, {"cycle", do_cycle}};
  return kMethods;
}

// What would change a value, which the sandbox does not hand out.
bool changes(Kind kind, std::string_view name) {
  static constexpr std::string_view kOfLists[] = {"append", "clear",  "extend",  "insert",
                                                  "pop",    "remove", "reverse", "sort"};
  static constexpr std::string_view kOfMaps[] = {"clear", "pop", "popitem", "setdefault", "update"};
  const auto in = [&](const auto& names) {
    return std::find(std::begin(names), std::end(names), name) != std::end(names);
  };
  return (kind == Kind::kList && in(kOfLists)) || (kind == Kind::kMap && in(kOfMaps));
}

}  // namespace

std::optional<Value> method_of(Runtime& rt, const Value& value, const std::string& name) {
  static const Methods kNone;
  const Methods& methods = value.is_text()                                 ? text_methods()
                           : value.is(Kind::kMap)                          ? map_methods()
                           : value.is_sequence() || value.is(Kind::kRange) ? list_methods()
                           : value.is(Kind::kLoop)                         ? loop_methods()
                                                                           : kNone;
  if (changes(value.kind(), name))
    return rt.undefined(
        fmt::format("access to attribute '{}' of '{}' object is unsafe.", name, type_name(value)));
  const auto at = methods.find(name);
  if (at == methods.end() || (!value.is(Kind::kList) && !value.is(Kind::kMap) && name == "copy"))
    return {};
  return rt.callable(
      name,
      [self = value, method = at->second](Runtime& runtime, Arguments& arguments) {
        return method(runtime, self, arguments);
      },
      value);
}

}  // namespace refrain::text::jinja
