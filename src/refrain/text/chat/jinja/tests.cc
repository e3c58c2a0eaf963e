#include <unordered_map>

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/operators.h"
#include "refrain/text/chat/unicode.h"

namespace refrain::text::jinja {
namespace {

template <Kind kind>
bool is_kind(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "the test", arguments, {{}, 0});
  return value.is(kind);
}

const Value& other(Runtime& rt, Arguments& arguments) {
  return *Bound(rt, "the test", arguments, {{"other"}, 1})[0];
}

template <char op>
bool compare(Runtime& rt, const Value& value, Arguments& arguments) {
  const Value& with = other(rt, arguments);
  if (op == '=') return equal(rt, value, with);
  if (op == '!') return !equal(rt, value, with);
  return ordered(rt, op == '<' ? "<" : op == 'l' ? "<=" : op == '>' ? ">" : ">=", value, with);
}

bool rest_is(Runtime& rt, const Value& value, int64_t by, int64_t rest) {
  return equal(rt, arithmetic(rt, "%", value, Value::of(by)), Value::of(rest));
}
bool test_odd(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "odd", arguments, {{}, 0});
  return rest_is(rt, value, 2, 1);
}
bool test_even(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "even", arguments, {{}, 0});
  return rest_is(rt, value, 2, 0);
}
bool test_divisible_by(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "divisibleby", arguments, {{"num"}, 1});
  return equal(rt, arithmetic(rt, "%", value, *bound[0]), Value::of(int64_t{0}));
}

bool test_defined(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "defined", arguments, {{}, 0});
  return !value.is_undefined();
}

template <bool wanted>
bool is_bool(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "the test", arguments, {{}, 0});
  return value.is(Kind::kBool) && (value.integer() != 0) == wanted;
}

bool test_number(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "number", arguments, {{}, 0});
  return value.is_number();
}

bool test_sequence(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "sequence", arguments, {{}, 0});
  return has_length(value) && !value.is(Kind::kView) && !value.is(Kind::kLoop);
}

bool test_iterable(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "iterable", arguments, {{}, 0});
  return Cursor::iterates(value) || value.is(Kind::kLoop);
}

bool test_callable(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "callable", arguments, {{}, 0});
  return value.is(Kind::kCallable) || value.is(Kind::kLoop) || value.is_undefined();
}

bool test_same_as(Runtime& rt, const Value& value, Arguments& arguments) {
  const Value& with = other(rt, arguments);
  if (value.kind() != with.kind()) return false;
  if (value.object() || with.object()) return value.object() == with.object();
  return value.is(Kind::kDouble) ? false : value.integer() == with.integer();
}

bool test_escaped(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "escaped", arguments, {{}, 0});
  return value.is_text() && value.text().markup;
}

bool test_in(Runtime& rt, const Value& value, Arguments& arguments) {
  return contains(rt, other(rt, arguments), value);
}

// islower() and isupper(): a cased character, and none of the other case.
template <bool upper>
bool is_case(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "the test", arguments, {{}, 0});
  const Value text = value.is_text() ? value : rt.text(to_text(rt, value));
  Arguments none;
  return truth(method_of(rt, text, upper ? "isupper" : "islower")->callable().call(rt, none));
}

bool test_filter(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "filter", arguments, {{}, 0});
  return value.is_text() && find_filter(value.text().bytes);
}
bool test_test(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "test", arguments, {{}, 0});
  return value.is_text() && find_test(value.text().bytes);
}

}  // namespace

Test find_test(std::string_view name) {
  static const std::unordered_map<std::string_view, Test> kTests = {
      {"!=", compare<'!'>},
      {"<", compare<'<'>},
      {"<=", compare<'l'>},
      {"==", compare<'='>},
      {">", compare<'>'>},
      {">=", compare<'g'>},
      {"boolean", is_kind<Kind::kBool>},
      {"callable", test_callable},
      {"defined", test_defined},
      {"divisibleby", test_divisible_by},
      {"eq", compare<'='>},
      {"equalto", compare<'='>},
      {"escaped", test_escaped},
      {"even", test_even},
      {"false", is_bool<false>},
      {"filter", test_filter},
      {"float", is_kind<Kind::kDouble>},
      {"ge", compare<'g'>},
      {"greaterthan", compare<'>'>},
      {"gt", compare<'>'>},
      {"in", test_in},
      {"integer", is_kind<Kind::kInt>},
      {"iterable", test_iterable},
      {"le", compare<'l'>},
      {"lessthan", compare<'<'>},
      {"lower", is_case<false>},
      {"lt", compare<'<'>},
      {"mapping", is_kind<Kind::kMap>},
      {"ne", compare<'!'>},
      {"none", is_kind<Kind::kNone>},
      {"number", test_number},
      {"odd", test_odd},
      {"sameas", test_same_as},
      {"sequence", test_sequence},
      {"string", is_kind<Kind::kText>},
      {"test", test_test},
      {"true", is_bool<true>},
      {"undefined", is_kind<Kind::kUndefined>},
      {"upper", is_case<true>},
  };
  const auto at = kTests.find(name);
  return at == kTests.end() ? nullptr : at->second;
}

bool apply_test(Runtime& rt, const std::string& name, const Value& value, Arguments& arguments) {
  const Test test = find_test(name);
  if (!test) rt.fail("no test named '{}'", name);
  return test(rt, value, arguments);
}

}  // namespace refrain::text::jinja
