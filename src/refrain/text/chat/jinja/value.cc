// Values, and how a rendering makes them.
#include "refrain/text/chat/jinja/value.h"

#include <algorithm>

#include "refrain/text/chat/jinja/runtime.h"

namespace refrain::text::jinja {

const Value* Map::find(std::string_view key) const {
  for (const auto& [name, value] : items)
    if (name.is_text() && name.text().bytes == key) return &value;
  return nullptr;
}

Value* Namespace::find(std::string_view name) {
  for (auto& [attribute, value] : attributes)
    if (attribute == name) return &value;
  return nullptr;
}

void Namespace::set(std::string_view name, Value value) {
  if (Value* old = find(name)) {
    *old = std::move(value);
  } else {
    attributes.emplace_back(name, std::move(value));
  }
}

std::optional<Value> Arguments::take(std::string_view name) {
  for (auto at = named.begin(); at != named.end(); ++at) {
    if (at->first != name) continue;
    Value value = std::move(at->second);
    named.erase(at);
    return value;
  }
  return {};
}

const Value* Loop::peek() {
  if (ahead_at == ahead.size()) {
    ahead.clear();
    ahead_at = 0;
    Value next;
    if (!pull || !pull(next)) return nullptr;
    ahead.push_back(std::move(next));
  }
  return &ahead[ahead_at];
}

bool Loop::advance(Value& item) {
  if (!peek()) return false;
  item = std::move(ahead[ahead_at++]);
  ++index0;
  previous = std::move(current);
  current = item;
  return true;
}

int64_t Loop::count() {
  if (!length) {
    Value next;
    while (pull && pull(next)) ahead.push_back(std::move(next));
    length = index0 + 1 + static_cast<int64_t>(ahead.size() - ahead_at);
  }
  return *length;
}

void Loop::close() {
  pull = nullptr;
  ahead.clear();
  ahead_at = 0;
  previous = current = Value();
  last_changed.reset();
}

const char* type_name(const Value& value) {
  switch (value.kind()) {
    case Kind::kMissing:
    case Kind::kUndefined:
      return "Undefined";
    case Kind::kNone:
      return "NoneType";
    case Kind::kBool:
      return "bool";
    case Kind::kInt:
      return "int";
    case Kind::kDouble:
      return "float";
    case Kind::kText:
      return value.text().markup ? "Markup" : "str";
    case Kind::kList:
      return "list";
    case Kind::kTuple:
      return "tuple";
    case Kind::kMap:
      return "dict";
    case Kind::kRange:
      return "range";
    case Kind::kView:
      return value.view().of == View::Of::kKeys     ? "dict_keys"
             : value.view().of == View::Of::kValues ? "dict_values"
                                                    : "dict_items";
    case Kind::kIterator:
      return "generator";
    case Kind::kNamespace:
      return "Namespace";
    case Kind::kLoop:
      return "LoopContext";
    case Kind::kCallable:
      return value.callable().is_macro ? "Macro" : "function";
  }
  return "object";
}

std::string one_line(std::string_view text) {
  constexpr size_t kMost = 1000;
  std::string line;
  for (const char c : text.substr(0, kMost)) {
    if (c == '\n') {
      line += "\\n";
    } else if (c == '\r') {
      line += "\\r";
    } else if (static_cast<unsigned char>(c) < ' ' || c == 0x7F) {
      line += ' ';
    } else {
      line += c;
    }
  }
  if (text.size() > kMost) line += "...";
  return line;
}

std::string Runtime::located(std::string_view message) const {
  return fmt::format("{}: line {}: {}", name_, line, one_line(message));
}

namespace {

size_t count_characters(std::string_view bytes) {
  size_t count = 0;
  for (const char c : bytes) count += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return count;
}

}  // namespace

Value Runtime::text(std::string bytes, bool markup) {
  step(static_cast<int64_t>(bytes.size() / 64));
  const auto made = make<Text>(bytes.capacity());
  made->length = count_characters(bytes);
  made->bytes = std::move(bytes);
  made->markup = markup;
  return Value(Kind::kText, made);
}

void Runtime::contain(Object& object, const Value& value) const {
  if (!value.object()) return;
  object.depth = std::max(object.depth, value.object()->depth + 1);
  if (object.depth > limits_.value_depth)
    limit(fmt::format("values nested deeper than {} levels", limits_.value_depth));
}

Value Runtime::list(std::vector<Value> items, Kind kind) {
  const auto made = make<List>(items.capacity() * sizeof(Value));
  for (const Value& item : items) contain(*made, item);
  made->items = std::move(items);
  return Value(kind, made);
}

Value Runtime::map(std::vector<std::pair<Value, Value>> items) {
  const auto made = make<Map>(items.capacity() * 2 * sizeof(Value));
  for (const auto& [key, value] : items) {
    contain(*made, key);
    contain(*made, value);
  }
  made->items = std::move(items);
  return Value(Kind::kMap, made);
}

Value Runtime::undefined(std::string message) {
  const auto made = make<Undefined>(message.capacity());
  made->message = std::move(message);
  return Value(Kind::kUndefined, made);
}

Value Runtime::undefined_name(std::string_view name) {
  return undefined(fmt::format("'{}' is undefined", name));
}

Value Runtime::iterator(std::vector<Value> items, std::optional<std::string> error) {
  const auto made = make<Iterator>(items.capacity() * sizeof(Value));
  for (const Value& item : items) contain(*made, item);
  made->items = std::move(items);
  made->error = std::move(error);
  return Value(Kind::kIterator, made);
}

Value Runtime::view(const Value& map, View::Of of) {
  const auto made = make<View>();
  contain(*made, map);
  made->map = map;
  made->of = of;
  return Value(Kind::kView, made);
}

Value Runtime::callable(std::string name, std::function<Value(Runtime&, Arguments&)> call,
                        const Value& holds) {
  const auto made = make<Callable>(sizeof(Value) * 4);
  contain(*made, holds);
  made->name = std::move(name);
  made->call = std::move(call);
  return Value(Kind::kCallable, made);
}

std::shared_ptr<Namespace> Runtime::name_space() {
  namespaces_.push_back(make<Namespace>());
  return namespaces_.back();
}

Runtime::~Runtime() {
  for (const auto& one : namespaces_) one->attributes.clear();
}

}  // namespace refrain::text::jinja
