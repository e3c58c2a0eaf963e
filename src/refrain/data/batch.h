// One optimiser step's sequences, laid end to end without padding. Sequence b is rows
// offset[b] .. offset[b + 1] of every per-token array.
#pragma once
#include <cstdint>
#include <vector>

namespace refrain::data {

inline constexpr int32_t kIgnore = -1;  // a target that is not supervised

struct Batch {
  std::vector<int32_t> tokens;   // [rows] input ids
  std::vector<int32_t> targets;  // [rows] the id to predict at this row, or kIgnore
  std::vector<int32_t> offset;   // [sequences + 1], from 0
  int64_t supervised = 0;        // targets that are not kIgnore

  int64_t sequences() const { return static_cast<int64_t>(offset.size()) - 1; }
  int64_t rows() const { return offset.empty() ? 0 : offset.back(); }
  void clear() {
    tokens.clear();
    targets.clear();
    offset.assign(1, 0);
    supervised = 0;
  }
};

}  // namespace refrain::data
