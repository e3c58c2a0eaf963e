#include "refrain/text/tokenizer/pretokenize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "refrain/base/utf8.h"
#include "refrain/text/tokenizer/regex.h"

namespace refrain::text {
namespace {

enum class Class : uint8_t { kOther, kLetter, kNumber, kSpace, kMark };

// Unicode's White_Space (which PCRE2's \s is not quite).
bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Letters, numbers and marks lie below this, but for the marks that select variants: those, and
// characters for private use, are all there is in the planes above.
constexpr char32_t kClassified = 0x40000, kFirstVariant = 0xE0100, kLastVariant = 0xE01EF;

std::vector<Class> classify_all() {
  std::vector<Class> classes(kClassified, Class::kOther);
  const auto set = [&](const char* characters, Class to) {
    const std::vector<bool> chosen = characters_of(characters, kClassified);
    for (char32_t c = 0; c < kClassified; ++c)
      if (chosen[c]) classes[c] = to;
  };
  set("\\p{L}", Class::kLetter);
  set("\\p{N}", Class::kNumber);
  set("\\p{M}", Class::kMark);
  for (char32_t c = 0; c < kClassified; ++c)
    if (is_white_space(c)) classes[c] = Class::kSpace;
  return classes;
}

// Unicode's annex on regular expressions says what \w is.
bool is_of_words(char32_t c) {
  constexpr char32_t kEnd = 0xE0200;  // behind the last mark
  static const std::vector<bool> of_words =
      characters_of("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]", kEnd);
  return c < kEnd && of_words[c];
}

bool is_punctuation(char32_t c) {
  constexpr char32_t kEnd = 0x20000;
  static const std::vector<bool> punctuation = [] {
    std::vector<bool> all = characters_of("\\p{P}", kEnd);
    for (const char of_ascii : std::string_view("$+<=>^`|~"))
      all[static_cast<size_t>(of_ascii)] = true;
    return all;
  }();
  return c < kEnd && punctuation[c];
}

// The last character of `text`, which is not empty.
CodePoint last_character(std::string_view text) {
  for (size_t bytes = 2; bytes <= std::min<size_t>(4, text.size()); ++bytes)
    if (const CodePoint c = decode_utf8(text.substr(text.size() - bytes));
        c.valid && c.bytes == bytes)
      return c;
  return decode_utf8(text.substr(text.size() - 1));
}

Class class_of(char32_t c) {
  static const std::vector<Class> classes = classify_all();
  if (c < kClassified) return classes[c];
  return c >= kFirstVariant && c <= kLastVariant ? Class::kMark : Class::kOther;
}

constexpr std::array<Class, 128> kAscii = [] {
  std::array<Class, 128> classes{};
  for (size_t c = 0; c < 128; ++c) {
    if ((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z')) classes[c] = Class::kLetter;
    if (c >= '0' && c <= '9') classes[c] = Class::kNumber;
    if (c == ' ' || (c >= 0x09 && c <= 0x0D)) classes[c] = Class::kSpace;
  }
  return classes;
}();

struct Character {
  Class kind;
  uint32_t bytes;
};

// The character that starts at `at`, which is inside of `text`. Marks are letters or nothing
// special.
template <Class kMarks>
Character character_at(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 0x80) return {kAscii[first], 1};
  const CodePoint c = decode_utf8(text.substr(at));
  const Class kind = c.valid ? class_of(c.code) : Class::kOther;
  return {kind == Class::kMark ? kMarks : kind, c.bytes};
}

// Where the run of `kind` ends that goes on at `at`.
template <Class kMarks = Class::kOther>
size_t run_end(std::string_view text, size_t at, Class kind) {
  while (at < text.size()) {
    const Character next = character_at<kMarks>(text, at);
    if (next.kind != kind) break;
    at += next.bytes;
  }
  return at;
}

// Bytes of 's 't 're 've 'm 'll 'd at the start of `text`, or 0.
size_t contraction(std::string_view text) {
  if (text[0] != '\'' || text.size() < 2) return 0;
  const char a = text[1];
  if (a == 's' || a == 't' || a == 'm' || a == 'd') return 2;
  if (text.size() < 3) return 0;
  const char b = text[2];
  return ((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l') ? 3 : 0;
}

// White space other than a single ASCII character is rare enough to decode.
bool space_at(std::string_view text, size_t at, uint32_t& bytes) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 0x80) {
    bytes = 1;
    return kAscii[first] == Class::kSpace;
  }
  const CodePoint c = decode_utf8(text.substr(at));
  bytes = c.bytes;
  return c.valid && is_white_space(c.code);
}

// The same in any case. The long s counts: it is one of the cases of s.
size_t any_contraction(std::string_view text) {
  if (text[0] != '\'' || text.size() < 2) return 0;
  const auto small = [&](size_t i) { return static_cast<char>(text[i] | 0x20); };
  const char a = small(1);
  const bool letter = static_cast<uint8_t>(text[1]) < 0x80;
  if (letter && (a == 's' || a == 't' || a == 'm' || a == 'd')) return 2;
  if (text.size() < 3) return 0;
  if (text.substr(1).starts_with("\u017f")) return 3;
  const char b = small(2);
  return letter && (((a == 'r' || a == 'v') && b == 'e') || (a == 'l' && b == 'l')) ? 3 : 0;
}

bool is_line_end(char c) { return c == '\r' || c == '\n'; }

// Others in a run, and the line ends behind them.
template <Class kMarks>
size_t others_end(std::string_view text, size_t at) {
  at = run_end<kMarks>(text, at, Class::kOther);
  while (at < text.size() && is_line_end(text[at])) ++at;
  return at;
}

template <Class kMarks>
size_t pattern_word(int digits, std::string_view text) {
  if (const size_t bytes = any_contraction(text)) return bytes;
  const Character first = character_at<kMarks>(text, 0);
  if (first.kind == Class::kLetter) return run_end<kMarks>(text, first.bytes, Class::kLetter);
  if (first.kind == Class::kNumber) {
    size_t end = first.bytes;
    for (int n = 1; n != digits && end < text.size(); ++n) {
      const Character next = character_at<kMarks>(text, end);
      if (next.kind != Class::kNumber) break;
      end += next.bytes;
    }
    return end;
  }
  const Character second = first.bytes < text.size() ? character_at<kMarks>(text, first.bytes)
                                                     : Character{Class::kSpace, 0};
  // One other character may stand before letters, and a space before others.
  if (second.kind == Class::kLetter && !is_line_end(text[0]))
    return run_end<kMarks>(text, first.bytes + second.bytes, Class::kLetter);
  if (first.kind == Class::kOther) return others_end<kMarks>(text, first.bytes);
  if (second.kind == Class::kOther && text[0] == ' ')
    return others_end<kMarks>(text, first.bytes + second.bytes);
  // White space ends behind its last line end; without one it keeps its last character for the word
  // that follows, if it has another one.
  size_t end = 0, last = 0, line_end = 0;
  while (end < text.size()) {
    const Character next = character_at<kMarks>(text, end);
    if (next.kind != Class::kSpace) break;
    last = end;
    end += next.bytes;
    if (is_line_end(text[last])) line_end = end;
  }
  if (line_end > 0) return line_end;
  return end == text.size() || last == 0 ? end : last;
}

// The next character that the predicate holds for.
template <class Holds>
Run next_of(std::string_view text, size_t at, Holds&& holds) {
  while (at < text.size()) {
    const CodePoint c = decode_utf8(text.substr(at));
    if (c.valid && holds(c.code)) return {at, at + c.bytes};
    at += c.bytes;
  }
  return {text.size(), text.size()};
}

}  // namespace

size_t gpt2_word(std::string_view text) {
  if (const size_t bytes = contraction(text)) return bytes;
  const Character first = character_at<Class::kOther>(text, 0);
  if (first.kind != Class::kSpace) return run_end(text, first.bytes, first.kind);
  if (text[0] == ' ' && text.size() > 1) {
    const Character second = character_at<Class::kOther>(text, 1);
    if (second.kind != Class::kSpace) return run_end(text, 1 + second.bytes, second.kind);
  }
  // White space keeps its last character for the word that follows, if it has another one.
  size_t end = first.bytes, last = 0;
  while (end < text.size()) {
    const Character next = character_at<Class::kOther>(text, end);
    if (next.kind != Class::kSpace) break;
    last = end;
    end += next.bytes;
  }
  return end == text.size() || last == 0 ? end : last;
}

std::string WordPattern::regex() const {
  const char *letters = "\\p{L}+", *all = "\\p{L}\\p{N}";
  if (marks) letters = "[\\p{L}\\p{M}]+", all = "\\p{L}\\p{M}\\p{N}";
  const char* numbers = digits == 1 ? "\\p{N}" : digits == 3 ? "\\p{N}{1,3}" : "\\p{N}+";
  return fmt::format(
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{{L}}\\p{{N}}]?{}|{}| "
      "?[^\\s{}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
      letters, numbers, all);
}

size_t pattern_word(const WordPattern& pattern, std::string_view text) {
  return pattern.marks ? pattern_word<Class::kLetter>(pattern.digits, text)
                       : pattern_word<Class::kOther>(pattern.digits, text);
}

Run next_number(std::string_view text, size_t at) {
  return next_of(text, at, [](char32_t c) { return class_of(c) == Class::kNumber; });
}

Run next_punctuation(std::string_view text, size_t at) { return next_of(text, at, is_punctuation); }

size_t leading_space(std::string_view text) {
  size_t at = 0;
  uint32_t bytes = 0;
  while (at < text.size() && space_at(text, at, bytes)) at += bytes;
  return at;
}

size_t trailing_space(std::string_view text) {
  size_t bytes = 0;
  while (bytes < text.size()) {
    const CodePoint c = last_character(text.substr(0, text.size() - bytes));
    if (!c.valid || !is_white_space(c.code)) break;
    bytes += c.bytes;
  }
  return bytes;
}

bool starts_with_word(std::string_view text) {
  if (text.empty()) return false;
  const CodePoint c = decode_utf8(text);
  return c.valid && is_of_words(c.code);
}

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  const CodePoint c = last_character(text);
  return c.valid && is_of_words(c.code);
}

size_t leading_word(std::string_view text) {
  size_t at = 0;
  uint32_t bytes = 0;
  while (at < text.size() && !space_at(text, at, bytes)) at += bytes;
  return at;
}

size_t leading_run(std::string_view text) {
  const bool of_words = starts_with_word(text);
  size_t at = 0;
  while (at < text.size() && starts_with_word(text.substr(at)) == of_words)
    at += decode_utf8(text.substr(at)).bytes;
  return at;
}

size_t whole_characters(std::string_view text) {
  for (size_t tail = 1; tail <= std::min<size_t>(3, text.size()); ++tail) {
    const std::string_view end = text.substr(text.size() - tail);
    const auto first = static_cast<uint8_t>(end[0]);
    if (first < 0x80) break;
    if (first < 0xC0) continue;  // not a character's first byte
    const CodePoint next = decode_utf8(end);
    const bool may_go_on = !next.valid && next.bytes == tail && first >= 0xC2 && first <= 0xF4;
    return may_go_on ? text.size() - tail : text.size();
  }
  return text.size();
}

}  // namespace refrain::text
