#include "refrain/kernels/sequence/short_conv.h"

#include <algorithm>
#include <array>

#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/sequence/short_conv.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/precision-inl.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// All filters as [taps, channels], so that vectors run along the channels.
struct Filters {
  Filters(ConstTensor w, float* memory)
      : channels(w.rows()), taps(w.cols()), by_tap(memory), zeros(memory + w.size()) {
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < taps; ++i) memory[i * channels + c] = w.row(c)[i];
    std::fill_n(memory + w.size(), channels, 0.0f);
  }
  const float* tap(int64_t i) const { return by_tap + i * channels; }

  int64_t channels, taps;
  const float *by_tap, *zeros;
};

// Rows t, t - 1, ... of a chunk, one for each tap.
struct TapRows {
  TapRows(const Filters& f, const ShortConvChunk& chunk, MatrixView<float> p, int64_t t) {
    for (int64_t i = 0; i < f.taps; ++i) {
      const float*& at = row[static_cast<size_t>(i)];
      if (t >= i)
        at = p.row(chunk.first + t - i);
      else
        at =
            chunk.initial_state ? chunk.initial_state + (f.taps - 1 + t - i) * f.channels : f.zeros;
    }
  }
  const float* operator[](int64_t i) const { return row[static_cast<size_t>(i)]; }

  std::array<const float*, kShortConvMaxTaps> row;
};

// Vector c of z.
template <class At>
HWY_INLINE FloatVec convolved(At at, const Filters& f, const TapRows& p, int64_t c) {
  FloatVec z = hn::Mul(at.load(f.tap(0) + c), at.load(p[0] + c));
  for (int64_t i = 1; i < f.taps; ++i) z = hn::MulAdd(at.load(f.tap(i) + c), at.load(p[i] + c), z);
  return z;
}

// f(chunk, t) for row t of every chunk.
template <class F>
HWY_INLINE void parallel_chunk_rows(std::span<const ShortConvChunk> chunks, int64_t operations,
                                    F&& f) {
  const int64_t rows = chunks.empty() ? 0 : chunks.back().first + chunks.back().rows;
  parallel_rows(rows, operations, [&](int64_t row) HWY_ATTR {
    // The last chunk that begins here or before: those without rows come before the one that has
    // this row.
    const auto after =
        std::upper_bound(chunks.begin(), chunks.end(), row,
                         [](int64_t r, const ShortConvChunk& chunk) { return r < chunk.first; });
    const ShortConvChunk& chunk = *(after - 1);
    f(chunk, row - chunk.first);
  });
}

void forward_rows(const ShortConvFilter& filter, std::span<const ShortConvChunk> chunks,
                  MatrixView<float> p, MatrixView<float> y, float* memory) {
  const Filters filters(filter.w, memory);
  const auto forward_row = [&](auto f, const ShortConvChunk& chunk, int64_t t) HWY_ATTR {
    const TapRows rows(filters, chunk, p, t);
    float* to = y.row(chunk.first + t);
    each(filters.channels, [&](auto at, int64_t c) HWY_ATTR {
      const FloatVec z = convolved(at, filters, rows, c);
      at.store(hn::Mul(z, f.logistic(z).p), to + c);
    });
  };
  with_precision(filter.precision, [&](auto f) HWY_ATTR {
    parallel_chunk_rows(chunks, filter.w.size(),
                        [&](const ShortConvChunk& chunk, int64_t t)
                            HWY_ATTR { forward_row(f, chunk, t); });
  });
}

// dz = dy silu'(z), in the place of dy, and dw [taps, channels] += dz[t] p[t-i].
template <class Functions>
void backward_filters(const Filters& f, std::span<const ShortConvChunk> chunks, MatrixView<float> p,
                      MatrixView<float> dy, float* dw) {
  const int64_t rows = chunks.empty() ? 0 : chunks.back().first + chunks.back().rows;
  parallel_columns(rows * f.taps, f.channels, [&](int64_t begin, int64_t end) HWY_ATTR {
    for (const ShortConvChunk& chunk : chunks)
      for (int64_t t = 0; t < chunk.rows; ++t) {
        const TapRows from(f, chunk, p, t);
        float* d = dy.row(chunk.first + t);
        each(end - begin, [&](auto at, int64_t j) HWY_ATTR {
          const int64_t c = begin + j;
          const FloatVec z = convolved(at, f, from, c);
          const Logistic s = Functions::logistic(z);
          const FloatVec slope = hn::Mul(s.p, hn::MulAdd(z, s.q, constant(1)));
          const FloatVec dz = hn::Mul(at.load(d + c), slope);
          at.store(dz, d + c);
          for (int64_t i = 0; i < f.taps; ++i) {
            float* sum = dw + i * f.channels + c;
            at.store(hn::MulAdd(dz, at.load(from[i] + c), at.load(sum)), sum);
          }
        });
      }
  });
}

