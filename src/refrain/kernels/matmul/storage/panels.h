// What products with weights in panels (storage.h) share.
#pragma once
#include <algorithm>
#include <cstdint>

#include "refrain/base/matrix_view.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/storage/storage.h"

namespace refrain::kernels {

// f(panel, its columns of y) for every panel of w [N, K], y [M, N], divided between threads.
template <class F>
void each_panel(PackedWeights w, int64_t K, MatrixView<float> y, F&& f) {
  const int64_t N = y.cols, panels = weight_panels(N);
  // Some for each thread, as neighbours may have slowed one of them down.
  const int64_t tasks = std::min<int64_t>(panels, 8 * threads());
  parallel_for(
      tasks,
      [&](int64_t task) {
        for (int64_t p = panels * task / tasks; p < panels * (task + 1) / tasks; ++p) {
          const int64_t j = p * kWeightPanel;
          f(w.panels_from(p, K), y.col_range(j, std::min(kWeightPanel, N - j)));
        }
      },
      2 * y.rows * N * K);
}

// Rows of a panel's 32 columns, from y and to y.
inline void read_panel(MatrixView<const float> y, float* to) {
  for (int64_t m = 0; m < y.rows; ++m, to += kWeightPanel) std::copy_n(y.row(m), y.cols, to);
}
inline void write_panel(const float* from, MatrixView<float> y, bool add) {
  for (int64_t m = 0; m < y.rows; ++m, from += kWeightPanel)
    for (int64_t j = 0; j < y.cols; ++j) y.at(m, j) = add ? y.at(m, j) + from[j] : from[j];
}

}  // namespace refrain::kernels
