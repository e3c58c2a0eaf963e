// Parts of a batch as a model takes them, and the states of its sequences.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "refrain/data/batch.h"
#include "refrain/layers/ragged_batch.h"
#include "refrain/model/sequence_state.h"

namespace refrain {

inline int64_t longest_of(const data::Batch& batch) {
  int64_t longest = 0;
  for (size_t b = 0; b + 1 < batch.cu_seqlens.size(); ++b)
    longest = std::max<int64_t>(longest, batch.cu_seqlens[b + 1] - batch.cu_seqlens[b]);
  return longest;
}

// Tokens [begin, end) of each of the sequences [first, last) of a batch, with their targets. Of a
// shorter sequence there are fewer.
struct BatchPart {
  BatchPart(const data::Batch& batch, int64_t first, int64_t last, int64_t begin, int64_t end) {
    std::vector<int32_t> offset = {0}, start;
    for (int64_t b = first; b < last; ++b) {
      const int32_t from = batch.cu_seqlens[static_cast<size_t>(b)];
      const int64_t length = batch.cu_seqlens[static_cast<size_t>(b) + 1] - from;
      const int64_t t0 = std::min(begin, length), t1 = std::min(end, length);
      tokens.insert(tokens.end(), batch.tokens.begin() + from + t0,
                    batch.tokens.begin() + from + t1);
      targets.insert(targets.end(), batch.targets.begin() + from + t0,
                     batch.targets.begin() + from + t1);
      offset.push_back(static_cast<int32_t>(tokens.size()));
      start.push_back(static_cast<int32_t>(batch.past_length + t0));
    }
    ragged = data_.set(offset, start, first);
  }
  std::vector<int32_t> tokens, targets;
  RaggedBatch ragged;

 private:
  RaggedBatchBuilder data_;
};

// The states of sequences [first, last), as a model takes them.
inline StateView view_of(std::vector<SequenceState>& states, int64_t first, int64_t last,
                         int64_t blocks) {
  std::vector<SequenceState*> some;
  for (int64_t b = first; b < last; ++b) some.push_back(&states[static_cast<size_t>(b)]);
  return StateView(some, blocks);
}

// So many empty states, each for up to `capacity` tokens.
inline void begin_sequences(const LanguageModel& model, int64_t sequences, int64_t capacity,
                            std::vector<SequenceState>& states) {
  for (SequenceState& state : states) {
    if (state.capacity() < capacity)
      state = SequenceState(model, capacity);
    else
      state.reset();
  }
  while (std::ssize(states) < sequences) states.emplace_back(model, capacity);
}

// Of states that do not grow: more than any stream has.
inline constexpr int64_t kEndlessStream = int64_t{1} << 30;

}  // namespace refrain
