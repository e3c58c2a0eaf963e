// What every forward and backward is given beside its tensors.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/base/arena.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain {

// B pieces of sequences laid end to end: piece b is rows offset[b] .. offset[b+1] of every [R, D]
// tensor, and its first token stands at position start[b] of its sequence. Whole sequences of one
// length, sequences of many lengths, documents packed into a row, a prompt beside single new
// tokens: all are this, and there is no padding anywhere (docs/decisions/0004-windows.md).
struct Window {
  std::span<const int32_t> offset;    // [B + 1], ascending from 0
  std::span<const int32_t> start;     // [B]
  std::span<const int32_t> position;  // [R] of every row in its sequence
  std::span<const uint64_t> row_id;   // [R] sequence of the optimiser batch << 32 | position

  int64_t sequences() const { return static_cast<int64_t>(start.size()); }
  int64_t rows() const { return static_cast<int64_t>(position.size()); }
  int64_t first(int64_t b) const { return offset[static_cast<size_t>(b)]; }
  int64_t length(int64_t b) const {
    return offset[static_cast<size_t>(b) + 1] - offset[static_cast<size_t>(b)];
  }
  int64_t begins_at(int64_t b) const { return start[static_cast<size_t>(b)]; }
};

// Owns what a Window looks at.
class WindowData {
 public:
  // `offset` as in Window; `start` per piece; the first piece is sequence `first_sequence` of its
  // optimiser batch.
  Window set(std::span<const int32_t> offset, std::span<const int32_t> start,
             int64_t first_sequence = 0);
  // B whole sequences of T tokens.
  Window whole(int64_t B, int64_t T);

 private:
  std::vector<int32_t> offset_, start_, position_;
  std::vector<uint64_t> row_id_;
};

// Dropout of this step; rate 0 = none. Masks are a function of (key, site, row_id, column).
struct Dropout {
  float rate = 0;            // on the embedding and on what each half of a block adds
  float attention_rate = 0;  // on the probabilities of softmax attention
  uint64_t key = 0;          // of (seed, step)
};

struct Context {
  Arena& scratch;  // taken within a call, given back before it returns
  Dropout dropout{};
  // K-step recomputation: with K > 0, what a mixer saves for backward is its state every K rows or
  // less often; backward recomputes the rest from the mixer's input, to the same bits. 0 = it saves
  // what is fastest. Mixers whose state grows with the rows ignore it.
  int64_t keep_every = 0;
  // Parts of mixers (RecomputePart) that backward computes again instead of saving what they made.
  std::span<const std::string> recompute{};
  // Of products. With kBf16, part of what is saved for backward is rounded too.
  kernels::Precision precision = kernels::Precision::kFloat32;
  // Of the rows that backward is given (Window::offset): products over rows are cut between them.
  std::span<const int32_t> pieces{};

  kernels::Arithmetic over_features() const { return {precision, {}}; }
  kernels::Arithmetic over_rows() const { return {precision, pieces}; }
  bool recomputes(std::string_view part) const {
    return std::ranges::find(recompute, part) != recompute.end();
  }
  bool bf16() const { return precision == kernels::Precision::kBf16; }

  // A dry run lays out memory and computes nothing: this is how a plan is made.
  bool dry() const { return scratch.counts_only(); }
};

}  // namespace refrain
