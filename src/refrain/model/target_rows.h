// Which rows of a batch have a target, and in what slices the head works through them.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "refrain/kernels/matmul/gemm.h"
#include "refrain/layers/execution_context.h"

namespace refrain {

class TargetRows {
 public:
  // Negative targets are none.
  TargetRows(const RaggedBatch& w, std::span<const int32_t> targets) : offsets_{0} {
    for (int64_t b = 0; b < w.sequences(); ++b) {
      for (int64_t row = w.first(b); row < w.first(b) + w.length(b); ++row)
        if (const int32_t target = targets[static_cast<size_t>(row)]; target >= 0) {
          rows_.push_back(static_cast<int32_t>(row));
          targets_.push_back(target);
        }
      offsets_.push_back(static_cast<int32_t>(rows_.size()));
    }
  }

  int64_t size() const { return static_cast<int64_t>(rows_.size()); }
  std::span<const int32_t> rows(int64_t first, int64_t count) const {
    return std::span(rows_).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  }
  std::span<const int32_t> targets(int64_t first, int64_t count) const {
    return std::span(targets_).subspan(static_cast<size_t>(first), static_cast<size_t>(count));
  }

  // cu_seqlens of the chunks that target rows [first, end) are of. Ends earlier where a chunk
  // would be cut elsewhere than after a multiple of the rows that a product sums at a time.
  std::vector<int32_t> cu_seqlens(int64_t first, int64_t end) const {
    const auto next = std::upper_bound(offsets_.begin(), offsets_.end() - 1, end);
    const int64_t chunk = *(next - 1);
    if (end < *next)
      end = chunk + (end - chunk) / kernels::kReductionGroupRows * kernels::kReductionGroupRows;
    std::vector<int32_t> cu_seqlens = {0};
    for (const int32_t offset : offsets_)
      if (offset > first && offset < end)
        cu_seqlens.push_back(static_cast<int32_t>(offset - first));
    cu_seqlens.push_back(static_cast<int32_t>(end - first));
    return cu_seqlens;
  }

 private:
  std::vector<int32_t> rows_, targets_;
  std::vector<int32_t> offsets_;  // [B + 1]: of each chunk's among them
};

}  // namespace refrain
