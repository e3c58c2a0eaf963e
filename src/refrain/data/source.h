// The texts of training data, read in one pass: documents for language models, pairs for
// translation. What cannot be used is an Error that names file and line.
//
//   .jsonl  an object a line: {"text": ...} or {"prompt": ..., "completion": ...}; a pair may have
//           tags of its own: "source_tag", "target_tag"
//   .tsv    source, one tab, target a line
//   others  plain text; "-" is standard input; any of the three may be gzip (".jsonl.gz")
//
// The bytes of plain text and of JSON strings are kept as they are, line ends included; only a
// leading byte-order mark is dropped. Lines of pairs end with "\n" or "\r\n".
#pragma once
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/data/tokenizer.h"
#include "refrain/io/text.h"

namespace refrain::data {

struct SourceFiles {
  std::string task = "lm";  // "lm" | "translate" | "probe"
  // lm: any number of files, a plain one is one document, and a line of .jsonl (prompt and
  // completion joined) is one. translate: a file of source lines and one of target lines, or one
  // .tsv, or one .jsonl. probe: one .jsonl of ids (probes.h).
  std::vector<std::string> inputs;
  // translate: the tokens that say what follows, where a pair does not bring its own.
  std::string source_tag = "<en>", target_tag = "<ja>";
  std::vector<std::string> tags{};  // translate: others that a tokenizer trained on this must have
  bool both_directions = false;  // translate: every pair is followed by itself the other way round
  bool one_direction = false;    // translate: pairs of other tags than these two are left out
};

// Where a text may be cut so that its pieces, encoded one by one, give the ids of the whole. No
// token reaches over white space, or the answer is kNowhere; and a space between two visible
// characters belongs to the word after it, also by GPT-2's pattern, where longer white space does
// not.
enum class Cut {
  kAnywhere,     // between any two characters
  kBeforeSpace,  // before a space or line end between visible characters
  kAtSpace,      // at such a space, which is dropped: the tokenizer puts one before every text
  kNowhere
};

struct TextRules {
  Cut cut = Cut::kBeforeSpace;
  bool utf8 = true;                // bytes that are not UTF-8 are an Error
  size_t piece = size_t{1} << 20;  // about how many bytes to read at a time
};

TextRules rules_of(const Tokenizer& tokenizer);

class DocumentReader {
 public:
  DocumentReader(std::vector<std::string> inputs, const TextRules& rules);

  // The next piece of text, not empty; `begins` if it is the first of a document. false at the end.
  bool next(std::string& piece, bool& begins);
  int64_t text_bytes() const { return text_bytes_; }  // given so far
  int64_t blank() const { return blank_; }            // lines of .jsonl without text

 private:
  bool next_object(std::string& text);
  bool next_piece(std::string& piece);

  std::vector<std::string> inputs_;
  TextRules rules_;
  size_t opened_ = 0;  // inputs so far; the last of them is being read if there is a reader
  std::optional<io::TextReader> reader_;
  bool jsonl_ = false, at_start_ = false, ended_ = false;
  std::string held_;  // read and not yet given
  int64_t line_ = 1;  // where held_ begins
  int64_t text_bytes_ = 0, blank_ = 0;
};

struct TextPair {
  std::string source, target;
  std::string source_tag, target_tag;
  int64_t line = 0;  // of the file it stands in, from 1

  void turn_round() {
    source.swap(target);
    source_tag.swap(target_tag);
  }
};

// Whether there is nothing but white space.
bool is_blank(std::string_view text);

class PairReader {
 public:
  PairReader(const SourceFiles& source, bool utf8);

  // The next pair with text on both sides; false at the end.
  bool next(TextPair& pair);
  int64_t blank() const { return blank_; }  // pairs left out: white space alone on either side
  const std::string& name() const {
    return source_.name();
  }  // of the file its lines are counted in

 private:
  enum class Format { kParallel, kTsv, kJsonl };
  static Format format_of(const std::vector<std::string>& inputs);
  bool next_with_text(TextPair& pair);
  bool next_line(TextPair& pair);
  [[noreturn]] void unequal(bool source_is_longer);

  Format format_;
  std::string source_tag_, target_tag_;
  bool both_directions_, one_direction_, utf8_;
  io::TextReader source_;
  std::optional<io::TextReader> target_;
  std::string line_;
  TextPair last_;  // to be given once more the other way round, if it is due
  bool turn_is_due_ = false;
  int64_t blank_ = 0;
};

// Where the given pairs (numbered from 0 as the reader gives them, ascending) stand:
// "train.en: line 17". Reads the source again; what cannot be read twice has pairs with numbers
// only.
std::vector<std::string> places_of(const SourceFiles& source, std::span<const int64_t> pairs);

// All text of the source, to train a tokenizer of this kind on. A line end parts documents, and
// follows either side of a pair.
TextSource text_of(const SourceFiles& source, std::string_view tokenizer_kind);

}  // namespace refrain::data
