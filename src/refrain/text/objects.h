// The JSON objects of a file, one by one: in a .jsonl file one per line, in a .json file in a list
// or one after another. Memory does not grow with the file.
#pragma once
#include <cstdint>
#include <string>
#include <string_view>

#include "refrain/io/json.h"
#include "refrain/io/text.h"

namespace refrain::text {

// Whether the name ends with the extension, in upper or lower case, with or without ".gz" after it.
bool has_extension(std::string_view name, std::string_view extension);
// Whether a file of this name is read as objects.
bool holds_objects(std::string_view name);

class ObjectReader {
 public:
  // A longer object is an Error.
  static constexpr size_t kLongest = size_t{1} << 30;
  explicit ObjectReader(io::TextReader reader);

  // The next object, or any other value in its place; false at the end.
  bool next(io::Json& object);
  const std::string& name() const { return reader_.name(); }
  int64_t line() const { return line_; }               // where the last one begins
  const std::string& where() const { return where_; }  // the same with the file's name
  int64_t blank() const { return blank_; }             // lines of .jsonl with white space alone

 private:
  bool next_line();
  bool next_value();
  int peek();  // the next character, -1 at the end
  char take();
  void skip_space();
  [[noreturn]] void unexpected(const std::string& expected);

  io::TextReader reader_;
  bool by_lines_;
  std::string text_, where_;
  int64_t line_ = 0, blank_ = 0;
  // of a .json file
  enum class Place { kStart, kInList, kInSequence, kEnd };
  Place place_ = Place::kStart;
  std::string buffer_;
  size_t at_ = 0;
  int64_t current_line_ = 1;
};

}  // namespace refrain::text
