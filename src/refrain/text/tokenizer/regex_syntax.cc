#include "refrain/text/tokenizer/regex_syntax.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"
#include "refrain/io/json.h"

namespace refrain::text {
namespace {

// Members of classes.
constexpr std::string_view kSpaces =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"
    "\\x{205F}\\x{3000}";
constexpr std::string_view kNoSpaces =
    "\\x{00}-\\x{08}\\x{0E}-\\x{1F}\\x{21}-\\x{84}\\x{86}-\\x{9F}\\x{A1}-\\x{167F}\\x{1681}-"
    "\\x{1FFF}\\x{200B}-\\x{2027}\\x{202A}-\\x{202E}\\x{2030}-\\x{205E}\\x{2060}-\\x{2FFF}"
    "\\x{3001}-\\x{10FFFF}";
// Of the other numbers those of Latin-1 alone.
constexpr std::string_view kWords =
    "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\x{B2}\\x{B3}\\x{B9}\\x{BC}-\\x{BE}";

// Properties that are no scripts.
constexpr std::array<std::string_view, 39> kProperties = {
    "Any", "L",  "Lu", "Ll", "Lt", "Lm", "Lo",         "M",         "Mn",       "Mc",
    "Me",  "N",  "Nd", "Nl", "No", "P",  "Pc",         "Pd",        "Ps",       "Pe",
    "Pi",  "Pf", "Po", "S",  "Sm", "Sc", "Sk",         "So",        "Z",        "Zs",
    "Zl",  "Zp", "C",  "Cc", "Cf", "Co", "Alphabetic", "Uppercase", "Lowercase"};
constexpr std::array<std::string_view, 5> kByCase = {"Lu", "Ll", "Lt", "Uppercase", "Lowercase"};
// Letters that together equal one other.
constexpr std::array<std::string_view, 5> kFolded = {"ss", "ff", "fi", "fl", "st"};

template <class List>
bool has(const List& list, std::string_view name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }
bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_alnum(char c) { return is_ascii(c) && std::isalnum(static_cast<unsigned char>(c)) != 0; }
bool is_hex(char c) { return is_ascii(c) && std::isxdigit(static_cast<unsigned char>(c)) != 0; }

class Translator {
 public:
  Translator(std::string_view pattern, const std::string& where) : in_(pattern), where_(where) {}

