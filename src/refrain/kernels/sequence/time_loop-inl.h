// The loop over time of a recurrence with a product inside, on one instruction set. Chunks of many
// lengths run side by side, the longest first, step after step, divided between threads. The caller
// gives the work of a step. Included once per SIMD target by the kernel files.
#if defined(REFRAIN_KERNELS_TIME_LOOP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_TIME_LOOP_INL_H_
#undef REFRAIN_KERNELS_TIME_LOOP_INL_H_
#else
#define REFRAIN_KERNELS_TIME_LOOP_INL_H_
#endif

#include <algorithm>
#include <span>
#include <vector>

#include "hwy/highway.h"
#include "refrain/base/arena.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/tile-inl.h"
#include "refrain/kernels/sequence/recurrent.h"

#ifndef REFRAIN_KERNELS_TIME_LOOP_ONCE
#define REFRAIN_KERNELS_TIME_LOOP_ONCE
namespace refrain::kernels {

// A chunk at its place in the order of lengths.
struct ActiveSequence {
  int64_t first, length;
  const float* initial_state;
  float* dstate;  // null: no gradient comes or goes by the state
};

// The chunks that have steps, longest first.
inline std::vector<ActiveSequence> in_order(std::span<const RecurrentChunk> chunks,
                                            std::span<float* const> dstate) {
  std::vector<ActiveSequence> places;
  for (size_t b = 0; b < chunks.size(); ++b)
    if (chunks[b].length > 0)
      places.push_back({chunks[b].first, chunks[b].length, chunks[b].initial_state,
                        dstate.empty() ? nullptr : dstate[b]});
  std::stable_sort(places.begin(), places.end(),
                   [](const auto& a, const auto& b) { return a.length > b.length; });
  return places;
}

// The steps of a time loop: of all places, in ascending order, or in descending order down to
// `last`. The product of a step is with [gates H, H] weights of so many bytes each.
struct TimeSteps {
  std::span<const ActiveSequence> places;  // longest first
  int64_t gates, H;
  bool forward;
  int64_t last = 0;
  int64_t weight_bytes = sizeof(float);
  int64_t panel = 0;  // units of one; 0: columns of a float32 tile
};

// Rows whose distance is a large power of two share a few cache sets.
inline int64_t apart(int64_t width) { return round_up(width, 16) + 16; }

// What a step hands to the next, before and after it: [places, H], `row` floats apart.
struct StepEdges {
  const float* edge[2];
  int64_t row, H;
};
// A loop over time whose weights [p.cols(), H] are stored in any type: a product for all places
// that run, p = edge wᵀ, and then finish(t, p) with a row for each of them. p [places, N].
template <class F>
void time_loop_of_products(std::span<const ActiveSequence> places, const StepEdges& edges,
                           PackedWeights w, Tensor p, Arena& scratch, F&& finish) {
  auto running = static_cast<int64_t>(places.size());
  const auto length = [&](int64_t i) { return places[static_cast<size_t>(i)].length; };
  const MatrixView<const float> sizes(nowhere<const float>(), edges.H, p.cols(), 1, edges.H);
  const auto multiply = [&](int64_t t) {
    gemm(MatrixView<const float>(edges.edge[t & 1], running, edges.H, edges.row), sizes,
         p.slice(0, running), scratch, w);
  };
  if (scratch.planning() && running > 0) return multiply(0);
  for (int64_t t = 0; running > 0; ++t) {
    while (running > 0 && length(running - 1) <= t) --running;
    if (running == 0) return;
    multiply(t);
    finish(t, p.slice(0, running));
  }
}

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// step(t, i0, i1, panel, worker) for every step t; the places i0 .. i1 all run at t. begin(t, i0,
// i1, worker) comes before the panels of a worker in a step. If the weights fit into a core's
// cache, threads divide the places, since they then need not wait for one another. Otherwise they
// divide the panels of units.
template <class Begin, class Step>
void time_loop(const TimeSteps& steps, Begin&& begin, Step&& step) {
  constexpr int64_t kCoreCache = 1 << 20;  // bytes
  const auto B = static_cast<int64_t>(steps.places.size());
  const int64_t H = steps.H, weights = steps.gates * H * H;
  const int64_t panel = steps.panel > 0 ? steps.panel : tile_cols();
  const int64_t panels = (H + panel - 1) / panel;
  const int64_t tasks = std::min<int64_t>(threads(), panels);
  const int64_t a_row = 2 * weights;  // operations
  const auto length = [&](int64_t i) { return steps.places[static_cast<size_t>(i)].length; };
  int64_t rows = 0, groups = 1;
  for (int64_t i = 0; i < B; ++i) rows += length(i);
  if (weights * steps.weight_bytes <= kCoreCache)
    groups = std::min(B, round_up((B + kTileRows - 1) / kTileRows, threads()));
  std::vector<int64_t> cuts = {0};  // between groups of about as many rows
  for (int64_t i = 0, sum = 0; i < B; ++i) {
    sum += length(i);
    while (sum * groups >= rows * static_cast<int64_t>(cuts.size())) cuts.push_back(i + 1);
  }
  parallel_for(
      groups,
      [&](int64_t group) {
        const int64_t i0 = cuts[static_cast<size_t>(group)];
        const int64_t end = cuts[static_cast<size_t>(group) + 1];
        if (i0 == end) return;
        const auto at = [&](int64_t t, int64_t i1) {
          parallel_for(
              tasks,
              [&](int64_t task, int worker) {
                begin(t, i0, i1, worker);
                const int64_t first = panels * task / tasks, end = panels * (task + 1) / tasks;
                // In alternating directions: a step begins with the panels that the cache still
                // holds.
                for (int64_t p = first; p < end; ++p)
                  step(t, i0, i1, t % 2 == 0 ? p : first + end - 1 - p, worker);
              },
              (i1 - i0) * a_row);
        };
        if (steps.forward) {
          int64_t i1 = end;
          for (int64_t t = 0; t < length(i0); ++t) {
            while (length(i1 - 1) <= t) --i1;
            at(t, i1);
          }
        } else {
          int64_t i1 = i0;
          for (int64_t t = length(i0) - 1; t >= steps.last; --t) {
            while (i1 < end && length(i1) > t) ++i1;
            at(t, i1);
          }
        }
      },
      rows * a_row);
}

template <class Step>
void time_loop(const TimeSteps& steps, Step&& step) {
  time_loop(
      steps, [](int64_t, int64_t, int64_t, int) {},
      [&](int64_t t, int64_t i0, int64_t i1, int64_t panel, int)
          HWY_ATTR { step(t, i0, i1, panel); });
}

// f(first, count) for the tiles of the places i0 .. i1.
template <class F>
HWY_INLINE void each_tile(int64_t i0, int64_t i1, F&& f) {
  const int64_t rows = i1 - i0, tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t k = 0; k < tiles; ++k) {
    const int64_t first = rows * k / tiles;
    f(i0 + first, rows * (k + 1) / tiles - first);
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
