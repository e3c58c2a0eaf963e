// Batches of a data set. Their order is a function of (seed, epoch) alone.
//
//   lm         windows of `context` inputs. Each epoch cuts the text anew at an offset drawn from
//              (seed, epoch); the order of windows is computed, not stored (permutation.h)
//   streams    the text is cut into batch_size equal streams, which are read side by side, chunk
//              after chunk, and begin again with each epoch. What does not fill them is left out
//   pairs      (translate, probe) shuffled. By max_tokens with buckets: sections of the shuffled
//              order, of about a hundred batches each, are sorted by length and cut into batches
//              of similar lengths, and the batches are shuffled. The order takes 8 bytes a pair.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "refrain/data/batch.h"
#include "refrain/data/dataset.h"

namespace refrain::data {

struct BatchConfig {
  int64_t context = 256;     // longest sequence in rows (inputs); lm windows are exactly this long
  int64_t batch_size = 16;   // sequences a batch, or
  int64_t max_tokens = 0;    // rows a batch, counted after padding to its longest; 0 = by sequences
  bool packing = false;      // max_tokens counts without padding, and in the shuffled order
  bool skip_long = true;     // leave out pairs that are too long, else an Error
  bool buckets = true;       // by max_tokens: pairs of like lengths share a batch
  int64_t stream_chunk = 0;  // lm: batches are the next so many rows of batch_size streams
};

// Batches in training order, epoch after epoch. Position (epoch, index) is all that is needed to
// resume.
class Batches {
 public:
  // An Error if the text is shorter than context + 1 ids, or no pair is short enough.
  Batches(const DataSet& data, const BatchConfig& config, uint64_t seed);
  ~Batches();
  Batches(Batches&&) noexcept;
  Batches& operator=(Batches&&) noexcept;

  struct Position {
    uint64_t epoch = 0;
    int64_t index = 0;  // batches of this epoch already given
    bool operator==(const Position&) const = default;
  };
  void next(Batch& out);  // what is left over in an epoch is a smaller batch
  Position position() const;
  void seek(Position position);  // Error when the epoch has fewer batches

  int64_t batches_in_epoch() const;   // of the current epoch; lm: may differ by one between epochs
  double padding_efficiency() const;  // of the current epoch: rows / (sequences x longest)
  int64_t skipped() const;            // pairs left out for their length

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Appends ids first .. first + rows of a text as one sequence: each but the last is an input, each
// but the first a target.
void add_rows(const DataSet& data, int64_t first, int64_t rows, Batch& out);

// One pass in file order, for evaluation. Windows of lm text follow one another from the first id
// on, and the last one is shorter. So every id except the first is a target once, and a text of two
// ids is enough. `cursor` starts at 0; false at the end.
bool next_in_order(const DataSet& data, const BatchConfig& config, Batch& out, int64_t& cursor);

// The pairs that are too long for the config; none for lm.
std::vector<int64_t> too_long(const DataSet& data, const BatchConfig& config);

// The longest sequence that the config allows in a batch, in rows.
int64_t longest(const BatchConfig& config);

}  // namespace refrain::data
