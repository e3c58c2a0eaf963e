#include "refrain/text/chat/jinja/operators.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/format.h"

namespace refrain::text::jinja {

bool truth(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return false;
    case Kind::kBool:
    case Kind::kInt:
      return value.integer() != 0;
    case Kind::kDouble:
      return value.number() != 0;
    case Kind::kText:
      return !value.text().bytes.empty();
    case Kind::kList:
    case Kind::kTuple:
      return !value.list().items.empty();
    case Kind::kMap:
      return !value.map().items.empty();
    case Kind::kRange:
      return value.range().length > 0;
    case Kind::kView:
      return truth(value.view().map);
    case Kind::kLoop:
      return value.loop().count() > 0;
    default:
      return true;
  }
}

bool equal(Runtime& rt, const Value& a, const Value& b) {
  rt.step();
  if (a.is_number() && b.is_number()) {
    if (a.is_integer() && b.is_integer()) return a.integer() == b.integer();
    const auto wide = [](const Value& v) {  // holds 64-bit integers and doubles
      return v.is_integer() ? static_cast<long double>(v.integer())
                            : static_cast<long double>(v.number());
    };
    return wide(a) == wide(b);
  }
  if (a.kind() != b.kind()) return false;
  switch (a.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
    case Kind::kNone:
      return true;
    case Kind::kText:
      return a.text().bytes == b.text().bytes;
    case Kind::kList:
    case Kind::kTuple: {
      const auto &x = a.list().items, &y = b.list().items;
      if (x.size() != y.size()) return false;
      for (size_t i = 0; i < x.size(); ++i)
        if (!equal(rt, x[i], y[i])) return false;
      return true;
    }
    case Kind::kMap: {
      if (a.map().items.size() != b.map().items.size()) return false;
      for (const auto& [key, value] : a.map().items) {
        const Value* other = find(rt, b.map(), key);
        if (!other || !equal(rt, value, *other)) return false;
      }
      return true;
    }
    case Kind::kRange: {
      const Range &x = a.range(), &y = b.range();
      return x.length == y.length && (x.length == 0 || x.start == y.start) &&
             (x.length < 2 || x.step == y.step);
    }
    default:
      return a.object() == b.object();
  }
}

bool ordered(Runtime& rt, std::string_view op, const Value& a, const Value& b) {
  rt.step();
  refuse_undefined(rt, a);
  refuse_undefined(rt, b);
  const auto decide = [&](const auto& x, const auto& y) {
    return op == "<" ? x < y : op == "<=" ? x <= y : op == ">" ? x > y : x >= y;
  };
  if (a.is_integer() && b.is_integer()) return decide(a.integer(), b.integer());
  if (a.is_number() && b.is_number()) {
    const auto wide = [](const Value& v) {
      return v.is_integer() ? static_cast<long double>(v.integer())
                            : static_cast<long double>(v.number());
    };
    return decide(wide(a), wide(b));
  }
  // Bytes of UTF-8 are in the order of the characters.
  if (a.is_text() && b.is_text()) return decide(a.text().bytes.compare(b.text().bytes), 0);
  if (a.is_sequence() && a.kind() == b.kind()) {
    const auto &x = a.list().items, &y = b.list().items;
    for (size_t i = 0; i < std::min(x.size(), y.size()); ++i)
      if (!equal(rt, x[i], y[i])) return ordered(rt, op, x[i], y[i]);
    return decide(x.size(), y.size());
  }
  rt.fail("'{}' not supported between instances of '{}' and '{}'", op, type_name(a), type_name(b));
}

bool hashable(const Value& key) {
  if (key.is(Kind::kTuple))
    return std::all_of(key.list().items.begin(), key.list().items.end(), hashable);
  return !key.is(Kind::kList) && !key.is(Kind::kMap) && !key.is(Kind::kView) &&
         !key.is(Kind::kNamespace);
}

const Value* find(Runtime& rt, const Map& map, const Value& key) {
  rt.step(static_cast<int64_t>(map.items.size() / 16));
  if (key.is_text()) return map.find(key.text().bytes);
  for (const auto& [name, value] : map.items)
    if (equal(rt, name, key)) return &value;
  return nullptr;
}

