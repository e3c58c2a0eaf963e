// Values as text: str(), repr(), JSON, and Python's two ways of formatting.
#pragma once
#include <string>
#include <string_view>

#include "refrain/text/chat/jinja/runtime.h"
#include "refrain/text/chat/jinja/value.h"

namespace refrain::text::jinja {

std::string to_text(Runtime& rt, const Value& value);
std::string repr(Runtime& rt, const Value& value);
std::string repr(double number);

// json.dumps as `tojson` of chat templates has it.
struct JsonForm {
  bool ensure_ascii = false;
  bool sort_keys = false;
  bool indented = false;
  std::string indent;
  std::string item_separator = ", ", key_separator = ": ";
};
std::string to_json(Runtime& rt, const Value& value, const JsonForm& form);

// format % arguments, and format.format(*positional, **named).
std::string format_percent(Runtime& rt, const Value& format, const Value& arguments);
std::string format_braces(Runtime& rt, const Text& format, const Arguments& arguments);

// `text` in a field of `width` characters; `align` is one of < > ^, or c: as
// str.center() has it.
std::string padded(Runtime& rt, std::string text, int64_t width, char32_t fill, char align);

}  // namespace refrain::text::jinja
