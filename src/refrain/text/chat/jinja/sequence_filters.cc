#include <algorithm>
#include <unordered_map>

#include "refrain/text/chat/jinja/builtins.h"
#include "refrain/text/chat/jinja/format.h"
#include "refrain/text/chat/jinja/operators.h"
#include "refrain/text/chat/unicode.h"

namespace refrain::text::jinja {
namespace {

// What an attribute like "a.b.0" leads to.
class Getter {
 public:
  Getter(Runtime& rt, const Value* attribute, const Value* otherwise = nullptr)
      : rt_(rt), otherwise_(otherwise && !otherwise->is_none() ? otherwise : nullptr) {
    if (!attribute || attribute->is_none()) return;
    if (!attribute->is_text()) {
      parts_.push_back(*attribute);
      return;
    }
    std::string_view left = attribute->text().bytes;
    while (true) {
      const size_t dot = left.find('.');
      const std::string part(left.substr(0, dot));
      const bool digits =
          !part.empty() && part.size() < 18 && part.find_first_not_of("0123456789") == part.npos;
      parts_.push_back(digits ? Value::of(static_cast<int64_t>(std::stoll(part))) : rt.text(part));
      if (dot == left.npos) break;
      left.remove_prefix(dot + 1);
    }
  }

  Value operator()(Value item) const {
    for (const Value& part : parts_) {
      item = item_of(rt_, item, part);
      if (otherwise_ && item.is_undefined()) item = *otherwise_;
    }
    return item;
  }

 private:
  Runtime& rt_;
  const Value* otherwise_;
  std::vector<Value> parts_;
};

Value folded(Runtime& rt, const Value& value) {  // as comparisons without case see it
  return value.is_text() ? rt.text(unicode::lower(value.text().bytes)) : value;
}

// Items made one after another; an error between them comes when they have been taken.
template <class Make>
Value lazily(Runtime& rt, const Make& make) {
  std::vector<Value> items;
  std::optional<std::string> error;
  const auto put = [&](Value item) {
    rt.room(sizeof(Value), items.size() + 1);
    items.push_back(std::move(item));
  };
  try {
    make(put);
  } catch (const LimitReached&) {
    throw;
  } catch (const Error& late) {
    error = late.what();
  }
  return rt.iterator(std::move(items), std::move(error));
}

Value do_batch(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "batch", arguments, {{"linecount", "fill_with"}, 1});
  const int64_t count = bound.integer(0, 0);
  return lazily(rt, [&](const auto& put) {
    std::vector<Value> line;
    Cursor cursor(rt, value);
    for (Value item; cursor.next(item);) {
      if (static_cast<int64_t>(line.size()) == count) put(rt.list(std::exchange(line, {})));
      rt.room(sizeof(Value), line.size() + 1);
      line.push_back(item);
    }
    if (line.empty()) return;
    if (bound[1] && !bound[1]->is_none() && static_cast<int64_t>(line.size()) < count) {
      rt.room(sizeof(Value), static_cast<size_t>(count));
      line.resize(static_cast<size_t>(count), *bound[1]);
    }
    put(rt.list(std::move(line)));
  });
}

Value do_slice(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "slice", arguments, {{"slices", "fill_with"}, 1});
  const int64_t slices = bound.integer(0, 0);
  const Value* fill = bound[1] && !bound[1]->is_none() ? bound[1] : nullptr;
  return lazily(rt, [&](const auto& put) {
    const std::vector<Value> items = items_of(rt, value);
    if (slices == 0) rt.fail("integer division or modulo by zero");
    const auto length = static_cast<int64_t>(items.size());
    int64_t at = 0;
    for (int64_t i = 0; i < slices; ++i) {
      rt.step();
      const bool longer = i < length % slices;
      const int64_t count = length / slices + longer;
      std::vector<Value> slice(items.begin() + at, items.begin() + at + count);
      at += count;
      if (fill && !longer) slice.push_back(*fill);
      put(rt.list(std::move(slice)));
    }
  });
}

// A stable merge sort, which calls `less` as often as it must and never relies on its sense.
template <class Less>
void sort_items(std::vector<std::pair<Value, Value>>& items, const Less& less) {
  std::vector<std::pair<Value, Value>> merged(items.size());
  for (size_t width = 1; width < items.size(); width *= 2) {
    for (size_t begin = 0; begin < items.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, items.size());
      const size_t end = std::min(begin + 2 * width, items.size());
      size_t a = begin, b = middle, to = begin;
      while (a < middle || b < end) {
        const bool second = b < end && (a == middle || less(items[b].first, items[a].first));
        merged[to++] = std::move(items[second ? b++ : a++]);
      }
    }
    items.swap(merged);
  }
}

