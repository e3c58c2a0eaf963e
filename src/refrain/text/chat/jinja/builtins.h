// Filters, tests, methods and global functions, by name.
#pragma once
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/text/chat/jinja/runtime.h"
#include "refrain/text/chat/jinja/value.h"

namespace refrain::text::jinja {

using Filter = Value (*)(Runtime& rt, const Value& value, Arguments& arguments);
Filter find_filter(std::string_view name);  // null: there is none
Value apply_filter(Runtime& rt, const std::string& name, const Value& value, Arguments& arguments);

using Test = bool (*)(Runtime& rt, const Value& value, Arguments& arguments);
Test find_test(std::string_view name);
bool apply_test(Runtime& rt, const std::string& name, const Value& value, Arguments& arguments);

// Those over sequences, which find_filter() looks through as well.
Filter find_sequence_filter(std::string_view name);

// A method bound to its value; nothing if the type has none of that name.
std::optional<Value> method_of(Runtime& rt, const Value& value, const std::string& name);

// Texts with Python's white space and characters.
std::string_view strip(std::string_view text, const Value* characters, bool left, bool right);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

// The arguments of a call, by the names that they have there.
class Bound {
 public:
  struct Names {
    std::initializer_list<std::string_view> names;
    size_t required = 0;
  };
  Bound(const Runtime& rt, std::string_view function, const Arguments& arguments,
        const Names& expected);

  // Null: absent.
  const Value* operator[](size_t i) const { return values_[i]; }
  bool flag(size_t i) const;
  int64_t integer(size_t i, int64_t absent) const;
  const std::string& text(size_t i) const;  // there is one
  std::string text(size_t i, std::string_view absent) const;

 private:
  const Runtime& rt_;
  std::string_view function_;
  std::vector<const Value*> values_;
};

}  // namespace refrain::text::jinja
