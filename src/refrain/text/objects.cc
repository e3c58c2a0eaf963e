#include "refrain/text/objects.h"

#include <algorithm>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/text/source.h"

namespace refrain::text {
namespace {

char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

bool ends_with(std::string_view name, std::string_view end) {
  return name.size() >= end.size() &&
         std::equal(end.begin(), end.end(), name.end() - static_cast<ptrdiff_t>(end.size()),
                    [](char a, char b) { return a == lower(b); });
}

}  // namespace

bool has_extension(std::string_view name, std::string_view extension) {
  if (ends_with(name, ".gz")) name.remove_suffix(3);
  return ends_with(name, extension);
}

bool holds_objects(std::string_view name) {
  return has_extension(name, ".jsonl") || has_extension(name, ".json");
}

ObjectReader::ObjectReader(io::TextReader reader)
    : reader_(std::move(reader)), by_lines_(!has_extension(reader_.name(), ".json")) {}

bool ObjectReader::next(io::Json& object) {
  if (!(by_lines_ ? next_line() : next_value())) return false;
  where_ = fmt::format("{}: {}line {}", name(), by_lines_ ? "" : "the object of ", line_);
  object = io::parse_json(text_, where_, kLongest);
  return true;
}

bool ObjectReader::next_line() {
  while (reader_.line(text_, kLongest)) {
    line_ = reader_.line_number();
    if (!is_blank(text_)) return true;
    ++blank_;
  }
  return false;
}

int ObjectReader::peek() {
  constexpr size_t kPiece = size_t{1} << 16;
  if (at_ == buffer_.size()) {
    at_ = 0;
    if (!reader_.read(buffer_, kPiece)) return -1;
  }
  return static_cast<unsigned char>(buffer_[at_]);
}

char ObjectReader::take() {
  const char c = buffer_[at_++];
  if (c == '\n') ++current_line_;
  return c;
}

void ObjectReader::skip_space() {
  for (int c = peek(); c == ' ' || c == '\t' || c == '\n' || c == '\r'; c = peek()) take();
}

void ObjectReader::unexpected(const std::string& expected) {
  const int found = peek();
  const char character = static_cast<char>(found);
  throw_error("{}: line {}: expected {}, found {}", name(), current_line_, expected,
              found < 0 ? "the end of the file" : io::quote({&character, 1}));
}

bool ObjectReader::next_value() {
  skip_space();
  const bool starts = place_ == Place::kStart;
  if (starts) {
    place_ = peek() == '[' ? Place::kInList : Place::kInSequence;
    if (place_ == Place::kInList) take(), skip_space();
  }
  if (place_ == Place::kInList) {
    const bool comma = !starts && peek() == ',';
    if (peek() == ']') {
      take();
      skip_space();
      if (peek() >= 0) unexpected("the end of the file behind its list");
      place_ = Place::kEnd;
    } else if (comma) {
      take();
      skip_space();
    } else if (!starts) {
      unexpected("\",\" or \"]\" behind an object");
    }
  }
  if (place_ == Place::kEnd || (place_ == Place::kInSequence && peek() < 0)) return false;
  if (peek() != '{') unexpected("an object");

  line_ = current_line_;
  text_.clear();
  int64_t depth = 0;
  bool in_string = false;
  do {
    if (peek() < 0) unexpected(fmt::format("the end of the object of line {}", line_));
    if (text_.size() >= kLongest)
      throw_error("{}: line {}: an object of more than {} bytes", name(), line_, kLongest);
    const char c = take();
    text_ += c;
    if (in_string && c == '\\' && peek() >= 0)
      text_ += take();
    else if (c == '"')
      in_string = !in_string;
    else if (!in_string)
      depth += (c == '{' || c == '[') - (c == '}' || c == ']');
  } while (depth > 0);
  return true;
}

}  // namespace refrain::text
