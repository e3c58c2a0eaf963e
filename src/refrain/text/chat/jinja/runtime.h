// What one rendering may use, and where it is. A template is hostile: each step, each byte in
// memory and each level of nesting is counted, and whatever goes wrong is an Error of one line that
// names the template and its line.
#pragma once
#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/text/chat/jinja/value.h"

namespace refrain::text::jinja {

struct Limits {
  int64_t steps = 10'000'000;  // expressions, statements, items, and each 64 bytes of text made
  size_t memory_bytes = size_t{256} << 20;  // of values at one time
  size_t output_bytes = size_t{64} << 20;
  int depth = 1000;       // of calls, statements and expressions within each other
  int value_depth = 100;  // of lists and maps within each other
};

// A limit was reached: nothing may go on after it.
class LimitReached : public Error {
 public:
  using Error::Error;
};

// `text` on one line, as an error shows it.
std::string one_line(std::string_view text);

class Runtime {
 public:
  Runtime(std::string name, const Limits& limits)
      : limits_(limits), name_(std::move(name)), steps_left_(limits.steps) {}
  ~Runtime();
  Runtime(const Runtime&) = delete;
  Runtime& operator=(const Runtime&) = delete;

  int line = 1;

  template <class... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(located(fmt::format(format, std::forward<Args>(args)...)));
  }
  std::string located(std::string_view message) const;

  const Limits& limits() const { return limits_; }
  void step(int64_t count = 1) {
    steps_left_ -= count;
    if (steps_left_ < 0) limit(fmt::format("more than {} steps", limits_.steps));
  }
  // Before that many bytes more are made.
  void room(size_t bytes) {
    if (bytes > limits_.memory_bytes || live_ > limits_.memory_bytes - bytes)
      limit(fmt::format("more than {} bytes of memory", limits_.memory_bytes));
  }
  // Before `each` bytes are made `count` times.
  void room(size_t each, size_t count) {
    if (each && count > limits_.memory_bytes / each) room(limits_.memory_bytes + 1);
    room(each * count);
  }

  // Bytes that are no object's: from now on, until they are released.
  void hold(size_t bytes) {
    room(bytes);
    live_ += bytes;
  }
  void release(size_t bytes) { live_ -= bytes; }

  template <class T>
  std::shared_ptr<T> make(size_t more_bytes = 0) {
    const size_t bytes = sizeof(T) + more_bytes;
    room(bytes);
    auto made = std::make_shared<T>();
    made->live = &live_;
    made->bytes_charged = bytes;
    live_ += bytes;
    return made;
  }
  Value text(std::string bytes, bool markup = false);
  Value list(std::vector<Value> items, Kind kind = Kind::kList);
  Value tuple(std::vector<Value> items) { return list(std::move(items), Kind::kTuple); }
  Value map(std::vector<std::pair<Value, Value>> items);
  Value undefined(std::string message);
  Value undefined_name(std::string_view name);
  Value iterator(std::vector<Value> items, std::optional<std::string> error = {});
  Value view(const Value& map, View::Of of);
  std::shared_ptr<Namespace> name_space();
  // `holds` is the value that `call` has a copy of.
  Value callable(std::string name, std::function<Value(Runtime&, Arguments&)> call,
                 const Value& holds = Value());

  // One level deeper, as long as it lives.
  class Deeper {
   public:
    explicit Deeper(Runtime& runtime) : runtime_(runtime) {
      if (++runtime_.depth_ > runtime_.limits_.depth) {
        --runtime_.depth_;
        runtime_.limit(fmt::format("nested deeper than {} levels", runtime_.limits_.depth));
      }
    }
    ~Deeper() { --runtime_.depth_; }
    Deeper(const Deeper&) = delete;
    Deeper& operator=(const Deeper&) = delete;

   private:
    Runtime& runtime_;
  };

  [[noreturn]] void limit(const std::string& message) const {
    throw LimitReached(located(message));
  }

 private:
  void contain(Object& object, const Value& value) const;  // counts the levels

  const Limits limits_;
  std::string name_;
  int64_t steps_left_;
  size_t live_ = 0;
  int depth_ = 0;
  std::vector<std::shared_ptr<Namespace>> namespaces_;  // which may hold each other
};

}  // namespace refrain::text::jinja
