#include "cli/output.h"

#include <algorithm>
#include <cctype>
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

void show_prompt(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); }

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

std::string shell_word(const std::string& path) {
  const auto is_plain = [](char c) {
    return std::isalnum(static_cast<unsigned char>(c)) != 0 || static_cast<signed char>(c) < 0 ||
           std::string_view("/._-+,:@%=").find(c) != std::string_view::npos;
  };
  const auto is_control = [](char c) { return static_cast<unsigned char>(c) < ' ' || c == 0x7F; };
  // What begins with a dash would be a flag.
  const std::string word = (path.starts_with('-') ? "./" : "") + path;
  if (!word.empty() && std::ranges::all_of(word, is_plain)) return word;
  const bool has_control = std::ranges::any_of(word, is_control);
  std::string quoted = has_control ? "$'" : "'";
  for (const char c : word) {
    if (is_control(c))
      quoted += fmt::format("\\{:03o}", static_cast<unsigned char>(c));
    else if (has_control && (c == '\'' || c == '\\'))
      quoted += fmt::format("\\{}", c);
    else if (c == '\'')
      quoted += "'\\''";
    else
      quoted += c;
  }
  return quoted + "'";
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
