#include "cli/output.h"

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"

namespace refrain::cli {
namespace {

[[noreturn]] void output_failed() {
  if (errno == EPIPE) throw OutputClosed();
  const std::string reason = std::generic_category().message(errno);
  throw_error("cannot write standard output: {}", reason);
}

}  // namespace

void print(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size()) output_failed();
}

void flush_output() {
  if (std::fflush(stdout) != 0) output_failed();
}

void note(std::string_view line) {
  const std::string text = one_line(line) + "\n";
  std::fwrite(text.data(), 1, text.size(), stderr);
}

std::string one_line(std::string_view text) {
  std::string line;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= ' ' && c != 0x7F)
      line += c;
    else
      line += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return line;
}

std::string valid_utf8(std::string_view text) {
  std::string valid;
  while (!text.empty()) {
    const CodePoint next = decode_utf8(text);
    if (next.valid)
      valid += text.substr(0, next.bytes);
    else
      append_utf8(valid, next.code);
    text.remove_prefix(next.bytes);
  }
  return valid;
}

}  // namespace refrain::cli
