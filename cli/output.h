// The program's two streams: results go to standard output, everything else to standard error.
#pragma once
#include <fmt/format.h>

#include <string>
#include <string_view>

namespace refrain::cli {

// Whoever read standard output has closed it, as `head` does: nothing is wrong, and nothing is left
// to do. It is thrown to end the program, which says nothing.
struct OutputClosed {};

// Both are Errors when standard output cannot be written (a full disk), or throw OutputClosed.
void print(std::string_view text);
void flush_output();

// On standard error, at once: what asks a user to type.
void show_prompt(std::string_view text);

// A line on standard error, whatever characters are in it.
void note(std::string_view line);

// Text without control characters: what is shown of file names and data stays on its line.
std::string one_line(std::string_view text);

// A path as a shell takes it, for hints of what to run next.
std::string shell_word(const std::string& path);

// Text with U+FFFD for whatever in it is not UTF-8, as JSON needs it.
std::string valid_utf8(std::string_view text);

}  // namespace refrain::cli
