// A copy of one mixer's states before a batch, to run the batch again.
#pragma once
#include <cstring>
#include <vector>

#include "refrain/layers/execution_context.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

class StateSnapshot {
 public:
  // Allocates room for the states after the batch; existing content stays.
  StateSnapshot(const RaggedBatch& w, const Mixer& mixer, Arena& arena) {
    for (int64_t b = 0; b < w.sequences(); ++b)
      rows_.push_back(arena
                          .take<std::byte>({static_cast<int64_t>(
                              mixer.state_bytes(w.past_length(b) + w.length(b)))})
                          .data);
  }
  void copy(const RaggedBatch& w, const Mixer& mixer, const State& from) {
    for (int64_t b = 0; b < w.sequences(); ++b)
      if (const size_t bytes = mixer.state_bytes(w.past_length(b)); bytes > 0)
        std::memcpy(rows_[static_cast<size_t>(b)], from.row(b), bytes);
  }
  State state() const { return {rows_}; }

 private:
  std::vector<std::byte*> rows_;
};

}  // namespace refrain