  std::string translate() {
    while (at_ < in_.size()) {
      const char c = in_[at_];
      if (c != '\\' && (is_alnum(c) || !is_ascii(c))) {
        literal();
        continue;
      }
      before_ = 0;
      if (c == '\\') {
        escape();
      } else if (c == '[') {
        character_class();
      } else if (c == '(') {
        open_group();
      } else if (c == ')') {
        if (ignores_case_.size() > 1) ignores_case_.pop_back();
        out_ += in_[at_++];
      } else if (c == '{') {
        interval();
      } else if (c == ']' || c == '}') {
        out_ += '\\';
        out_ += in_[at_++];
      } else {
        out_ += in_[at_++];
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw_error("{}: the regular expression {} has {}, which is not supported", where_,
                io::quote(in_), io::quote(what));
  }
  char peek(size_t ahead) const { return at_ + ahead < in_.size() ? in_[at_ + ahead] : '\0'; }
  bool goes_on_with(std::string_view text) const { return in_.substr(at_).starts_with(text); }
  bool ignores_case() const { return ignores_case_.back(); }
  std::string_view character() const { return in_.substr(at_, decode_utf8(in_.substr(at_)).bytes); }

  // A letter, a digit or a character above ASCII.
  void literal() {
    const std::string_view c = character();
    if (ignores_case()) {
      if (c.size() > 1) refuse(c);
      const char small = static_cast<char>(std::tolower(static_cast<unsigned char>(c[0])));
      if (before_ != 0 && has(kFolded, std::string{before_, small})) refuse(in_.substr(at_ - 1, 2));
      before_ = small;
    }
    out_ += c;
    at_ += c.size();
  }

  void open_group() {
    for (const std::string_view opener : {"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"})
      if (goes_on_with(opener)) return open(opener, opener, ignores_case());
    if (goes_on_with("(?i:")) return open("(?i:", "(?i:", true);
    if (goes_on_with("(?-i:")) return open("(?-i:", "(?-i:", false);
    if (at_ == 0 && goes_on_with("(?i)")) {
      ignores_case_.back() = true;
      out_ += "(?i)";
      at_ += 4;
      return;
    }
    if (peek(1) == '?' || peek(1) == '*') refuse(in_.substr(at_, 4));
    open("(", "(?:", ignores_case());
  }
  void open(std::string_view read, std::string_view written, bool ignores_case) {
    ignores_case_.push_back(ignores_case);
    out_ += written;
    at_ += read.size();
  }

  // {n}, {n,}, {,m}, {n,m}; other braces are themselves.
  void interval() {
    size_t end = at_ + 1;
    const auto digits = [&] {
      const size_t from = end;
      while (end < in_.size() && is_digit(in_[end])) ++end;
      return in_.substr(from, end - from);
    };
    const std::string_view low = digits();
    const bool fixed = end < in_.size() && in_[end] == '}';
    if (!fixed && end < in_.size() && in_[end] == ',') ++end;
    const std::string_view high = fixed ? low : digits();
    if (end >= in_.size() || in_[end] != '}' || (low.empty() && high.empty())) {
      out_ += "\\{";
      ++at_;
      return;
    }
    ++end;
    const char behind = end < in_.size() ? in_[end] : '\0';
    if (behind == '+' || (fixed && behind == '?')) refuse(in_.substr(at_, end + 1 - at_));
    out_ += '{';
    out_ += low.empty() ? "0" : low;
    if (!fixed) {
      out_ += ',';
      out_ += high;
    }
    out_ += '}';
    at_ = end;
  }

  // An escape that is one character, in classes or not. False if it is not.
  bool single_character() {
    const char c = peek(1);
    switch (c) {
      case 'r':
      case 'n':
      case 't':
      case 'f':
        out_ += in_.substr(at_, 2);
        break;
      case 'v':
        out_ += "\\x{0B}";
        break;
      case 'a':
        out_ += "\\x{07}";
        break;
      case 'e':
        out_ += "\\x{1B}";
        break;
      case 'x':
      case 'u':
        code(c);
        return true;
      default:
        if (at_ + 1 >= in_.size() || is_alnum(c)) return false;
        if (is_ascii(c)) {
          out_ += in_.substr(at_, 2);
          break;
        }
        ++at_;
        out_ += character();
        at_ += character().size();
        return true;
    }
    at_ += 2;
    return true;
  }

  // \x41 \x{1F600} \u00e9
  void code(char kind) {
    const size_t from = at_;
    const bool braces = kind == 'x' && peek(2) == '{';
    at_ += braces ? 3 : 2;
    const size_t most = braces ? 8 : kind == 'x' ? 2 : 4, first = at_;
    while (at_ < in_.size() && at_ - first < most && is_hex(in_[at_])) ++at_;
    const std::string_view digits = in_.substr(first, at_ - first);
    const bool complete = braces ? !digits.empty() && peek(0) == '}' : digits.size() == most;
    // Two digits are a byte, which is a character in ASCII only.
    if (!complete || (kind == 'x' && !braces && digits[0] > '7'))
      refuse(in_.substr(from, at_ + 1 - from));
    if (braces) ++at_;
    if (ignores_case()) refuse(in_.substr(from, at_ - from));
    out_ += "\\x{";
    out_ += digits;
    out_ += '}';
  }

  void property() {
    const size_t from = at_, end = in_.find('}', at_);
    if (peek(2) != '{' || end == in_.npos) refuse(in_.substr(from, 3));
    std::string_view name = in_.substr(at_ + 3, end - at_ - 3);
    at_ = end + 1;
    bool negative = in_[from + 1] == 'P';
    if (name.starts_with('^')) {
      negative = !negative;
      name.remove_prefix(1);
    }
    const bool plain = !name.empty() && std::all_of(name.begin(), name.end(),
                                                    [](char c) { return is_alnum(c) || c == '_'; });
    if (!plain || (ignores_case() && has(kByCase, name))) refuse(in_.substr(from, at_ - from));
    out_ += negative ? "\\P{" : "\\p{";
    if (!has(kProperties, name)) out_ += "sc:";
    out_ += name;
    out_ += '}';
  }

  void escape() {
    if (single_character()) return;
    const char c = peek(1);
    const auto write = [&](std::initializer_list<std::string_view> parts) {
      for (const std::string_view part : parts) out_ += part;
      at_ += 2;
    };
    switch (c) {
      case 's':
        return write({"[", kSpaces, "]"});
      case 'S':
        return write({"[^", kSpaces, "]"});
      case 'w':
        return write({"[", kWords, "]"});
      case 'W':
        return write({"[^", kWords, "]"});
      case 'd':
        return write({"\\p{Nd}"});
      case 'D':
        return write({"\\P{Nd}"});
      case 'p':
      case 'P':
        return property();
      case 'b':
        return write(
            {"(?:(?<=[", kWords, "])(?![", kWords, "])|(?<![", kWords, "])(?=[", kWords, "]))"});
      case 'B':
        return write(
            {"(?:(?<=[", kWords, "])(?=[", kWords, "])|(?<![", kWords, "])(?![", kWords, "]))"});
      case 'A':
      case 'z':
      case 'Z':
        return write({in_.substr(at_, 2)});
      default:
        refuse(in_.substr(at_, 2));
    }
  }

  void character_class() {
    const size_t from = at_;
    out_ += in_[at_++];
    if (peek(0) == '^') out_ += in_[at_++];
    if (peek(0) == ']') refuse(in_.substr(from, at_ + 1 - from));
    bool behind_set = false;  // a hyphen behind a set of characters, or before one, is itself
    while (at_ < in_.size() && in_[at_] != ']') {
      const char c = in_[at_];
      if (c == '[' || goes_on_with("&&")) refuse(in_.substr(at_, 2));
      if (c == '\\') {
        behind_set = class_escape();
        continue;
      }
      if (c == '-') {
        out_ += behind_set || is_set(1) ? "\\-" : "-";
        ++at_;
      } else {
        if (ignores_case() && !is_ascii(c)) refuse(character());
        out_ += character();
        at_ += character().size();
      }
      behind_set = false;
    }
    if (at_ >= in_.size()) refuse(in_.substr(from));
    out_ += in_[at_++];
  }
  bool is_set(size_t ahead) const {
    return peek(ahead) == '\\' &&
           std::string_view("sSdDwpP").find(peek(ahead + 1)) != std::string_view::npos;
  }
  // True if it was a set.
  bool class_escape() {
    if (!is_set(0)) {
      if (!single_character()) refuse(in_.substr(at_, 2));
      return false;
    }
    const char c = peek(1);
    if (c == 'p' || c == 'P') {
      property();
      return true;
    }
    out_ += c == 's' ? kSpaces : c == 'S' ? kNoSpaces : c == 'w' ? kWords : "";
    if (c == 'd') out_ += "\\p{Nd}";
    if (c == 'D') out_ += "\\P{Nd}";
    at_ += 2;
    return true;
  }

  std::string_view in_;
  const std::string& where_;
  size_t at_ = 0;
  std::string out_;
  std::vector<bool> ignores_case_ = {false};  // of the groups that are open
  char before_ = 0;                           // a letter before, where case is ignored
};

}  // namespace

std::string to_pcre2(std::string_view pattern, const std::string& where) {
  return Translator(pattern, where).translate();
}

}  // namespace refrain::text