// By keys, which come first in the pairs.
Value sorted(Runtime& rt, std::vector<std::pair<Value, Value>> items, bool reverse) {
  rt.room(4 * sizeof(Value), items.size());
  sort_items(items, [&](const Value& a, const Value& b) {
    return reverse ? ordered(rt, "<", b, a) : ordered(rt, "<", a, b);
  });
  std::vector<Value> made;
  made.reserve(items.size());
  for (auto& [key, item] : items) made.push_back(std::move(item));
  return rt.list(std::move(made));
}

Value do_dictsort(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "dictsort", arguments, {{"case_sensitive", "by", "reverse"}, 0});
  const std::string by = bound.text(1, "key");
  if (by != "key" && by != "value") rt.fail("You can only sort by either \"key\" or \"value\"");
  refuse_undefined(rt, value);
  if (!value.is(Kind::kMap)) rt.fail("dictsort() expected a dict, found {}", type_name(value));
  std::vector<std::pair<Value, Value>> items;
  for (const auto& [key, item] : value.map().items) {
    const Value& of = by == "key" ? key : item;
    items.emplace_back(bound.flag(0) ? of : folded(rt, of), rt.tuple({key, item}));
  }
  return sorted(rt, std::move(items), bound.flag(2));
}

Value do_sort(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "sort", arguments, {{"reverse", "case_sensitive", "attribute"}, 0});
  std::vector<Getter> getters;
  if (bound[2] && bound[2]->is_text()) {
    std::string_view left = bound[2]->text().bytes;
    while (true) {
      const size_t comma = left.find(',');
      const Value part = rt.text(std::string(left.substr(0, comma)));
      getters.emplace_back(rt, &part);
      if (comma == left.npos) break;
      left.remove_prefix(comma + 1);
    }
  } else {
    getters.emplace_back(rt, bound[2]);
  }
  std::vector<std::pair<Value, Value>> items;
  for (Value& item : items_of(rt, value)) {
    std::vector<Value> keys;
    for (const Getter& getter : getters) {
      const Value key = getter(item);
      keys.push_back(bound.flag(1) ? key : folded(rt, key));
    }
    items.emplace_back(rt.list(std::move(keys)), std::move(item));
  }
  return sorted(rt, std::move(items), bound.flag(0));
}

Value do_unique(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "unique", arguments, {{"case_sensitive", "attribute"}, 0});
  const Getter getter(rt, bound[1]);
  return lazily(rt, [&](const auto& put) {
    Members seen;
    Cursor cursor(rt, value);
    for (Value item; cursor.next(item);) {
      Value key = getter(item);
      if (!bound.flag(0)) key = folded(rt, key);
      const size_t before = seen.size();
      jinja::put(rt, seen, key, Value::none());
      if (seen.size() > before) put(item);
    }
  });
}

Value extreme(Runtime& rt, std::string_view op, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "min or max", arguments, {{"case_sensitive", "attribute"}, 0});
  const Getter getter(rt, bound[1]);
  Value best, best_key;
  Cursor cursor(rt, value);
  for (Value item; cursor.next(item);) {
    Value key = getter(item);
    if (!bound.flag(0)) key = folded(rt, key);
    if (!best.is(Kind::kMissing) && !ordered(rt, op, key, best_key)) continue;
    best = item;
    best_key = key;
  }
  return best.is(Kind::kMissing) ? rt.undefined("No aggregated item, sequence was empty.") : best;
}
Value do_min(Runtime& rt, const Value& value, Arguments& arguments) {
  return extreme(rt, "<", value, arguments);
}
Value do_max(Runtime& rt, const Value& value, Arguments& arguments) {
  return extreme(rt, ">", value, arguments);
}

Value do_first(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "first", arguments, {{}, 0});
  Cursor cursor(rt, value);
  Value item;
  return cursor.next(item) ? item : rt.undefined("No first item, sequence was empty.");
}

Value do_last(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "last", arguments, {{}, 0});
  if (value.is(Kind::kIterator) || !Cursor::iterates(value))
    rt.fail("'{}' object is not reversible", type_name(value));
  if (value.is(Kind::kMap) || value.is(Kind::kView)) {
    const std::vector<Value> items = items_of(rt, value);
    return items.empty() ? rt.undefined("No last item, sequence was empty.") : items.back();
  }
  if (length_of(rt, value) == 0) return rt.undefined("No last item, sequence was empty.");
  return item_of(rt, value, Value::of(int64_t{-1}));
}

Value do_items(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "items", arguments, {{}, 0});
  return lazily(rt, [&](const auto& put) {
    if (value.is_undefined()) return;
    if (!value.is(Kind::kMap)) rt.fail("Can only get item pairs from a mapping.");
    for (const auto& [key, item] : value.map().items) put(rt.tuple({key, item}));
  });
}

