// Splits text into words. A tokenizer's merges stay inside of a word.
//
//   white space  runs of characters without Unicode's White_Space property (the bpe kind)
//   GPT-2        's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//   WordPattern  (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
//                 ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//                of GPT-4 and Llama 3; with one digit each, of Qwen 2; with marks, of Qwen 3.5
//
// The code scans the patterns by hand, one character class at a time. PCRE2's Unicode tables define
// letters, numbers and marks. Bytes that are not valid UTF-8 count as neither letter, number nor
// space.
//
// The first two take text in parts. Unless a part is the `last`, words that more text could change
// are left over, and the number of processed bytes is returned.
#pragma once
#include <cstddef>
#include <string>
#include <string_view>

namespace refrain::text {

// Bytes of the first word of `text` by GPT-2's pattern; `text` is not empty.
size_t gpt2_word(std::string_view text);

struct WordPattern {
  static constexpr const char* kGpt2 =
      "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

  bool marks;  // [\p{L}\p{M}] are letters
  int digits;  // at most so many together; 0 for any number
  std::string regex() const;
};
// Bytes of the first word of `text`, which is not empty.
size_t pattern_word(const WordPattern& pattern, std::string_view text);

// The next such character from `at` on; empty and at the end if there is none.
struct Run {
  size_t begin, end;
};
Run next_number(std::string_view text, size_t at);       // \p{N}
Run next_punctuation(std::string_view text, size_t at);  // \p{P}, and all of ASCII's

// Bytes of white space at the start of `text`.
size_t leading_space(std::string_view text);
// Bytes of white space at its end.
size_t trailing_space(std::string_view text);
// Whether the text begins, or ends, with a character of words: letters, marks, digits, connectors
// such as the underscore (what \w is for the `tokenizers` package).
bool starts_with_word(std::string_view text);
bool ends_with_word(std::string_view text);
// Bytes before the first white space.
size_t leading_word(std::string_view text);

// Bytes of the run of such characters, or of others, at the start of `text`, which is not empty.
size_t leading_run(std::string_view text);

// Bytes of `text` before an incomplete character at its end.
size_t whole_characters(std::string_view text);

template <class F>
size_t for_each_gpt2_word(std::string_view text, bool last, F&& f) {
  // The pattern looks at most a white space and a character (3 + 4 bytes) past a word's end.
  constexpr size_t kLookahead = 8;
  size_t at = 0;
  while (at < text.size()) {
    const size_t bytes = gpt2_word(text.substr(at));
    if (!last && at + bytes + kLookahead > text.size()) break;
    f(text.substr(at, bytes));
    at += bytes;
  }
  return at;
}

template <class F>
size_t for_each_spaced_word(std::string_view text, bool last, F&& f) {
  size_t at = 0;
  for (;;) {
    at += leading_space(text.substr(at));
    const size_t bytes = leading_word(text.substr(at));
    if (bytes == 0 || (!last && at + bytes == text.size())) return at;
    f(text.substr(at, bytes));
    at += bytes;
  }
}

// The same, cut also between characters of words and others: \w+|[^\w\s]+.
template <class F>
void for_each_run(std::string_view text, F&& f) {
  for_each_spaced_word(text, true, [&](std::string_view word) {
    while (!word.empty()) {
      const size_t bytes = leading_run(word);
      f(word.substr(0, bytes));
      word.remove_prefix(bytes);
    }
  });
}

}  // namespace refrain::text
