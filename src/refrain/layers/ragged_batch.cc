#include "refrain/layers/ragged_batch.h"

#include "refrain/base/error.h"

namespace refrain {

RaggedBatch RaggedBatchBuilder::set(std::span<const int32_t> cu_seqlens,
                                    std::span<const int32_t> past_lengths, int64_t first_sequence) {
  REFRAIN_CHECK(cu_seqlens.size() == past_lengths.size() + 1 && cu_seqlens[0] == 0);
  cu_seqlens_.assign(cu_seqlens.begin(), cu_seqlens.end());
  past_lengths_.assign(past_lengths.begin(), past_lengths.end());
  position_.clear();
  row_id_.clear();
  for (size_t b = 0; b < past_lengths.size(); ++b) {
    REFRAIN_CHECK(cu_seqlens[b] <= cu_seqlens[b + 1]);
    const uint64_t sequence = static_cast<uint64_t>(first_sequence) + b;
    for (int32_t i = 0; i < cu_seqlens[b + 1] - cu_seqlens[b]; ++i) {
      position_.push_back(past_lengths[b] + i);
      row_id_.push_back(sequence << 32 | static_cast<uint32_t>(past_lengths[b] + i));
    }
  }
  return {cu_seqlens_, past_lengths_, position_, row_id_};
}

RaggedBatch RaggedBatchBuilder::whole(int64_t B, int64_t T) {
  std::vector<int32_t> cu_seqlens;
  for (int64_t b = 0; b <= B; ++b) cu_seqlens.push_back(static_cast<int32_t>(b * T));
  return set(cu_seqlens, std::vector<int32_t>(static_cast<size_t>(B), 0));
}

}  // namespace refrain
