#include "refrain/layers/context.h"

namespace refrain {

Window WindowData::set(std::span<const int32_t> offset, std::span<const int32_t> start,
                       int64_t first_sequence) {
  REFRAIN_CHECK(offset.size() == start.size() + 1 && offset[0] == 0);
  offset_.assign(offset.begin(), offset.end());
  start_.assign(start.begin(), start.end());
  position_.clear();
  row_id_.clear();
  for (size_t b = 0; b < start.size(); ++b) {
    REFRAIN_CHECK(offset[b] <= offset[b + 1]);
    const uint64_t sequence = static_cast<uint64_t>(first_sequence) + b;
    for (int32_t i = 0; i < offset[b + 1] - offset[b]; ++i) {
      position_.push_back(start[b] + i);
      row_id_.push_back(sequence << 32 | static_cast<uint32_t>(start[b] + i));
    }
  }
  return {offset_, start_, position_, row_id_};
}

Window WindowData::whole(int64_t B, int64_t T) {
  std::vector<int32_t> offset;
  for (int64_t b = 0; b <= B; ++b) offset.push_back(static_cast<int32_t>(b * T));
  return set(offset, std::vector<int32_t>(static_cast<size_t>(B), 0));
}

}  // namespace refrain
