#include "refrain/kernels/matmul/skinny_matmul.h"

#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/skinny_matmul.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

constexpr int64_t kRowsTogether = 4 * kTileRows;

// Columns j .. j + n of row i: from the product to where it belongs.
HWY_INLINE void finish_row(const SkinnyWeights& w, const SkinnyOutput& out, int64_t i, int64_t j,
                           int64_t n, const float* p) {
  const size_t row = static_cast<size_t>(i);
  float* y = out.y ? out.y.row(i) + j : nullptr;
  float* also = out.also.empty() ? nullptr : out.also[row] + j;
  const float* gate = out.where_positive.empty() ? nullptr : out.where_positive[row] + j;
  const float* bias = w.bias ? w.bias + j : nullptr;
  const auto zero = hn::Zero(FloatTag());
  each(n, [&](auto at, int64_t k) HWY_ATTR {
    auto v = at.load(p + k);
    if (bias) v = hn::Add(v, at.load(bias + k));
    if (out.relu) v = hn::Max(v, zero);
    if (gate) v = hn::IfThenElseZero(hn::Gt(at.load(gate + k), zero), v);
    if (y) at.store(v, y + k);
    if (also) at.store(v, also + k);
  });
}

// Columns j .. j + cols of w.
struct Panel {
  int64_t j, cols;
  const float *data, *next;  // next: what is needed after it, or null
};

// Rows of x from i0 on, up to kRowsTogether, and one panel, a stretch of K at a time: it comes from
// far with the first tile of rows and is near for the others, while they ask for the next panel's.
// One tile alone reads all of it in the order of memory, which prefetchers follow best.
HWY_INLINE void skinny_panel(const SkinnyWeights& w, MatrixView<const float> x,
                             const SkinnyOutput& out, int64_t i0, const Panel& panel) {
  // A longer stretch asks for more lines at once than a core waits for without stopping.
  constexpr int64_t kStretch = 32, kLine = 64 / sizeof(float);
  const int64_t n = std::min(kRowsTogether, x.rows - i0), j = panel.j, cols = panel.cols;
  const int64_t NR = tile_cols(), tiles = (n + kTileRows - 1) / kTileRows;
  const int64_t stretch = tiles == 1 ? w.K : kStretch;
  HWY_ALIGN float p[kRowsTogether * kMaxPanel];
  for (int64_t i = 0; i < n && out.add; ++i) std::copy_n(out.y.row(i0 + i) + j, cols, p + i * NR);
  for (int64_t k = 0; k < w.K; k += stretch) {
    const int64_t depth = std::min(stretch, w.K - k);
    for (int64_t t = 0; t < tiles; ++t) {
      const int64_t first = n * t / tiles, rows = n * (t + 1) / tiles - first;
      for (int64_t r = depth * t / tiles; panel.next && tiles > 1 && r < depth * (t + 1) / tiles;
           ++r)
        for (int64_t line = 0; line < NR; line += kLine)
          hwy::Prefetch(panel.next + (k + r) * kWeightPanel + line);
      tile_of<Rows::kApart>(x.row_range(i0 + first, rows).col_range(k, depth),
                            {panel.data + k * kWeightPanel, depth, NR, kWeightPanel},
                            {p + first * NR, rows, NR}, out.add || k > 0);
    }
  }
  for (int64_t i = 0; i < n; ++i) finish_row(w, out, i0 + i, j, cols, p + i * NR);
}

void skinny_panels(const SkinnyWeights& w, MatrixView<const float> x, const SkinnyOutput& out,
                   int64_t first, int64_t last) {
  const int64_t NR = tile_cols(), depth = w.panel_depth > 0 ? w.panel_depth : w.K;
  const auto at = [&](int64_t panel) {
    const int64_t j = panel * NR;
    return w.packed + j / kWeightPanel * depth * kWeightPanel + j % kWeightPanel;
  };
  for (int64_t panel = first; panel < last; ++panel) {
    const int64_t j = panel * NR;
    for (int64_t i0 = 0; i0 < x.rows; i0 += kRowsTogether)
      skinny_panel(w, x, out, i0,
                   {j, std::min(NR, w.N - j), at(panel),
                    i0 == 0 && panel + 1 < last ? at(panel + 1) : nullptr});
  }
}

void skinny_matmul(const SkinnyWeights& w, MatrixView<const float> x, const SkinnyOutput& out) {
  const int64_t panels = (w.N + tile_cols() - 1) / tile_cols();
  const int64_t tasks = std::min<int64_t>(panels, threads());
  parallel_for(
      tasks,
      [&](int64_t task) {
        skinny_panels(w, x, out, panels * task / tasks, panels * (task + 1) / tasks);
      },
      2 * x.rows * w.N * w.K);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(skinny_matmul);

void skinny_matmul(const SkinnyWeights& w, MatrixView<const float> x, const SkinnyOutput& out) {
  REFRAIN_CHECK(x.cols == w.K && (!out.y || (out.y.rows >= x.rows && out.y.cols == w.N)));
  if (x.rows > 0) HWY_DYNAMIC_DISPATCH(skinny_matmul)(w, x, out);
}

void pack_columns(ConstTensor w, float* to) {
  const int64_t N = w.rows(), K = w.cols(), panels = (K + kWeightPanel - 1) / kWeightPanel;
  parallel_for(
      panels,
      [&](int64_t p) {
        const int64_t j = p * kWeightPanel, n = std::min(kWeightPanel, K - j);
        float* panel = to + j * N;
        for (int64_t r = 0; r < N; ++r, panel += kWeightPanel) {
          std::copy_n(w.row(r) + j, n, panel);
          std::fill(panel + n, panel + kWeightPanel, 0.0f);
        }
      },
      kPackingCost * N * K);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
