#include "refrain/text/chat/globals.h"

#include <string>
#include <utility>
#include <vector>

#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/operators.h"

namespace refrain::text {
namespace {

using namespace jinja;

Value make_range(Runtime& rt, Arguments& arguments) {
  constexpr uint64_t kMost = 100'000;  // Jinja's sandbox has the same limit
  if (!arguments.named.empty()) rt.fail("range() takes no keyword arguments");
  const size_t count = arguments.positional.size();
  if (count < 1 || count > 3) rt.fail("range expected from 1 to 3 arguments, got {}", count);
  int64_t given[3] = {0, 0, 1};
  for (size_t i = 0; i < count; ++i) {
    const Value& value = arguments.positional[i];
    refuse_undefined(rt, value);
    if (!value.is_integer())
      rt.fail("'{}' object cannot be interpreted as an integer", type_name(value));
    given[i] = value.integer();
  }
  if (count == 1) std::swap(given[0], given[1]);
  const auto [start, stop, step] = given;
  if (step == 0) rt.fail("range() arg 3 must not be zero");
  uint64_t length = 0;  // unsigned: the difference of two 64-bit integers
  if (step > 0 ? start < stop : stop < start) {
    const uint64_t from = static_cast<uint64_t>(start), to = static_cast<uint64_t>(stop);
    const uint64_t by = step > 0 ? static_cast<uint64_t>(step) : 0 - static_cast<uint64_t>(step);
    length = ((step > 0 ? to - from : from - to) - 1) / by + 1;
  }
  if (length > kMost) rt.fail("a range of more than {} items", kMost);
  const auto made = rt.make<Range>();
  made->start = start;
  made->stop = stop;
  made->step = step;
  made->length = static_cast<int64_t>(length);
  return Value(Kind::kRange, made);
}

// dict(mapping or pairs, name=value, ...)
Members members_of(Runtime& rt, std::string_view function, const Arguments& arguments) {
  if (arguments.positional.size() > 1)
    rt.fail("{} expected at most 1 argument, got {}", function, arguments.positional.size());
  Members members;
  if (!arguments.positional.empty()) {
    const Value& from = arguments.positional[0];
    if (from.is(Kind::kMap)) {
      members = from.map().items;
    } else {
      Cursor cursor(rt, from);
      for (Value item; cursor.next(item);) {
        const std::vector<Value> pair = items_of(rt, item);
        if (pair.size() != 2) rt.fail("{} expected pairs, found {} items", function, pair.size());
        put(rt, members, pair[0], pair[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) put(rt, members, rt.text(name), value);
  return members;
}

Value make_map(Runtime& rt, Arguments& arguments) {
  return rt.map(members_of(rt, "dict", arguments));
}

Value make_namespace(Runtime& rt, Arguments& arguments) {
  const auto made = rt.name_space();
  for (auto& [name, value] : members_of(rt, "namespace", arguments)) {
    if (!name.is_text()) rt.fail("names of attributes must be texts");
    const std::string& text = name.text().bytes;
    if (text.starts_with('_'))
      rt.fail("names of attributes that begin with an underscore cannot be set: '{}'", text);
    rt.hold(2 * sizeof(Value));
    made->set(text, std::move(value));
  }
  return Value(Kind::kNamespace, made);
}

Value raise_exception(Runtime& rt, Arguments& arguments) {
  const Bound bound(rt, "raise_exception", arguments, {{"message"}, 1});
  rt.fail("{}", to_text(rt, *bound[0]));
}

// As Python's datetime.now().strftime(): the time has no zone and no part of a second.
std::string format_time(Runtime& rt, const std::tm& now, const std::string& format) {
  constexpr size_t kMostBytes = 4096;
  std::string known;
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] == '\0') rt.fail("embedded null character");
    if (format[i] != '%' || i + 1 == format.size()) {
      known += format[i];
      continue;
    }
    switch (const char c = format[++i]) {
      case 'f':
        known += "000000";
        break;
      case 'z':
      case 'Z':
        break;
      case 's':
        rt.fail("strftime_now() does not know the seconds since 1970");
      default:
        known += '%';
        known += c;
    }
  }
  if (known.size() > kMostBytes) rt.fail("a format of a time longer than {} bytes", kMostBytes);
  known += ' ';  // so that no text is empty, which strftime() uses to say that it does not fit
  std::string text(4 * kMostBytes, '\0');
  const size_t size = std::strftime(text.data(), text.size(), known.c_str(), &now);
  if (size == 0) rt.fail("a time longer than {} bytes", text.size());
  text.resize(size - 1);
  return text;
}

}  // namespace

void put_globals(Runtime& rt, const std::optional<std::tm>& now, Context& context) {
  const auto add = [&](const char* name, auto function) {
    context.emplace_back(name, rt.callable(name, function));
  };
  add("range", make_range);
  add("dict", make_map);
  add("namespace", make_namespace);
  add("raise_exception", raise_exception);
  add("strftime_now", [&now](Runtime& runtime, Arguments& arguments) {
    const Bound bound(runtime, "strftime_now", arguments, {{"format"}, 1});
    if (!now) runtime.fail("the template asks for the time, which is not given");
    return runtime.text(format_time(runtime, *now, bound.text(0)));
  });
}

}  // namespace refrain::text
