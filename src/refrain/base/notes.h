// Remarks on what was read, where nothing is wrong: a setting that is left aside, say. Nothing
// under src/ prints; who has a file read says where its remarks go, and the program passes its
// note(), which writes them to standard error.
#pragma once
#include <fmt/format.h>

#include <functional>
#include <string>
#include <utility>

namespace refrain {

// Takes one line, without a line end, that says of which file it speaks. Empty: nobody listens.
using Notes = std::function<void(const std::string& line)>;

// add_note(notes, "{}: {}: left aside", path, what)
template <class... Args>
void add_note(const Notes& notes, fmt::format_string<Args...> format, Args&&... args) {
  if (notes) notes(fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace refrain
