// Training data: sequences of token ids in a token file. They are read when they are needed, so
// resident memory does not grow with the data.
//
//   lm         running text: documents follow one another, with an end token between them if the
//              tokenizer has one, and its start token before each if the tokenizer asks for it
//   translate  pairs, "<src> source <tgt> target </s>"; the target and </s> are supervised
//   chat       conversations and texts, of which the assistant's turns are supervised
//              (text/chat/conversation.h)
//   probe      sequences of ids, with targets of their own at the positions of questions (probes.h)
#pragma once
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "refrain/data/token_file.h"
#include "refrain/text/source.h"
#include "refrain/text/tokenizer.h"

namespace refrain::data {

class DataSet {
 public:
  static DataSet open(const std::string& token_file) { return open(token_file, token_file); }
  static DataSet open(const std::string& token_file, const std::string& name);  // for errors
  // True if the file starts as a token file does.
  static bool is_token_file(const std::string& path) { return TokenFile::is_one(path); }

  const std::string& name() const { return file_->name(); }      // what errors call it
  uint64_t fingerprint() const { return file_->fingerprint(); }  // of the whole file
  const std::string& task() const { return task_; }
  int64_t vocab_size() const;
  int64_t tokens() const { return token_count_; }
  // lm: documents, including parts of one; translate: pairs; probe: sequences
  int64_t sequences() const;
  // Bytes of the text that the ids stand for (translate: of the targets); unknown for the parts of
  // a split.
  std::optional<int64_t> text_bytes() const;

  // The last `validation_fraction` of the ids (translate: of the pairs) becomes the second part.
  // Both share the file.
  std::pair<DataSet, DataSet> split(double validation_fraction) const;

  // An Error if the tokenizer is not the one that the file was made with.
  void check_tokenizer(const text::Tokenizer& tokenizer) const;

  // Ids [first, first + out.size()) of this set.
  void read(int64_t first, std::span<int32_t> out) const;
  // Where pair i, its target, and the next pair begin among the ids; not for lm.
  struct Pair {
    int64_t begin, target, end;
  };
  Pair pair(int64_t i) const;
  bool has_pairs() const { return task_ != "lm"; }
  bool has_targets() const { return data::has_targets(file_->header().task); }
  int64_t rows(int64_t i) const;  // that pair i takes in a batch
  // translate: the tags of its pairs (of source and target), each direction once, in order of
  // occurrence.
  std::vector<std::pair<int32_t, int32_t>> directions() const;

 private:
  explicit DataSet(std::shared_ptr<const TokenFile> file);
  DataSet part(int64_t first_item, int64_t items) const;

  std::shared_ptr<const TokenFile> file_;
  std::string task_;
  int64_t first_token_ = 0, token_count_ = 0;  // this set's part of the file
  int64_t first_pair_ = 0, pair_count_ = 0;    // the same in pairs
};

struct Prepared {
  int64_t tokens = 0;
  int64_t sequences = 0;
  int64_t text_bytes = 0;     // of the text behind the ids; translate: of the targets
  int64_t blank = 0;          // pairs, objects, or lines of .jsonl, left out for having no text
  bool run_together = false;  // lm: documents follow one another with no token between them
};

struct WriteEvents {
  std::function<void(std::string_view text, std::span<const int32_t> ids)> on_text;
  // Called when all of the new file is on disk and an old one still has its name. Files that belong
  // to it can get their names now.
  std::function<void()> before_commit;
};

// Streams the source through the tokenizer into a token file.
Prepared write_token_file(const text::SourceFiles& source, const text::Tokenizer& tokenizer,
                          const std::string& path, const WriteEvents& events = {});

}  // namespace refrain::data
