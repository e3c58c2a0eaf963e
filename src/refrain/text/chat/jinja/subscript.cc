// Attributes, items, slices and iteration.
#include <algorithm>

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/operators.h"

namespace refrain::text::jinja {
namespace {

Value no_attribute(Runtime& rt, const Value& value, const std::string& name) {
  const std::string type = value.is_none() ? "None" : fmt::format("{} object", type_name(value));
  return rt.undefined(fmt::format("'{}' has no attribute '{}'", type, name));
}

Value no_element(Runtime& rt, const Value& value, const Value& key) {
  const std::string type = value.is_none() ? "None" : fmt::format("{} object", type_name(value));
  if (key.is_text()) return no_attribute(rt, value, key.text().bytes);
  return rt.undefined(fmt::format("{} has no such element", type));
}

std::optional<Value> loop_attribute(Runtime& rt, Loop& loop, const Value& value,
                                    const std::string& name) {
  const auto number = [](int64_t i) { return Value::of(i); };
  if (name == "index0") return number(loop.index0);
  if (name == "index") return number(loop.index0 + 1);
  if (name == "first") return Value::of(loop.index0 == 0);
  if (name == "last") return Value::of(loop.peek() == nullptr);
  if (name == "length") return number(loop.count());
  if (name == "revindex") return number(loop.count() - loop.index0);
  if (name == "revindex0") return number(loop.count() - loop.index0 - 1);
  if (name == "depth") return number(loop.depth0 + 1);
  if (name == "depth0") return number(loop.depth0);
  if (name == "previtem")
    return loop.index0 == 0 ? rt.undefined("there is no previous item") : loop.previous;
  if (name == "nextitem") {
    const Value* next = loop.peek();
    return next ? *next : rt.undefined("there is no next item");
  }
  return method_of(rt, value, name);
}

// What Python finds without looking into the value.
std::optional<Value> own_attribute(Runtime& rt, const Value& value, const std::string& name) {
  if (value.is(Kind::kLoop)) return loop_attribute(rt, value.loop(), value, name);
  if (value.is(Kind::kNamespace)) {
    if (const Value* found = value.name_space().find(name)) return *found;
    return {};
  }
  if (value.is(Kind::kCallable) && value.callable().is_macro && name == "name")
    return rt.text(value.callable().name);
  return method_of(rt, value, name);
}

struct Indices {
  int64_t start, stop, step, count;
};

Indices indices_of(const Runtime& rt, const SliceBounds& bounds, int64_t length) {
  const auto bound = [&](const Value& value, int64_t absent, int64_t low, int64_t high) {
    if (value.is_none()) return absent;
    refuse_undefined(rt, value);
    if (!value.is_integer()) rt.fail("slice indices must be integers or None");
    int64_t i = value.integer();
    if (i < 0) i = i < -length ? low - length : i;
    return std::clamp(i < 0 ? i + length : i, low, high);
  };
  Indices made{};
  made.step = 1;
  if (!bounds.step.is_none()) {
    refuse_undefined(rt, bounds.step);
    if (!bounds.step.is_integer()) rt.fail("slice indices must be integers or None");
    made.step = std::max<int64_t>(bounds.step.integer(), -INT64_MAX);
    if (made.step == 0) rt.fail("slice step cannot be zero");
  }
  const bool down = made.step < 0;
  const int64_t low = down ? -1 : 0, high = down ? length - 1 : length;
  made.start = bound(bounds.start, down ? high : low, low, high);
  made.stop = bound(bounds.stop, down ? low : high, low, high);
  if (down ? made.stop < made.start : made.start < made.stop) {
    const int64_t span = down ? made.start - made.stop : made.stop - made.start;
    const int64_t stride = down ? -made.step : made.step;
    made.count = (span - 1) / stride + 1;
  }
  return made;
}

Value slice_text(Runtime& rt, const Text& text, const Indices& at) {
  if (at.count == 0) return rt.text({}, text.markup);
  if (at.step == 1)
    return rt.text(
        std::string(characters(text, static_cast<size_t>(at.start), static_cast<size_t>(at.count))),
        text.markup);
  rt.step(static_cast<int64_t>(text.bytes.size() / 8));
  rt.room(text.bytes.size() * (text.ascii() ? 1 : 1 + sizeof(size_t)));
  std::string made;
  if (text.ascii()) {
    for (int64_t i = 0; i < at.count; ++i)
      made += text.bytes[static_cast<size_t>(at.start + i * at.step)];
  } else {
    std::vector<size_t> offsets;
    for (size_t i = 0; i < text.bytes.size(); ++i)
      if ((static_cast<unsigned char>(text.bytes[i]) & 0xC0) != 0x80) offsets.push_back(i);
    offsets.push_back(text.bytes.size());
    for (int64_t i = 0; i < at.count; ++i) {
      const auto index = static_cast<size_t>(at.start + i * at.step);
      made.append(text.bytes, offsets[index], offsets[index + 1] - offsets[index]);
    }
  }
  return rt.text(std::move(made), text.markup);
}

}  // namespace

std::string_view characters(const Text& text, size_t first, size_t count) {
  const std::string_view bytes = text.bytes;
  if (text.ascii()) return bytes.substr(first, count);
  size_t begin = 0;
  const auto skip = [&](size_t from, size_t characters) {
    for (; characters > 0 && from < bytes.size(); --characters)
      from += decode_utf8(bytes.substr(from)).bytes;
    return from;
  };
  begin = skip(0, first);
  return bytes.substr(begin, skip(begin, count) - begin);
}

Value attribute_of(Runtime& rt, const Value& value, const std::string& name) {
  refuse_undefined(rt, value);
  if (auto found = own_attribute(rt, value, name)) {
    if (name.starts_with('_'))
      return rt.undefined(fmt::format("access to attribute '{}' of '{}' object is unsafe.", name,
                                      type_name(value)));
    return *found;
  }
  if (value.is(Kind::kMap)) {
    rt.step(static_cast<int64_t>(value.map().items.size() / 16));
    if (const Value* found = value.map().find(name)) return *found;
  }
  return no_attribute(rt, value, name);
}

Value item_of(Runtime& rt, const Value& value, const Value& key) {
  refuse_undefined(rt, value);
  if (value.is(Kind::kMap)) {
    if (hashable(key))
      if (const Value* found = find(rt, value.map(), key)) return *found;
  } else if (key.is_integer() &&
             (value.is_text() || value.is_sequence() || value.is(Kind::kRange))) {
    const int64_t length = length_of(rt, value);
    int64_t i = key.integer();
    if (i < 0) i += length;
    if (i < 0 || i >= length) return no_element(rt, value, key);
    if (value.is_sequence()) return value.list().items[static_cast<size_t>(i)];
    if (value.is(Kind::kRange)) return Value::of(value.range().at(i));
    if (!value.text().ascii()) rt.step(i / 16);
    return rt.text(std::string(characters(value.text(), static_cast<size_t>(i), 1)),
                   value.text().markup);
  }
  if (key.is_text()) {
    const std::string& name = key.text().bytes;
    if (auto found = own_attribute(rt, value, name); found && !name.starts_with('_')) return *found;
  }
  return no_element(rt, value, key);
}

Value slice_of(Runtime& rt, const Value& value, const SliceBounds& bounds) {
  refuse_undefined(rt, value);
  if (value.is_text())
    return slice_text(rt, value.text(),
                      indices_of(rt, bounds, static_cast<int64_t>(value.text().length)));
  if (value.is_sequence()) {
    const std::vector<Value>& items = value.list().items;
    const Indices at = indices_of(rt, bounds, static_cast<int64_t>(items.size()));
    rt.step(at.count / 8);
    rt.room(sizeof(Value), static_cast<size_t>(at.count));
    std::vector<Value> made;
    made.reserve(static_cast<size_t>(at.count));
    for (int64_t i = 0; i < at.count; ++i)
      made.push_back(items[static_cast<size_t>(at.start + i * at.step)]);
    return rt.list(std::move(made), value.kind());
  }
  if (value.is(Kind::kRange)) {
    const Range& range = value.range();
    const Indices at = indices_of(rt, bounds, range.length);
    const auto made = rt.make<Range>();
    // Bounds may be past the ends of the range, where their values may be past 64 bits.
    made->start = at.count ? range.at(at.start) : range.start;
    made->step = at.count > 1 ? range.step * at.step : 1;
    made->stop = at.count
                     ? range.at(at.start + (at.count - 1) * at.step) + (made->step > 0 ? 1 : -1)
                     : made->start;
    made->length = at.count;
    return Value(Kind::kRange, made);
  }
  if (value.is(Kind::kMap)) rt.fail("unhashable type: 'slice'");
  rt.fail("'{}' object is not subscriptable", type_name(value));
}

bool has_length(const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
    case Kind::kText:
    case Kind::kList:
    case Kind::kTuple:
    case Kind::kMap:
    case Kind::kRange:
    case Kind::kView:
    case Kind::kLoop:
      return true;
    default:
      return false;
  }
}

