// Where a text may be cut so that its parts, encoded one by one, give the ids of the whole.
//
// A cut must be at a place that no merge, no added token and no word of the pre-tokenizer crosses.
// The text before it must be encoded the same whether the text ends there or not. b is the
// character before the cut, c the one after. "Visible" is neither white space nor sentencepiece's
// mark for a space.
//
//   char      anywhere, unless a run of unknown characters is one token
//   bpe       b or c is white space, which is in no token
//   byte-bpe  c is white space and b visible: GPT-2's pattern ends a word there whatever follows.
//             c is the last of several white spaces before something visible, for the pattern
//             keeps that one for the next word. b is a letter or number of ASCII and c another
//             class of ASCII. If it puts a space before text, only before spaces. If it does not
//             split, only in front of white space, and only if no merge has it behind anything
//             else. Where numbers are split off first, only in front of white space. In the words
//             of a WordPattern, c is a space and b visible, or b is a line feed and c visible: line
//             ends belong to the word before them. No place after other steps.
//   llama     c is a space and b visible, if no merge has a space behind anything else. The space
//             is dropped if the normalizer puts one before every text.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/io/text.h"

namespace refrain::text {

class TextCuts {
 public:
  enum class Rule {
    kAnywhere,          // between any two characters
    kBesideWhiteSpace,  // before and after white space
    kBetweenWords,      // where words of GPT-2's pattern end
    kBeforeWhiteSpace,  // before white space of ASCII behind a visible character
    kBeforeSpace,       // before a space behind a visible character
    kBetweenLines,      // the same, and behind a line feed before a visible character
    kAtSpace,           // at a space between visible characters, which is dropped
    kNowhere
  };

  // A token that is found in the text itself (added_tokens.h).
  struct Added {
    std::string content;
    bool single_word = false, lstrip = false, rstrip = false;
  };
  TextCuts(Rule rule = Rule::kAnywhere, std::vector<Added> added = {});

  Rule rule() const { return rule_; }
  bool drops_space() const { return rule_ == Rule::kAtSpace; }
  // The last place from `from` on where the text may be cut, although it continues after its end; 0
  // if there is none.
  size_t last(std::string_view text, size_t from = 0) const;
  // More text after it may add places within the last so many bytes.
  size_t uncertain() const { return longest_ + 8; }

 private:
  bool allows(std::string_view text, size_t at) const;
  bool in_added_token(std::string_view text, size_t at) const;
  bool is_changed_by_added_token(std::string_view text, size_t at) const;

  Rule rule_;
  std::vector<Added> added_, sensitive_;  // sensitive_: those whose surroundings count
  std::vector<std::string> cuttable_;     // those with a place of the rule inside
  size_t longest_ = 0;
};

// The parts of a text that is cut in this way. Together they are the whole, except for the spaces
// that are dropped.
class PieceReader {
 public:
  // About so many bytes are read at a time. A part without a place to cut that is longer than
  // kLongest is an Error.
  static constexpr size_t kLongest = size_t{1} << 30;
  PieceReader(io::TextReader reader, TextCuts cuts, size_t piece_bytes = size_t{1} << 20);

  // false at the end.
  bool next(std::string& piece);
  const std::string& name() const { return reader_.name(); }
  int64_t line() const { return line_; }  // where the last piece begins, from 1
  int64_t dropped() const { return dropped_; }

 private:
  io::TextReader reader_;
  TextCuts cuts_;
  size_t piece_bytes_, searched_ = 0;  // no place before it
  bool ended_ = false;
  std::string held_, more_;  // read and not yet given
  int64_t line_ = 1, next_line_ = 1, dropped_ = 0;
};

}  // namespace refrain::text