void put(Runtime& rt, Members& members, const Value& key, Value value) {
  if (!hashable(key)) rt.fail("unhashable type: '{}'", type_name(key));
  rt.step(static_cast<int64_t>(1 + members.size() / 16));
  for (auto& [name, old] : members) {
    const bool same = key.is_text() ? name.is_text() && name.text().bytes == key.text().bytes
                                    : equal(rt, name, key);
    if (!same) continue;
    old = std::move(value);
    return;
  }
  members.emplace_back(key, std::move(value));
}

bool contains(Runtime& rt, const Value& container, const Value& item) {
  switch (container.kind()) {
    case Kind::kText:
      if (!item.is_text())
        rt.fail("'in <string>' requires string as left operand, not {}", type_name(item));
      rt.step(static_cast<int64_t>(container.text().bytes.size() / 64));
      return container.text().bytes.find(item.text().bytes) != std::string::npos;
    case Kind::kMap:
      if (!hashable(item)) rt.fail("unhashable type: '{}'", type_name(item));
      return find(rt, container.map(), item) != nullptr;
    default:
      if (!Cursor::iterates(container))
        rt.fail("argument of type '{}' is not iterable", type_name(container));
      Cursor cursor(rt, container);
      for (Value next; cursor.next(next);)
        if (equal(rt, next, item)) return true;
      return false;
  }
}

namespace {

[[noreturn]] void unsupported(const Runtime& rt, std::string_view op, const Value& a,
                              const Value& b) {
  rt.fail("unsupported operand type(s) for {}: '{}' and '{}'", op, type_name(a), type_name(b));
}

[[noreturn]] void too_large(const Runtime& rt) { rt.fail("an integer that 64 bits cannot hold"); }

Value integers(Runtime& rt, std::string_view op, int64_t a, int64_t b) {
  int64_t result = 0;
  bool overflow = false;
  if (op == "+") {
    overflow = __builtin_add_overflow(a, b, &result);
  } else if (op == "-") {
    overflow = __builtin_sub_overflow(a, b, &result);
  } else if (op == "*") {
    overflow = __builtin_mul_overflow(a, b, &result);
  } else if (op == "**") {
    if (b < 0) {
      if (a == 0) rt.fail("0.0 cannot be raised to a negative power");
      return Value::of(std::pow(static_cast<double>(a), static_cast<double>(b)));
    }
    result = 1;
    for (int64_t base = a, left = b; left > 0; left /= 2) {
      if (left % 2) overflow |= __builtin_mul_overflow(result, base, &result);
      if (left > 1) overflow |= __builtin_mul_overflow(base, base, &base);
      if (overflow) break;
    }
  } else {
    if (b == 0)
      rt.fail("{}", op == "/" ? "division by zero" : "integer division or modulo by zero");
    if (op == "/") return Value::of(static_cast<double>(a) / static_cast<double>(b));
    if (b == -1) {  // what the machine does not divide
      if (op == "%") return Value::of(int64_t{0});
      overflow = __builtin_sub_overflow(int64_t{0}, a, &result);
    } else {
      int64_t quotient = a / b, rest = a % b;
      if (rest != 0 && (rest < 0) != (b < 0)) {
        --quotient;
        rest += b;
      }
      result = op == "%" ? rest : quotient;
    }
  }
  if (overflow) too_large(rt);
  return Value::of(result);
}

Value doubles(Runtime& rt, std::string_view op, double a, double b) {
  if (op == "+") return Value::of(a + b);
  if (op == "-") return Value::of(a - b);
  if (op == "*") return Value::of(a * b);
  if (op == "**") {
    if (a == 0 && b < 0) rt.fail("0.0 cannot be raised to a negative power");
    if (a < 0 && std::isfinite(b) && b != std::floor(b))
      rt.fail("complex numbers are not supported");
    const double result = std::pow(a, b);
    if (std::isinf(result) && std::isfinite(a) && std::isfinite(b))
      rt.fail("a number that no double can hold");
    return Value::of(result);
  }
  if (b == 0) rt.fail("{}", op == "/" ? "float division by zero" : "float floor division by zero");
  if (op == "/") return Value::of(a / b);
  double rest = std::fmod(a, b);
  double quotient = (a - rest) / b;
  if (rest != 0) {
    if ((b < 0) != (rest < 0)) {
      rest += b;
      quotient -= 1;
    }
  } else {
    rest = std::copysign(0.0, b);
  }
  if (op == "%") return Value::of(rest);
  if (quotient == 0) return Value::of(std::copysign(0.0, a / b));
  double whole = std::floor(quotient);
  if (quotient - whole > 0.5) whole += 1;
  return Value::of(whole);
}

Value repeat(Runtime& rt, const Value& value, int64_t count) {
  const size_t times = count < 0 ? 0 : static_cast<size_t>(count);
  if (value.is_text()) {
    const Text& text = value.text();
    rt.room(text.bytes.size(), times);
    rt.step(static_cast<int64_t>(text.bytes.size() * times / 64));
    std::string made;
    made.reserve(text.bytes.size() * times);
    for (size_t i = 0; i < times && !text.bytes.empty(); ++i) made += text.bytes;
    return rt.text(std::move(made), text.markup);
  }
  const std::vector<Value>& items = value.list().items;
  rt.room(items.size() * sizeof(Value), times);
  rt.step(static_cast<int64_t>(items.size() * times));
  std::vector<Value> made;
  made.reserve(items.size() * times);
  for (size_t i = 0; i < times && !items.empty(); ++i)
    made.insert(made.end(), items.begin(), items.end());
  return rt.list(std::move(made), value.kind());
}

Value joined(Runtime& rt, const Value& a, const Value& b) {
  if (a.is_text()) {
    const Text &x = a.text(), &y = b.text();
    rt.room(x.bytes.size() + y.bytes.size());
    if (!x.markup && !y.markup) return rt.text(x.bytes + y.bytes);
    return rt.text(
        (x.markup ? x.bytes : escaped(rt, x.bytes)) + (y.markup ? y.bytes : escaped(rt, y.bytes)),
        true);
  }
  const auto &x = a.list().items, &y = b.list().items;
  rt.room(sizeof(Value), x.size() + y.size());
  rt.step(static_cast<int64_t>(x.size() + y.size()) / 8);
  std::vector<Value> made;
  made.reserve(x.size() + y.size());
  made.insert(made.end(), x.begin(), x.end());
  made.insert(made.end(), y.begin(), y.end());
  return rt.list(std::move(made), a.kind());
}

}  // namespace