int64_t length_of(Runtime& rt, const Value& value) {
  switch (value.kind()) {
    case Kind::kUndefined:
      return 0;
    case Kind::kText:
      return static_cast<int64_t>(value.text().length);
    case Kind::kList:
    case Kind::kTuple:
      return static_cast<int64_t>(value.list().items.size());
    case Kind::kMap:
      return static_cast<int64_t>(value.map().items.size());
    case Kind::kRange:
      return value.range().length;
    case Kind::kView:
      return length_of(rt, value.view().map);
    case Kind::kLoop:
      return value.loop().count();
    default:
      rt.fail("object of type '{}' has no len()", type_name(value));
  }
}

bool Cursor::iterates(const Value& value) {
  return value.is(Kind::kIterator) || (has_length(value) && !value.is(Kind::kLoop));
}

Cursor::Cursor(Runtime& rt, Value of) : rt_(rt), of_(std::move(of)) {
  if (!iterates(of_)) rt_.fail("'{}' object is not iterable", type_name(of_));
}

bool Cursor::next(Value& item) {
  rt_.step();
  const auto member = [&](const Map& map, View::Of of) {
    if (at_ >= map.items.size()) return false;
    const auto& [key, value] = map.items[at_++];
    item = of == View::Of::kKeys ? key : of == View::Of::kValues ? value : rt_.tuple({key, value});
    return true;
  };
  switch (of_.kind()) {
    case Kind::kText: {
      const Text& text = of_.text();
      if (at_ >= text.bytes.size()) return false;
      const size_t bytes = decode_utf8(std::string_view(text.bytes).substr(at_)).bytes;
      item = rt_.text(text.bytes.substr(at_, bytes));
      at_ += bytes;
      return true;
    }
    case Kind::kList:
    case Kind::kTuple:
      if (at_ >= of_.list().items.size()) return false;
      item = of_.list().items[at_++];
      return true;
    case Kind::kMap:
      return member(of_.map(), View::Of::kKeys);
    case Kind::kView:
      return member(of_.view().map.map(), of_.view().of);
    case Kind::kRange:
      if (static_cast<int64_t>(at_) >= of_.range().length) return false;
      item = Value::of(of_.range().at(static_cast<int64_t>(at_++)));
      return true;
    case Kind::kIterator: {
      Iterator& iterator = of_.iterator();
      if (iterator.next < iterator.items.size()) {
        item = iterator.items[iterator.next++];
        return true;
      }
      if (iterator.error) {
        const std::string error = *std::exchange(iterator.error, std::nullopt);
        throw Error(error);
      }
      return false;
    }
    default:
      return false;
  }
}

std::vector<Value> items_of(Runtime& rt, const Value& value) {
  Cursor cursor(rt, value);
  std::vector<Value> items;
  for (Value item; cursor.next(item);) {
    rt.room(sizeof(Value), items.size() + 1);
    items.push_back(std::move(item));
  }
  return items;
}

}  // namespace refrain::text::jinja
