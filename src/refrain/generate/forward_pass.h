// One pass of a model over chunks of several sequences.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "refrain/model/sequence_state.h"
#include "refrain/model/workspace.h"

namespace refrain {

class ForwardPass {
 public:
  // Rows that go through the model together at most: enough to fill the products.
  static constexpr size_t kRows = 512;

  explicit ForwardPass(const LanguageModel& model) : model_(model) {}

  // Begins a new pass.
  void clear();
  size_t room() const { return kRows - std::min(kRows, tokens_.size()); }
  bool empty() const { return tokens_.empty(); }
  size_t wanted() const { return wanted_.size(); }  // rows of logits, so far

  // How much of the `pending` tokens that follow `position` a pass takes where it has so much room.
  // Where a text is cut does not depend on who shares the pass: at multiples of 64, where mixers
  // are the same to the bit (MixerTraits::cut_multiple).
  static size_t chunk_length(int64_t position, size_t pending, size_t room);

  // After what `state` has read it reads `chunk` and then `more`. The logits of the last `wanted`
  // of these rows are asked for.
  void add(SequenceState& state, std::span<const int32_t> chunk, std::span<const int32_t> more,
           size_t wanted);

  // Reads what was added. The positions of the states are the caller's to advance.
  void run();

  // Those of the i-th row that was asked for, until the next run.
  std::span<const float> logits(size_t i) const;

 private:
  const LanguageModel& model_;
  std::vector<SequenceState*> states_;
  std::vector<int32_t> tokens_, cu_seqlens_ = {0}, past_lengths_, wanted_;
  Workspace workspace_;
  RaggedBatchBuilder builder_;
  std::vector<float> logits_;
};

}  // namespace refrain
