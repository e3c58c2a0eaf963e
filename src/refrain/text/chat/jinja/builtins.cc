#include "refrain/text/chat/jinja/builtins.h"

#include "refrain/base/utf8.h"
#include "refrain/text/chat/jinja/operators.h"
#include "refrain/text/chat/unicode.h"

namespace refrain::text::jinja {

Bound::Bound(const Runtime& rt, std::string_view function, const Arguments& arguments,
             const Names& expected)
    : rt_(rt), function_(function), values_(expected.names.size()) {
  if (arguments.positional.size() > values_.size())
    rt.fail("{}() takes at most {} arguments, found {}", function, values_.size(),
            arguments.positional.size());
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    size_t i = 0;
    while (i < values_.size() && expected.names.begin()[i] != name) ++i;
    if (i == values_.size())
      rt.fail("{}() got an unexpected keyword argument '{}'", function, name);
    if (values_[i]) rt.fail("{}() got multiple values for argument '{}'", function, name);
    values_[i] = &value;
  }
  for (size_t i = 0; i < expected.required; ++i)
    if (!values_[i]) rt.fail("{}() misses the argument '{}'", function, expected.names.begin()[i]);
}

bool Bound::flag(size_t i) const { return values_[i] && truth(*values_[i]); }

int64_t Bound::integer(size_t i, int64_t absent) const {
  if (!values_[i] || values_[i]->is_none()) return absent;
  refuse_undefined(rt_, *values_[i]);
  if (!values_[i]->is_integer())
    rt_.fail("{}() expected an integer, found {}", function_, type_name(*values_[i]));
  return values_[i]->integer();
}

const std::string& Bound::text(size_t i) const {
  refuse_undefined(rt_, *values_[i]);
  if (!values_[i]->is_text())
    rt_.fail("{}() expected a str, found {}", function_, type_name(*values_[i]));
  return values_[i]->text().bytes;
}

std::string Bound::text(size_t i, std::string_view absent) const {
  return values_[i] ? text(i) : std::string(absent);
}

std::string_view strip(std::string_view text, const Value* characters, bool left, bool right) {
  const auto goes = [&](std::string_view character) {
    if (characters) return characters->text().bytes.find(character) != std::string::npos;
    return unicode::is_space(decode_utf8(character).code);
  };
  while (left && !text.empty()) {
    const size_t bytes = decode_utf8(text).bytes;
    if (!goes(text.substr(0, bytes))) break;
    text.remove_prefix(bytes);
  }
  while (right && !text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && (static_cast<unsigned char>(text[last]) & 0xC0) == 0x80) --last;
    if (!goes(text.substr(last))) break;
    text = text.substr(0, last);
  }
  return text;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> lines;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const CodePoint next = decode_utf8(text.substr(at));
    const char32_t c = next.code;
    const bool ends = (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 ||
                      c == 0x2028 || c == 0x2029;
    if (!ends) {
      at += next.bytes;
      continue;
    }
    const size_t end = at;
    at += next.bytes;
    if (c == '\r' && at < text.size() && text[at] == '\n') ++at;
    lines.push_back(text.substr(start, (keep_ends ? at : end) - start));
    start = at;
  }
  if (start < text.size()) lines.push_back(text.substr(start));
  return lines;
}

}  // namespace refrain::text::jinja
