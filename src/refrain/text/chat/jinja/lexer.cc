#include "refrain/text/chat/jinja/lexer.h"

#include <algorithm>
#include <charconv>
#include <optional>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"
#include "refrain/text/chat/unicode.h"

namespace refrain::text::jinja {
namespace {

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

std::string normalized(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      text += source[i];
    } else {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

int lines_in(std::string_view text) {
  return static_cast<int>(std::count(text.begin(), text.end(), '\n'));
}

class Lexer {
 public:
  Lexer(std::string_view source, const std::string& name)
      : source_(normalized(source)), name_(name) {
    if (const auto at = find_invalid_utf8(source_)) {
      line_ += lines_in(std::string_view(source_).substr(0, *at));
      fail("invalid UTF-8");
    }
  }

  std::vector<Token> run() {
    while (at_ < source_.size()) root();
    put(TokenKind::kEnd);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw_error("{}: line {}: {}", name_, line_, message);
  }

  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  char ahead(size_t i = 0) const { return at_ + i < source_.size() ? source_[at_ + i] : '\0'; }

  void put(TokenKind kind, std::string_view text = {}) {
    Token& token = tokens_.emplace_back();
    token.kind = kind;
    token.line = line_;
    token.text = text;
  }

  void consume(size_t bytes) {
    const std::string_view taken = rest().substr(0, bytes);
    line_ += lines_in(taken);
    line_starting_ = taken.ends_with('\n');
    at_ += bytes;
  }

  size_t spaces(size_t from) const {  // bytes of white space there
    size_t at = from;
    while (at < source_.size()) {
      const CodePoint next = decode_utf8(std::string_view(source_).substr(at));
      if (!unicode::is_space(next.code)) break;
      at += next.bytes;
    }
    return at - from;
  }

  // The data before a tag whose sign is `sign`, and without what the tag strips of it.
  void put_data(std::string_view text, char sign, bool variable) {
    std::string_view kept = text;
    if (sign == '-') {
      while (!kept.empty()) {
        size_t last = kept.size() - 1;
        while (last > 0 && (static_cast<unsigned char>(kept[last]) & 0xC0) == 0x80) --last;
        if (!unicode::is_space(decode_utf8(kept.substr(last)).code)) break;
        kept = kept.substr(0, last);
      }
    } else if (sign != '+' && !variable) {
      const size_t newline = text.rfind('\n');
      const size_t line = newline == text.npos ? 0 : newline + 1;
      if (line > 0 || line_starting_) {
        const size_t from = static_cast<size_t>(text.data() - source_.data()) + line;
        const size_t rest_of_line = text.size() - line;
        if (rest_of_line > 0 && spaces(from) >= rest_of_line) kept = text.substr(0, line);
      }
    }
    if (!kept.empty()) put(TokenKind::kData, kept);
  }

  char sign_at(size_t i) const {
    const char c = i < source_.size() ? source_[i] : '\0';
    return c == '-' || c == '+' ? c : '\0';
  }

  // The end of `{% raw %}` at `at`, or nothing if that is another tag.
  std::optional<size_t> raw_tag(size_t at, std::string_view word) const {
    size_t i = at + 2;
    if (sign_at(i)) ++i;
    i += spaces(i);
    if (!std::string_view(source_).substr(i).starts_with(word)) return {};
    i += word.size();
    i += spaces(i);
    return i;
  }

  void root() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == source_.npos || tag + 1 >= source_.size()) {
        put(TokenKind::kData, rest());
        consume(source_.size() - at_);
        return;
      }
      const char next = source_[tag + 1];
      if (next == '%' || next == '{' || next == '#') break;
      ++tag;
    }
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2);
    put_data(rest().substr(0, tag - at_), sign, kind == '{');
    consume(tag - at_);
    if (kind == '%') {
      if (const auto end = raw_tag(tag, "raw")) {
        const std::string_view close = std::string_view(source_).substr(*end);
        if (close.starts_with("-%}")) return raw(*end + 3 + spaces(*end + 3));
        if (close.starts_with("%}")) return raw(*end + 2);
      }
    }
    const TokenKind begin = kind == '{' ? TokenKind::kVariableBegin : TokenKind::kBlockBegin;
    if (kind != '#') put(begin);
    consume(sign ? 3 : 2);
    if (kind == '#') return comment();
    expression(kind == '{');
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (at_ == source_.size()) return;  // as Jinja has it: nothing is left that could be wrong
    if (end == source_.npos) fail("a comment without an end");
    const char sign = end > at_ ? sign_at(end - 1) : '\0';
    const size_t after = end + 2;
    if (sign == '-') return consume(after + spaces(after) - at_);
    const bool newline = sign != '+' && after < source_.size() && source_[after] == '\n';
    consume(after + newline - at_);
  }

  void raw(size_t content) {
    consume(content - at_);
    for (size_t tag = source_.find("{%", at_); tag != source_.npos;
         tag = source_.find("{%", tag + 1)) {
      const auto end = raw_tag(tag, "endraw");
      if (!end) continue;
      const std::string_view close = std::string_view(source_).substr(*end);
      size_t after;
      if (close.starts_with("-%}")) {
        after = *end + 3 + spaces(*end + 3);
      } else if (close.starts_with("+%}")) {
        after = *end + 3;
      } else if (close.starts_with("%}")) {
        after = *end + 2 + (close.size() > 2 && close[2] == '\n');
      } else {
        continue;
      }
      put_data(rest().substr(0, tag - at_), sign_at(tag + 2), false);
      return consume(after - at_);
    }
    if (at_ < source_.size()) fail("a raw block without an end");
  }

  // The bytes of the end of the tag here; nothing if this is not its end.
  std::optional<size_t> tag_end(bool variable) const {
    const std::string_view text = rest();
    const std::string_view close = variable ? "}}" : "%}";
    if (text.starts_with('-') && text.substr(1).starts_with(close)) return 3 + spaces(at_ + 3);
    if (!variable && text.starts_with("+%}")) return 3;
    if (!text.starts_with(close)) return {};
    return 2 + (!variable && ahead(2) == '\n');
  }

  void expression(bool variable) {
    brackets_.clear();
    while (at_ < source_.size()) {
      if (brackets_.empty()) {
        if (const auto end = tag_end(variable)) {
          put(variable ? TokenKind::kVariableEnd : TokenKind::kBlockEnd);
          return consume(*end);
        }
      }
      if (const size_t blank = spaces(at_)) {
        consume(blank);
      } else if (is_digit(ahead())) {
        number();
      } else if (is_name(ahead())) {
        size_t end = 1;
        while (is_name(ahead(end))) ++end;
        put(TokenKind::kName, rest().substr(0, end));
        consume(end);
      } else if (ahead() == '\'' || ahead() == '"') {
        string();
      } else {
        operation();
      }
    }
  }

  // Digits with single underscores between them, from i on; the place after them.
  size_t digits(size_t i) const {
    while (is_digit(ahead(i)) || (ahead(i) == '_' && is_digit(ahead(i + 1)))) ++i;
    return i;
  }

  void number() {
    const bool after_dot = at_ > 0 && source_[at_ - 1] == '.';
    size_t end = digits(0);
    if (!after_dot) {
      size_t fraction = end;
      if (ahead(end) == '.' && is_digit(ahead(end + 1))) fraction = digits(end + 1);
      size_t exponent = fraction;
      if (ahead(fraction) == 'e' || ahead(fraction) == 'E') {
        const size_t sign =
            fraction + 1 + (ahead(fraction + 1) == '+' || ahead(fraction + 1) == '-');
        if (is_digit(ahead(sign))) exponent = digits(sign);
      }
      if (exponent != end) return put_number(exponent, 0);
    }
    const char base = static_cast<char>(ahead(1) | 0x20);
    const int radix = base == 'b' ? 2 : base == 'o' ? 8 : base == 'x' ? 16 : 10;
    if (ahead() == '0' && radix != 10) {
      size_t last = 2;
      const auto is_one = [&](char c) {
        const char low = static_cast<char>(c | 0x20);
        return (is_digit(c) && c - '0' < radix) || (radix == 16 && low >= 'a' && low <= 'f');
      };
      while (is_one(ahead(last)) || (ahead(last) == '_' && is_one(ahead(last + 1)))) ++last;
      if (last > 2) return put_number(last, radix);
    }
    if (ahead() == '0') {  // zeros alone; what follows them is another number
      end = 1;
      while (ahead(end) == '0' || (ahead(end) == '_' && ahead(end + 1) == '0')) ++end;
    }
    put_number(end, 10);
  }

  void put_number(size_t bytes, int radix) {  // radix 0: a float
    std::string text(rest().substr(0, bytes));
    std::erase(text, '_');
    put(radix ? TokenKind::kInteger : TokenKind::kFloat, text);
    if (radix) {
      const char* first = text.data() + (radix == 10 ? 0 : 2);
      const auto read =
          std::from_chars(first, text.data() + text.size(), tokens_.back().integer, radix);
      if (read.ec != std::errc()) fail("an integer that 64 bits cannot hold: " + io::quote(text));
    } else {
      const auto read =
          std::from_chars(text.data(), text.data() + text.size(), tokens_.back().number);
      if (read.ec != std::errc()) fail("a number that no double can hold: " + io::quote(text));
    }
    consume(bytes);
  }

  void string() {
    const char quote = ahead();
    size_t end = 1;
    while (at_ + end < source_.size() && ahead(end) != quote) end += ahead(end) == '\\' ? 2 : 1;
    if (at_ + end >= source_.size()) fail("a string without an end");
    put(TokenKind::kString, unescape(rest().substr(1, end - 1)));
    consume(end + 1);
  }

  std::string unescape(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\') {
        out += text[i];
        continue;
      }
      const char c = text[++i];  // there is one: a string does not end within an escape
      constexpr std::string_view kFrom = "\\'\"abfnrtv", kTo = "\\'\"\a\b\f\n\r\t\v";
      if (const size_t simple = kFrom.find(c); simple != kFrom.npos) {
        out += kTo[simple];
      } else if (c == '\n') {
      } else if (c >= '0' && c <= '7') {
        size_t n = 1;
        while (n < 3 && i + n < text.size() && text[i + n] >= '0' && text[i + n] <= '7') ++n;
        append(out, text.substr(i, n), 8);
        i += n - 1;
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        append(out, text.substr(i + 1, n), 16, n);
        i += n;
      } else if (c == 'N') {
        fail("characters by name are not supported in strings");
      } else if (static_cast<unsigned char>(c) >= 0x80) {  // as Python's detour over ASCII reads it
        const CodePoint code = decode_utf8(text.substr(i));
        const auto value = static_cast<uint32_t>(code.code);
        out += value < 0x100     ? fmt::format("\\x{:02x}", value)
               : value < 0x10000 ? fmt::format("\\u{:04x}", value)
                                 : fmt::format("\\U{:08x}", value);
        i += code.bytes - 1;
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  void append(std::string& out, std::string_view digits, int radix, size_t count = 0) const {
    uint32_t code = 0;
    const auto read = std::from_chars(digits.data(), digits.data() + digits.size(), code, radix);
    if (digits.size() < count || read.ec != std::errc() ||
        read.ptr != digits.data() + digits.size() || code > 0x10FFFF ||
        (code >= 0xD800 && code <= 0xDFFF))
      fail("a string with an escape that is no character");
    append_utf8(out, code);
  }

  void operation() {
    static constexpr std::string_view kTwo[] = {"//", "**", "==", "!=", ">=", "<="};
    static constexpr std::string_view kOne = "+-/*%~[](){}><=.:|,;";
    size_t bytes = 0;
    for (const std::string_view two : kTwo)
      if (rest().starts_with(two)) bytes = 2;
    if (!bytes && kOne.find(ahead()) != kOne.npos && ahead() != '\0') bytes = 1;
    if (!bytes) {
      const size_t length = decode_utf8(rest()).bytes;
      fail("unexpected character " + io::quote(rest().substr(0, length)));
    }
    const char c = ahead();
    if (bytes == 1 && (c == '(' || c == '[' || c == '{')) {
      brackets_ += c == '(' ? ')' : c == '[' ? ']' : '}';
    } else if (bytes == 1 && (c == ')' || c == ']' || c == '}')) {
      if (brackets_.empty()) fail(fmt::format("unexpected '{}'", c));
      if (brackets_.back() != c)
        fail(fmt::format("unexpected '{}', expected '{}'", c, brackets_.back()));
      brackets_.pop_back();
    }
    put(TokenKind::kOperator, rest().substr(0, bytes));
    consume(bytes);
  }

  const std::string source_;
  const std::string& name_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::string brackets_;  // those that are open: what closes them
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source, const std::string& name) {
  return Lexer(source, name).run();
}

}  // namespace refrain::text::jinja
