// What a model is trained on: sequences of token ids with the targets they supervise, in batches
// whose order is a function of (seed, epoch) alone.
//
//   lm         next token on running text: windows of `context` tokens, cut anew each epoch at an
//              offset drawn from (seed, epoch); documents (jsonl, or text split at a separator
//              token) follow one another, an end token between them
//   translate  "<src> source <tgt> target </s>", the loss on the target and </s> only
//
// Token ids live in token files (below), memory-mapped, so resident memory does not grow with the
// data. Making one streams the text.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "refrain/data/batch.h"
#include "refrain/data/tokenizer.h"
#include "refrain/io/file.h"

namespace refrain::data {

// A token file: header (magic, version, task, bytes per id, counts, a fingerprint of the
// tokenizer), sequence boundaries, ids. The layout is drawn at the head of dataset.cc and checked
// whole when opened.
struct SourceFiles {
  std::string task = "lm";           // "lm" | "translate"
  std::vector<std::string> inputs;   // lm: any number of .txt / .jsonl / .gz / "-"
                                     // translate: source and target files, or one .tsv / .jsonl
  std::string source_tag = "<en>", target_tag = "<ja>";  // translate: the direction's tags
};

class DataSet {
 public:
  static DataSet open(const std::string& token_file);
  // True if the file starts as a token file does.
  static bool is_token_file(const std::string& path);

  const std::string& task() const { return task_; }
  int64_t tokens() const;     // ids stored
  int64_t sequences() const;  // lm: documents; translate: pairs

  // The parts of a split of lm text: the last `fraction` of the ids becomes validation. Both
  // share the file.
  std::pair<DataSet, DataSet> split(double validation_fraction) const;

  // Throws when the tokenizer is not the one the file was made with.
  void check_tokenizer(const Tokenizer&) const;

 private:
  friend class Batches;
  DataSet() = default;
  std::shared_ptr<const io::MappedFile> file_;  // shared by the two parts of a split
  std::string task_;
  int64_t first_ = 0, count_ = 0;  // lm: the ids of this part
  // ... what open() checked and found
};

// Streams `source` through the tokenizer into a token file. Returns the number of ids.
int64_t write_token_file(const SourceFiles& source, const Tokenizer&, const std::string& path);

// All training text of the source, for Tokenizer::train. translate: both sides, line by line.
TextSource text_of(const SourceFiles& source);

struct BatchConfig {
  int64_t context = 256;    // longest sequence in tokens; lm windows are exactly this long
  int64_t batch_size = 16;  // sequences a batch, or
  int64_t max_tokens = 0;   // tokens a batch, counted after padding to its longest; 0 = by sequences
  bool skip_long = true;    // translate: leave out sequences longer than context, else an Error
};

// The batches of a data set in training order. Position (epoch, index) is all there is to resume.
class Batches {
 public:
  Batches(const DataSet&, const BatchConfig&, uint64_t seed);
  ~Batches();
  Batches(Batches&&) noexcept;

  struct Position {
    uint64_t epoch = 0;
    int64_t index = 0;  // batches of this epoch already given
  };
  void next(Batch& out);  // goes round for ever
  Position position() const;
  void seek(Position);
  int64_t batches_in_epoch();   // of the current epoch
  int64_t skipped() const;      // sequences left out for their length
  double padding_efficiency();  // of the current epoch: tokens / (sequences x longest), over batches

  // One pass in file order without shuffling: what evaluation reads. Windows of lm text follow one
  // another from the first id, the last one shorter: every id but the first is a target once.
  // Returns false at the end.
  bool next_in_order(Batch& out, int64_t& cursor) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace refrain::data
