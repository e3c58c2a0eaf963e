// The texts of training data, read in one pass: documents for language models, pairs for
// translation. What cannot be used is an Error that names file and line.
//
//   .jsonl  one object per line: {"text": ...} or {"prompt": ..., "completion": ...}; a pair may
//           have tags of its own: "source_tag", "target_tag"
//   .json   the same objects in one list, or one after another, line ends anywhere
//   .tsv    source, one tab, target per line
//   others  plain text; "-" is standard input; any of them may be gzip (".jsonl.gz")
//
// The ends of names may be in upper or lower case. A line, an object, and plain text without a
// place to cut it (text_cuts.h) may be 1 GiB long; lines of pairs 64 MiB.
//
// The bytes of plain text and of JSON strings are not changed, line ends included; only a leading
// byte-order mark is dropped. Lines of pairs end with "\n" or "\r\n".
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/io/stream_copies.h"
#include "refrain/io/text.h"
#include "refrain/text/objects.h"
#include "refrain/text/text_cuts.h"
#include "refrain/text/tokenizer.h"

namespace refrain::text {

struct ChatFormat;

struct SourceFiles {
  std::string task = "lm";  // "lm" | "translate" | "probe" | "chat"
  // lm: any number of files. A plain file is one document, and so is an object (prompt and
  // completion joined). translate: a file of source lines and one of target lines, or one .tsv,
  // .jsonl or .json. probe: one .jsonl of ids (probes.h).
  std::vector<std::string> inputs;
  // translate: the tags before source and target, where a pair has none of its own.
  std::string source_tag = "<en>", target_tag = "<ja>";
  std::vector<std::string> tags{};  // translate: others that a tokenizer trained on this must have
  bool both_directions = false;  // translate: every pair is followed by itself the other way round
  bool one_direction = false;    // translate: pairs of other tags than these two are left out
  const ChatFormat* chat = nullptr;  // chat: how conversations are written (chat/conversation.h)
  // Copies of those inputs that must be read twice and can be read only once.
  std::shared_ptr<const io::StreamCopies> copies{};

  io::TextReader open(const std::string& input) const {
    return io::StreamCopies::open(input, copies.get());
  }
};

// The name of all inputs together in errors.
std::string name_of(const std::vector<std::string>& inputs);

struct TextRules {
  TextCuts cuts{};
  bool utf8 = true;                // bytes that are not UTF-8 are an Error
  size_t piece = size_t{1} << 20;  // about how many bytes to read at a time
};

TextRules rules_of(const Tokenizer& tokenizer);

class DocumentReader {
 public:
  DocumentReader(SourceFiles source, const TextRules& rules);

  // The next part of the text, not empty; `begins` if it is the first of a document. false at the
  // end.
  bool next(std::string& piece, bool& begins);
  int64_t text_bytes() const { return text_bytes_; }  // given so far
  int64_t blank() const { return blank_; }            // objects, and lines of .jsonl, without text

 private:
  bool next_object(std::string& text);
  bool next_piece(std::string& piece);

  SourceFiles source_;
  TextRules rules_;
  size_t opened_ = 0;  // inputs so far; the last of them is being read if there is a reader
  std::optional<PieceReader> pieces_;
  std::optional<ObjectReader> objects_;
  bool at_start_ = false;
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
  // Pairs left out because one side has only white space, and such lines of .jsonl.
  int64_t blank() const { return blank_ + (objects_ ? objects_->blank() : 0); }
  const std::string& name() const {  // of the file its lines are counted in
    return objects_ ? objects_->name() : source_->name();
  }

 private:
  enum class Format { kParallel, kTsv, kObjects };
  static Format format_of(const std::vector<std::string>& inputs);
  bool next_with_text(TextPair& pair);
  bool next_line(TextPair& pair);
  [[noreturn]] void unequal(bool source_is_longer);

  Format format_;
  std::string source_tag_, target_tag_;
  bool both_directions_, one_direction_, utf8_;
  std::optional<io::TextReader> source_, target_;
  std::optional<ObjectReader> objects_;
  std::string line_;
  TextPair last_;  // to be given once more the other way round, if it is due
  bool turn_is_due_ = false;
  int64_t blank_ = 0;
};

// The places of the given pairs (numbered from 0 in reading order, ascending): "train.en: line 17".
// Reads the source again. If it cannot be read again, the result has numbers only.
std::vector<std::string> places_of(const SourceFiles& source, std::span<const int64_t> pairs);

// All text of the source, to train a tokenizer of this kind on. A line end separates documents and
// follows each side of a pair.
TextSource text_of(const SourceFiles& source, std::string_view tokenizer_kind);

}  // namespace refrain::text