Value do_join(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "join", arguments, {{"d", "attribute"}, 0});
  const std::string separator = bound[0] ? to_text(rt, *bound[0]) : "";
  const Getter getter(rt, bound[1]);
  std::string made;
  bool first = true;
  Cursor cursor(rt, value);
  for (Value item; cursor.next(item);) {
    if (!std::exchange(first, false)) made += separator;
    made += to_text(rt, getter(item));
    rt.step(static_cast<int64_t>(separator.size() / 64));
    rt.room(made.size());
  }
  return rt.text(std::move(made));
}

Value do_length(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "length", arguments, {{}, 0});
  return Value::of(length_of(rt, value));
}

Value do_list(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "list", arguments, {{}, 0});
  return rt.list(items_of(rt, value));
}

Value do_map(Runtime& rt, const Value& value, Arguments& arguments) {
  return lazily(rt, [&](const auto& put) {
    if (!truth(value)) return;
    if (arguments.positional.empty()) {
      Arguments named = arguments;
      const auto attribute = named.take("attribute");
      if (!attribute) rt.fail("map requires a filter argument");
      const auto otherwise = named.take("default");
      if (!named.named.empty()) rt.fail("Unexpected keyword argument '{}'", named.named[0].first);
      const Getter getter(rt, &*attribute, otherwise ? &*otherwise : nullptr);
      Cursor cursor(rt, value);
      for (Value item; cursor.next(item);) put(getter(item));
      return;
    }
    if (!arguments.positional[0].is_text()) rt.fail("map requires the name of a filter");
    const std::string name = arguments.positional[0].text().bytes;
    Cursor cursor(rt, value);
    for (Value item; cursor.next(item);) {
      Arguments passed = arguments;
      passed.positional.erase(passed.positional.begin());
      const Runtime::Deeper deeper(rt);
      put(apply_filter(rt, name, item, passed));
    }
  });
}

template <bool wanted, bool of_attribute>
Value do_select(Runtime& rt, const Value& value, Arguments& arguments) {
  return lazily(rt, [&](const auto& put) {
    if (!truth(value)) return;
    const size_t off = of_attribute;
    if (arguments.positional.size() < off) rt.fail("Missing parameter for attribute name");
    const Getter getter(rt, of_attribute ? &arguments.positional[0] : nullptr);
    const bool has_test = arguments.positional.size() > off;
    if (has_test && !arguments.positional[off].is_text()) rt.fail("expected the name of a test");
    Cursor cursor(rt, value);
    for (Value item; cursor.next(item);) {
      const Value of = getter(item);
      bool holds;
      if (has_test) {
        Arguments passed = arguments;
        passed.positional.erase(passed.positional.begin(),
                                passed.positional.begin() + static_cast<int64_t>(off) + 1);
        holds = apply_test(rt, arguments.positional[off].text().bytes, of, passed);
      } else {
        holds = truth(of);
      }
      if (holds == wanted) put(item);
    }
  });
}

Value do_reverse(Runtime& rt, const Value& value, Arguments& arguments) {
  Bound(rt, "reverse", arguments, {{}, 0});
  if (value.is_text())
    return slice_of(rt, value, {Value::none(), Value::none(), Value::of(int64_t{-1})});
  if (!Cursor::iterates(value)) rt.fail("argument must be iterable");
  std::vector<Value> items = items_of(rt, value);
  std::reverse(items.begin(), items.end());
  return value.is(Kind::kIterator) ? rt.list(std::move(items)) : rt.iterator(std::move(items));
}

Value do_sum(Runtime& rt, const Value& value, Arguments& arguments) {
  const Bound bound(rt, "sum", arguments, {{"attribute", "start"}, 0});
  const Getter getter(rt, bound[0]);
  Value total = bound[1] ? *bound[1] : Value::of(int64_t{0});
  if (total.is_text()) rt.fail("sum() can't sum strings [use ''.join(seq) instead]");
  Cursor cursor(rt, value);
  for (Value item; cursor.next(item);) total = arithmetic(rt, "+", total, getter(item));
  return total;
}

}  // namespace

Filter find_sequence_filter(std::string_view name) {
  static const std::unordered_map<std::string_view, Filter> kFilters = {
      {"batch", do_batch},
      {"count", do_length},
      {"dictsort", do_dictsort},
      {"first", do_first},
      {"items", do_items},
      {"join", do_join},
      {"last", do_last},
      {"length", do_length},
      {"list", do_list},
      {"map", do_map},
      {"max", do_max},
      {"min", do_min},
      {"reject", do_select<false, false>},
      {"rejectattr", do_select<false, true>},
      {"reverse", do_reverse},
      {"select", do_select<true, false>},
      {"selectattr", do_select<true, true>},
      {"slice", do_slice},
      {"sort", do_sort},
      {"sum", do_sum},
      {"unique", do_unique},
  };
  const auto at = kFilters.find(name);
  return at == kFilters.end() ? nullptr : at->second;
}

}  // namespace refrain::text::jinja
