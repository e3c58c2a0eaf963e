// What mm_rec's passes over rows have in common.
#pragma once
#include <algorithm>
#include <vector>

#include "refrain/base/parallel.h"
#include "refrain/base/tensor.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

// Shares of q in the query and of v in the output.
inline constexpr float kQueryShare = 0.5f, kValueShare = 0.1f;

// f(row) for every row, each `cols` floats.
template <class F>
void each_row(int64_t rows, int64_t cols, F&& f) {
  parallel_ranges(rows, std::max<int64_t>(1, 16384 / cols), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) f(row);
  });
}

// to = by from, of `count` columns.
inline void copy_columns(ConstTensor from, int64_t from_column, Tensor to, int64_t to_column,
                         int64_t count, float by = 1) {
  each_row(to.rows(), count, [&](int64_t row) {
    const float* a = from.row(row) + from_column;
    float* b = to.row(row) + to_column;
    for (int64_t j = 0; j < count; ++j) b[j] = by * a[j];
  });
}

inline std::vector<float*> rows_of(const RaggedBatch& w, const State* state) {
  std::vector<float*> all;
  for (int64_t b = 0; state && b < w.sequences(); ++b) all.push_back(state->row(b));
  return all;
}

}  // namespace refrain