// to = dp of row t, which may be one of those found (t < 0): what rows after the chunk gave it,
// then w_i dz[t+i] of the chunk's rows, the last first. That is the order of time, backward, so
// that a cut between them changes nothing.
HWY_INLINE void give_row(const Filters& f, const ShortConvChunk& chunk, MatrixView<float> dz,
                         int64_t t, float* to) {
  const int64_t left = t - (chunk.rows - (f.taps - 1));  // its place among the rows left
  const float* later = left >= 0 && chunk.dstate ? chunk.dstate + left * f.channels : f.zeros;
  const int64_t first = std::max<int64_t>(0, -t), end = std::min(f.taps, chunk.rows - t);
  each(f.channels, [&](auto at, int64_t c) HWY_ATTR {
    FloatVec sum = at.load(later + c);
    for (int64_t i = end; i-- > first;)
      sum = hn::MulAdd(at.load(f.tap(i) + c), at.load(dz.row(chunk.first + t + i) + c), sum);
    at.store(sum, to + c);
  });
}

void backward_rows(const ShortConvFilter& filter, std::span<const ShortConvChunk> chunks,
                   MatrixView<float> p, MatrixView<float> dy, float* memory, float* dw) {
  const Filters filters(filter.w, memory);
  with_precision(filter.precision, [&](auto f) HWY_ATTR {
    backward_filters<decltype(f)>(filters, chunks, p, dy, dw);
  });
  parallel_chunk_rows(chunks, filter.w.size(),
                      [&](const ShortConvChunk& chunk, int64_t t)
                          HWY_ATTR { give_row(filters, chunk, dy, t, p.row(chunk.first + t)); });
  // Rows found come after all rows have read the gradient of those left, which lies in their place;
  // it is read at or before where it is written, so the last row goes first.
  const int64_t past = filters.taps - 1;
  for (const ShortConvChunk& chunk : chunks)
    for (int64_t t = -1; chunk.dstate && t >= -past; --t)
      give_row(filters, chunk, dy, t, chunk.dstate + (past + t) * filters.channels);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(forward_rows);
HWY_EXPORT(backward_rows);

namespace {

// The last rows before what follows: some may be ones that the chunk itself found.
void leave_rows(const ShortConvChunk& chunk, MatrixView<float> p, int64_t past, int64_t channels) {
  for (int64_t j = 0; j < past; ++j) {
    const int64_t t = chunk.rows - past + j;
    float* to = chunk.final_state + j * channels;
    if (t >= 0)
      std::copy_n(p.row(chunk.first + t), channels, to);
    else if (!chunk.initial_state)
      std::fill_n(to, channels, 0.0f);
    else if (const float* from = chunk.initial_state + (past + t) * channels; from != to)
      std::copy_n(from, channels, to);
  }
}

void check(ConstTensor w) {
  REFRAIN_CHECK(w.rank == 2 && w.cols() >= 2 && w.cols() <= kShortConvMaxTaps);
}

}  // namespace

void short_conv_forward(const ShortConvFilter& filter, std::span<const ShortConvChunk> chunks,
                        MatrixView<float> p, MatrixView<float> y, Arena& scratch) {
  const ConstTensor w = filter.w;
  check(w);
  Arena::Frame frame(scratch);
  const Tensor memory = scratch.take({w.size() + w.rows()});
  if (scratch.planning()) return;
  HWY_DYNAMIC_DISPATCH(forward_rows)(filter, chunks, p, y, memory.data);
  for (const ShortConvChunk& chunk : chunks)
    if (chunk.final_state) leave_rows(chunk, p, w.cols() - 1, w.rows());
}

void short_conv_backward(const ShortConvFilter& filter, Tensor dw,
                         std::span<const ShortConvChunk> chunks, MatrixView<float> p,
                         MatrixView<float> dy, Arena& scratch) {
  const ConstTensor w = filter.w;
  check(w);
  Arena::Frame frame(scratch);
  const Tensor memory = scratch.take({w.size() + w.rows()});
  const Tensor sums = scratch.take({w.cols(), w.rows()});
  if (scratch.planning()) return;
  REFRAIN_CHECK(!dw || dw.size() == w.size());
  // Sums go on from what earlier rows gave.
  for (int64_t c = 0; c < w.rows(); ++c)
    for (int64_t i = 0; i < w.cols(); ++i) sums.row(i)[c] = dw ? dw.row(c)[i] : 0;
  HWY_DYNAMIC_DISPATCH(backward_rows)(filter, chunks, p, dy, memory.data, sums.data);
  for (int64_t c = 0; dw && c < w.rows(); ++c)
    for (int64_t i = 0; i < w.cols(); ++i) dw.row(c)[i] = sums.row(i)[c];
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
