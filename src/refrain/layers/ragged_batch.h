// Which rows of a batch belong to which sequence.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

namespace refrain {

// B chunks of sequences, laid end to end. Chunk b is rows cu_seqlens[b] .. cu_seqlens[b + 1] of
// every [R, D] tensor, and past_lengths[b] tokens of its sequence came before it. Whole sequences
// of one length, sequences of many lengths, documents packed into a row, and a prompt beside single
// new tokens are all such batches. There is no padding (docs/decisions/0004-windows.md).
struct RaggedBatch {
  std::span<const int32_t> cu_seqlens;    // [B + 1], ascending from 0
  std::span<const int32_t> past_lengths;  // [B]
  std::span<const int32_t> position;      // [R] of every row in its sequence
  std::span<const uint64_t> row_id;       // [R] sequence of the optimiser batch << 32 | position

  int64_t sequences() const { return static_cast<int64_t>(past_lengths.size()); }
  int64_t rows() const { return static_cast<int64_t>(position.size()); }
  int64_t first(int64_t b) const { return cu_seqlens[static_cast<size_t>(b)]; }
  int64_t length(int64_t b) const {
    return cu_seqlens[static_cast<size_t>(b) + 1] - cu_seqlens[static_cast<size_t>(b)];
  }
  int64_t past_length(int64_t b) const { return past_lengths[static_cast<size_t>(b)]; }
};

// Owns the arrays of a RaggedBatch.
class RaggedBatchBuilder {
 public:
  // `cu_seqlens` and `past_lengths` as in RaggedBatch. The first chunk is sequence `first_sequence`
  // of its optimiser batch.
  RaggedBatch set(std::span<const int32_t> cu_seqlens, std::span<const int32_t> past_lengths,
                  int64_t first_sequence = 0);
  // B whole sequences of T tokens.
  RaggedBatch whole(int64_t B, int64_t T);

 private:
  std::vector<int32_t> cu_seqlens_, past_lengths_, position_;
  std::vector<uint64_t> row_id_;
};

}  // namespace refrain