Value arithmetic(Runtime& rt, std::string_view op, const Value& a, const Value& b) {
  if (op == "%" && a.is_text()) return rt.text(format_percent(rt, a, b), a.text().markup);
  refuse_undefined(rt, a);
  refuse_undefined(rt, b);
  if (a.is_integer() && b.is_integer()) return integers(rt, op, a.integer(), b.integer());
  if (a.is_number() && b.is_number()) return doubles(rt, op, a.number(), b.number());
  const auto repeats = [](const Value& v) { return v.is_text() || v.is_sequence(); };
  if (op == "+" && repeats(a)) {
    if (a.kind() == b.kind()) return joined(rt, a, b);
    const char* type = type_name(a);
    rt.fail("can only concatenate {} (not \"{}\") to {}", type, type_name(b), type);
  }
  if (op == "*" && repeats(a) && b.is_integer()) return repeat(rt, a, b.integer());
  if (op == "*" && repeats(b) && a.is_integer()) return repeat(rt, b, a.integer());
  unsupported(rt, op, a, b);
}

Value negative(Runtime& rt, const Value& value) {
  refuse_undefined(rt, value);
  if (value.is_integer()) return integers(rt, "-", 0, value.integer());
  if (!value.is_number()) rt.fail("bad operand type for unary -: '{}'", type_name(value));
  return Value::of(-value.number());
}

std::string escaped(Runtime& rt, std::string_view text) {
  rt.room(5, text.size());
  std::string made;
  for (const char c : text) {
    switch (c) {
      case '&':
        made += "&amp;";
        break;
      case '<':
        made += "&lt;";
        break;
      case '>':
        made += "&gt;";
        break;
      case '"':
        made += "&#34;";
        break;
      case '\'':
        made += "&#39;";
        break;
      default:
        made += c;
    }
  }
  return made;
}

}  // namespace refrain::text::jinja
