// One optimiser step's sequences, laid end to end without padding. Sequence b is rows
// cu_seqlens[b] .. cu_seqlens[b + 1] of every per-token array.
#pragma once
#include <cstdint>
#include <vector>

namespace refrain::data {

inline constexpr int32_t kIgnore = -1;  // a target that is not supervised

struct Batch {
  std::vector<int32_t> tokens;      // [rows] input ids
  std::vector<int32_t> targets;     // [rows] the id to predict at this row, or kIgnore
  std::vector<int32_t> cu_seqlens;  // [sequences + 1], from 0
  int64_t supervised = 0;           // targets that are not kIgnore
  int64_t past_length = 0;          // tokens of each sequence that came in batches before

  int64_t sequences() const { return static_cast<int64_t>(cu_seqlens.size()) - 1; }
  int64_t rows() const { return cu_seqlens.empty() ? 0 : cu_seqlens.back(); }
  void clear() {
    tokens.clear();
    targets.clear();
    cu_seqlens.assign(1, 0);
    supervised = past_length = 0;
  }
};

}  // namespace refrain::data
