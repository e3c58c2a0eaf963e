// The values of a template, with the meaning that Python gives to its own: what is true, what is
// equal, what a name is called in an error. Texts, lists and maps never change; a namespace does.
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace refrain::text::jinja {

enum class Kind : uint8_t {
  kMissing,  // a variable without a value; no expression has it
  kUndefined,
  kNone,
  kBool,
  kInt,
  kDouble,
  kText,
  kList,
  kTuple,
  kMap,
  kRange,
  kView,
  kIterator,
  kNamespace,
  kLoop,
  kCallable,
};

// What lives outside of a Value. `live` counts the bytes of all objects of one rendering.
struct Object {
  Object() = default;
  Object(const Object&) = delete;
  Object& operator=(const Object&) = delete;
  virtual ~Object() {
    if (live) *live -= bytes_charged;
  }
  size_t* live = nullptr;
  size_t bytes_charged = 0;
  int depth = 0;  // levels of values in values; destructors go as deep
};

struct Text;
struct List;
struct Map;
struct Range;
struct View;
struct Iterator;
struct Namespace;
struct Loop;
struct Callable;
struct Undefined;

class Value {
 public:
  Value() = default;  // missing
  static Value none() { return Value(Kind::kNone, 0); }
  static Value of(bool value) { return Value(Kind::kBool, value); }
  static Value of(int64_t value) { return Value(Kind::kInt, value); }
  static Value of(double value) {
    Value made(Kind::kDouble, 0);
    made.number_ = value;
    return made;
  }
  Value(Kind kind, std::shared_ptr<Object> object) : kind_(kind), object_(std::move(object)) {}

  Kind kind() const { return kind_; }
  bool is(Kind kind) const { return kind_ == kind; }
  bool is_text() const { return kind_ == Kind::kText; }
  bool is_undefined() const { return kind_ == Kind::kUndefined; }
  bool is_none() const { return kind_ == Kind::kNone; }
  bool is_sequence() const { return kind_ == Kind::kList || kind_ == Kind::kTuple; }
  // Booleans are integers, as in Python.
  bool is_integer() const { return kind_ == Kind::kBool || kind_ == Kind::kInt; }
  bool is_number() const { return is_integer() || kind_ == Kind::kDouble; }

  int64_t integer() const { return integer_; }  // of an is_integer()
  double number() const {                       // of an is_number()
    return kind_ == Kind::kDouble ? number_ : static_cast<double>(integer_);
  }
  const Text& text() const;
  const List& list() const;  // of a list or a tuple
  const Map& map() const;
  const Range& range() const;
  const View& view() const;
  const Undefined& undefined() const;
  Iterator& iterator() const;
  Namespace& name_space() const;
  Loop& loop() const;
  const Callable& callable() const;
  const Object* object() const { return object_.get(); }

 private:
  Value(Kind kind, int64_t integer) : kind_(kind), integer_(integer) {}

  Kind kind_ = Kind::kMissing;
  union {
    int64_t integer_ = 0;
    double number_;
  };
  std::shared_ptr<Object> object_;
};

struct Text : Object {
  std::string bytes;    // valid UTF-8
  size_t length = 0;    // in characters
  bool markup = false;  // Python's Markup: `safe` and `escape` make it
  bool ascii() const { return length == bytes.size(); }
};

struct List : Object {
  std::vector<Value> items;
};

struct Map : Object {
  std::vector<std::pair<Value, Value>> items;
  const Value* find(std::string_view key) const;  // of a text; null: absent
};

struct Range : Object {
  int64_t start = 0, stop = 0, step = 1, length = 0;
  int64_t at(int64_t i) const { return start + i * step; }
};

struct View : Object {  // of the keys, values or items of a map
  enum class Of : uint8_t { kKeys, kValues, kItems };
  Value map;
  Of of = Of::kKeys;
};

// What Python makes lazily. The items are made at once; an error that would have come in the middle
// comes there.
struct Iterator : Object {
  std::vector<Value> items;
  size_t next = 0;
  std::optional<std::string> error;
};

struct Namespace : Object {
  std::vector<std::pair<std::string, Value>> attributes;
  Value* find(std::string_view name);
  void set(std::string_view name, Value value);
};

struct Undefined : Object {
  std::string message;
};

struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;

  std::optional<Value> take(std::string_view name);  // a named one, which is then gone
};

class Runtime;

struct Callable : Object {
  std::string name;
  bool is_macro = false;
  std::function<Value(Runtime&, Arguments&)> call;
};

// `loop` in a for loop: one item ahead at most, unless the length is asked for.
struct Loop : Object {
  std::function<bool(Value&)> pull;
  std::vector<Value> ahead;  // pulled and not yet handed out, first to last
  size_t ahead_at = 0;
  int64_t index0 = -1, depth0 = 0;
  std::optional<int64_t> length;
  Value previous, current;
  std::optional<std::vector<Value>> last_changed;

  bool advance(Value& item);  // false at the end
  const Value* peek();        // null at the end
  int64_t count();            // of all items
  void close();               // drops what it holds, which may hold the loop itself
};

inline const Text& Value::text() const { return static_cast<const Text&>(*object_); }
inline const List& Value::list() const { return static_cast<const List&>(*object_); }
inline const Map& Value::map() const { return static_cast<const Map&>(*object_); }
inline const Range& Value::range() const { return static_cast<const Range&>(*object_); }
inline const View& Value::view() const { return static_cast<const View&>(*object_); }
inline const Undefined& Value::undefined() const { return static_cast<const Undefined&>(*object_); }
inline Iterator& Value::iterator() const { return static_cast<Iterator&>(*object_); }
inline Namespace& Value::name_space() const { return static_cast<Namespace&>(*object_); }
inline Loop& Value::loop() const { return static_cast<Loop&>(*object_); }
inline const Callable& Value::callable() const { return static_cast<const Callable&>(*object_); }

// Python's name of the type: "str", "NoneType", ...
const char* type_name(const Value& value);

}  // namespace refrain::text::jinja
