#include "fuzz/target.h"

#include <fstream>
#include <iterator>

#include "refrain/base/error.h"

namespace refrain::fuzz {

std::vector<Target>& targets() {
  static std::vector<Target> all;
  return all;
}

bool accepts(const Target& target, std::string_view input) {
  try {
    target.run(input);
  } catch (const Error&) {
    return false;
  }
  return true;
}

std::string bytes_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

TwoParts parts_of(std::string_view input) {
  const size_t end = input.rfind('\0');
  if (end == input.npos) return {input, {}};
  return {input.substr(0, end), input.substr(end + 1)};
}

Chosen choose(std::string_view input) {
  if (input.empty()) return {0, input};
  return {static_cast<unsigned char>(input[0]), input.substr(1)};
}

}  // namespace refrain::fuzz
