// A parser as fuzzing sees it: something that reads bytes. Every file of targets/ registers one.
//
// With clang's libFuzzer (libfuzzer.cc) each is a program of its own, preset `fuzz`; in every other
// build all of them are in fuzz_test (fuzz_test.cc), which reads the seeds, what can be made of
// them, and what was found before, so that no target rots.
#pragma once
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "support/temporary_folder.h"

namespace refrain::fuzz {

struct Target {
  const char* name;
  // Reads the input. An Error says that it is refused; whatever else is thrown is a find.
  void (*run)(std::string_view input);
  // Inputs that are read without an Error.
  std::vector<std::string> (*seeds)();
};

std::vector<Target>& targets();

struct Register {
  explicit Register(const Target& target) { targets().push_back(target); }
};

// False if it was refused.
bool accepts(const Target& target, std::string_view input);

// A find that no sanitizer sees.
struct Broken : std::logic_error {
  using logic_error::logic_error;
};
inline void expect(bool holds, const char* what) {
  if (!holds) throw Broken(what);
}

// A folder of the target's own, and the input as a file in it.
[[maybe_unused]] static const TemporaryFolder& folder() {
  static const TemporaryFolder of_this_target;
  return of_this_target;
}
[[maybe_unused]] static std::string put(std::string_view input, std::string_view name = "input") {
  return folder().put(name, input);
}
std::string bytes_of(const std::string& path);

// What stands before the last NUL, and after it.
struct TwoParts {
  std::string_view first, second;
};
TwoParts parts_of(std::string_view input);

// The first byte, which says how the rest is to be read.
struct Chosen {
  unsigned choice;
  std::string_view rest;
};
Chosen choose(std::string_view input);

}  // namespace refrain::fuzz
