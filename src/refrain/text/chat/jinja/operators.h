// Python's operators on values.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/text/chat/jinja/runtime.h"
#include "refrain/text/chat/jinja/value.h"

namespace refrain::text::jinja {

bool truth(const Value& value);
bool equal(Runtime& rt, const Value& a, const Value& b);
// `op` is one of < <= > >=.
bool ordered(Runtime& rt, std::string_view op, const Value& a, const Value& b);
bool contains(Runtime& rt, const Value& container, const Value& item);
// `op` is one of + - * / // % **.
Value arithmetic(Runtime& rt, std::string_view op, const Value& a, const Value& b);
Value negative(Runtime& rt, const Value& value);

// Null if the map does not have the key. A key that no map can have is an error, or null.
const Value* find(Runtime& rt, const Map& map, const Value& key);
bool hashable(const Value& key);
using Members = std::vector<std::pair<Value, Value>>;
void put(Runtime& rt, Members& members, const Value& key, Value value);

// `a.name` and `a[key]`; what is not there is undefined.
Value attribute_of(Runtime& rt, const Value& value, const std::string& name);
Value item_of(Runtime& rt, const Value& value, const Value& key);
// A missing bound is none.
struct SliceBounds {
  Value start, stop, step;
};
Value slice_of(Runtime& rt, const Value& value, const SliceBounds& bounds);

// The items of what can be iterated over, one after another. An Iterator loses what is taken.
class Cursor {
 public:
  Cursor(Runtime& rt, Value of);
  static bool iterates(const Value& value);
  bool next(Value& item);

 private:
  Runtime& rt_;
  Value of_;
  size_t at_ = 0;  // an index, or of a text an offset
};
std::vector<Value> items_of(Runtime& rt, const Value& value);
int64_t length_of(Runtime& rt, const Value& value);
bool has_length(const Value& value);

// Raises the error of an operation on it.
inline void refuse_undefined(const Runtime& rt, const Value& value) {
  if (value.is_undefined()) rt.fail("{}", value.undefined().message);
}

// The characters of a text from the index `first` on.
std::string_view characters(const Text& text, size_t first, size_t count);
std::string escaped(Runtime& rt, std::string_view text);  // for HTML

}  // namespace refrain::text::jinja
