#include "refrain/text/tokenizer/pretokenize.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/base/utf8.h"

namespace refrain::text {
namespace {

enum class Class : uint8_t { kOther, kLetter, kNumber, kSpace };

// Unicode's White_Space (which PCRE2's \s is not quite).
bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

// Letters and numbers lie below this: the planes above hold marks and private characters.
constexpr char32_t kClassified = 0x40000;

// Calls f(code point, group) for all below `end` that the pattern, a run of characters, matches:
// one search over a text of them all. `group` tells which of the pattern's alternatives it was.
template <class F>
void for_each_match(const char* runs, char32_t end, F&& f) {
  std::string all;
  for (char32_t c = 0; c < end; ++c)
    if (c < 0xD800 || c > 0xDFFF) append_utf8(all, c);
  int error = 0;
  PCRE2_SIZE error_at = 0;
  const std::unique_ptr<pcre2_code, void (*)(pcre2_code*)> pattern(
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(runs), PCRE2_ZERO_TERMINATED,
                    PCRE2_UTF | PCRE2_UCP, &error, &error_at, nullptr),
      pcre2_code_free);
  REFRAIN_CHECK(pattern);
  pcre2_jit_compile(pattern.get(), PCRE2_JIT_COMPLETE);  // only speed depends on it
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> match(
      pcre2_match_data_create_from_pattern(pattern.get(), nullptr), pcre2_match_data_free);
  REFRAIN_CHECK(match);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(all.data());
  const PCRE2_SIZE* range = pcre2_get_ovector_pointer(match.get());
  size_t at = 0;
  for (;;) {
    const int groups = pcre2_match(pattern.get(), subject, all.size(), at, PCRE2_NO_UTF_CHECK,
                                   match.get(), nullptr);
    if (groups < 1) break;
    std::string_view run = std::string_view(all).substr(range[0], range[1] - range[0]);
    while (!run.empty()) {
      const CodePoint c = decode_utf8(run);
      f(c.code, groups - 1);
      run.remove_prefix(c.bytes);
    }
    at = range[1];
  }
}

std::vector<Class> classify_all() {
  std::vector<Class> classes(kClassified, Class::kOther);
  for (char32_t c = 0; c < kClassified; ++c)
    if (is_white_space(c)) classes[c] = Class::kSpace;
  for_each_match("\\p{L}+|(\\p{N}+)", kClassified, [&](char32_t c, int group) {
    classes[c] = group == 1 ? Class::kNumber : Class::kLetter;
  });
  return classes;
}

// Unicode's annex on regular expressions says what \w is.
bool is_of_words(char32_t c) {
  constexpr char32_t kEnd = 0xE0200;  // behind the last mark
  static const std::vector<bool> of_words = [] {
    std::vector<bool> all(kEnd);
    for_each_match("[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]+", kEnd,
                   [&](char32_t code, int) { all[code] = true; });
    return all;
  }();
  return c < kEnd && of_words[c];
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
  return c < kClassified ? classes[c] : Class::kOther;
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

// The character that starts at `at`, which is inside of `text`.
Character character_at(std::string_view text, size_t at) {
  const auto first = static_cast<uint8_t>(text[at]);
  if (first < 0x80) return {kAscii[first], 1};
  const CodePoint c = decode_utf8(text.substr(at));
  return {c.valid ? class_of(c.code) : Class::kOther, c.bytes};
}

// Where the run of `kind` ends that goes on at `at`.
size_t run_end(std::string_view text, size_t at, Class kind) {
  while (at < text.size()) {
    const Character next = character_at(text, at);
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

}  // namespace

size_t gpt2_word(std::string_view text) {
  if (const size_t bytes = contraction(text)) return bytes;
  const Character first = character_at(text, 0);
  if (first.kind != Class::kSpace) return run_end(text, first.bytes, first.kind);
  if (text[0] == ' ' && text.size() > 1) {
    const Character second = character_at(text, 1);
    if (second.kind != Class::kSpace) return run_end(text, 1 + second.bytes, second.kind);
  }
  // White space keeps its last character for the word that follows, if it has another one.
  size_t end = first.bytes, last = 0;
  while (end < text.size()) {
    const Character next = character_at(text, end);
    if (next.kind != Class::kSpace) break;
    last = end;
    end += next.bytes;
  }
  return end == text.size() || last == 0 ? end : last;
}

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
