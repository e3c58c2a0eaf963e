// Two kinds of errors. A mistake from outside (a file, a flag, a request, data) throws Error: one
// line that says what, where, found and expected. A programmer's mistake fails a REFRAIN_CHECK.
#pragma once
#include <fmt/format.h>

#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

namespace refrain {

class Error : public std::runtime_error {
 public:
  explicit Error(const std::string& line) : std::runtime_error(line) {}
};

// throw_error("{}: line {}: expected {}", path, line, what)
template <class... Args>
[[noreturn]] void throw_error(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(fmt::format(format, std::forward<Args>(args)...));
}

// A broken invariant of ours. It throws (std::logic_error) so that a program can still save.
[[noreturn]] inline void check_failed(const char* condition, const char* file, int line) {
  throw std::logic_error(fmt::format("check failed: {} at {}:{}", condition, file, line));
}

#define REFRAIN_CHECK(condition) \
  ((condition) ? void(0) : ::refrain::check_failed(#condition, __FILE__, __LINE__))

}  // namespace refrain
