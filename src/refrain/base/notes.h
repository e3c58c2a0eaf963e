// Remarks about an input that is not wrong, for example a setting that is ignored. Nothing under
// src/ prints. The caller says where remarks go; the program passes its note(), which writes them
// to standard error.
#pragma once
#include <fmt/format.h>

#include <functional>
#include <string>
#include <utility>

namespace refrain {

// Takes one line without a line end. The line names the file. Empty: remarks are dropped.
using Notes = std::function<void(const std::string& line)>;

// add_note(notes, "{}: {}: left aside", path, what)
template <class... Args>
void add_note(const Notes& notes, fmt::format_string<Args...> format, Args&&... args) {
  if (notes) notes(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace refrain
