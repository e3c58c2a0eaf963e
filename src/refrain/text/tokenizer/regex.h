// Regular expressions of tokenizer.json. They are written for Oniguruma, which the `tokenizers`
// package uses; PCRE2 runs them here (regex_syntax.h says what is refused).
//
// A pattern comes from a file and a text from anywhere, so the work is bounded: each attempt to
// match may backtrack so often only, and all of a text may take kSeconds + kSecondsPerByte n of the
// processor's time. More is an Error.
#pragma once
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace refrain::text {

class Regex {
 public:
  static constexpr size_t kMaxBytes = size_t{1} << 14;

  // `where` is the pattern's place in errors.
  Regex(std::string_view pattern, const std::string& where);
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

 private:
  friend class RegexSearch;
  struct Code;
  std::unique_ptr<Code> code_;
};

// Searches texts one after another. Matches come from left to right without overlap; an empty one
// does not come right behind another. Bytes that are not UTF-8 match nothing, and a text ends there
// as far as the pattern can see.
class RegexSearch {
 public:
  static constexpr double kSeconds = 2, kSecondsPerByte = 2e-6;

  // `bytes` of all texts together.
  RegexSearch(const Regex& regex, size_t bytes);
  RegexSearch(const RegexSearch&) = delete;
  RegexSearch& operator=(const RegexSearch&) = delete;
  ~RegexSearch();

  // `is_utf8`: all of it is known to be.
  void start(std::string_view text, bool is_utf8 = false);
  bool next();  // false when there is no further match
  size_t begin() const { return begin_; }
  size_t end() const { return end_; }

 private:
  struct Memory;
  void begin_part(size_t at);
  bool next_in_part();
  bool match(size_t at);  // sets begin_ and end_, in the part
  void check_time();
  [[noreturn]] void give_up() const;

  const Regex::Code& code_;
  std::unique_ptr<Memory> memory_;
  double started_, allowed_;  // seconds
  size_t attempts_ = 0;
  std::string_view text_, part_;  // part_: a part of the text that is UTF-8
  bool is_utf8_ = false;
  size_t part_begin_ = 0;         // in the text
  size_t at_ = 0, last_end_ = 0;  // in the part; where the last match ended
  bool matched_ = false;          // there is a last match
  size_t begin_ = 0, end_ = 0;
};

// Which code points below `end` the class matches, such as "[\\p{L}\\p{M}]": PCRE2's own syntax.
std::vector<bool> characters_of(const std::string& character_class, char32_t end);

}  // namespace refrain::text
