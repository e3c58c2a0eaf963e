// A few queries and a block of keys and values, read where and as they are stored: decoding, where
// every key is read once for each token, and a copy in float32 would take longer than its use.
//
// Scores and sums are the same chains as a tile's (tile-inl.h), with the same bits: a score is a
// chain over the head's columns, a lane for each key, and an output is a chain over the keys.
#if defined(REFRAIN_KERNELS_FEW_QUERIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_FEW_QUERIES_INL_H_
#undef REFRAIN_KERNELS_FEW_QUERIES_INL_H_
#else
#define REFRAIN_KERNELS_FEW_QUERIES_INL_H_
#endif

#include <algorithm>

#include "hwy/highway.h"
#include "refrain/kernels/attention/kv_cache-inl.h"
#include "refrain/kernels/attention/stored_run.h"
#include "refrain/kernels/matmul/tile-inl.h"

#ifndef REFRAIN_KERNELS_FEW_QUERIES_ONCE
#define REFRAIN_KERNELS_FEW_QUERIES_ONCE
namespace refrain::kernels {
inline constexpr int kFewQueries = 4;
// The most groups of keys, a vector's lanes each, whose chains run side by side.
inline constexpr int kKeyGroups = 4;
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {
#if HWY_TARGET != HWY_SCALAR

// f(constant) of 1 <= n <= kMost.
template <int kMost, class F>
HWY_INLINE void with_count(int64_t n, F&& f) {
  if (n == kMost) return f(std::integral_constant<int, kMost>());
  if constexpr (kMost > 1) with_count<kMost - 1>(n, f);
}

// Scores [MR, G groups] of queries and keys, which lie one behind another.
template <CacheType kType, int MR, int G>
HWY_NOINLINE void score_groups(MatrixView<const float> q, const std::byte* keys,
                               MatrixView<float> scores) {
  const FloatTag d;
  const int64_t N = float_lanes(), width = q.cols, bytes = cache_bytes(kType, width);
  FloatVec acc[MR][G], scale[G];
  REFRAIN_UNROLL
  for (int g = 0; g < G; ++g) {
    scale[g] = hn::Zero(d);
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) acc[m][g] = hn::Zero(d);
  }
  int64_t c = 0;
  for (; c + kOfBlock<kType> <= width; c += kOfBlock<kType>) {
    REFRAIN_UNROLL
    for (int g = 0; g < G; ++g) {
      const std::byte* group = keys + g * N * bytes;
      scale[g] = scales_at<kType>(group, bytes, c, scale[g]);
      const auto columns = transposed_columns<kType>(group, bytes, width, c, scale[g]);
      REFRAIN_UNROLL
      for (int j = 0; j < kOfBlock<kType>; ++j) {
        REFRAIN_UNROLL
        for (int m = 0; m < MR; ++m)
          acc[m][g] = hn::MulAdd(hn::Set(d, q.row(m)[c + j]), columns.of[j], acc[m][g]);
      }
    }
  }
  for (; c < width; ++c) {
    REFRAIN_UNROLL
    for (int g = 0; g < G; ++g) {
      const FloatVec column = column_at<kType>(keys + g * N * bytes, bytes, width, c);
      REFRAIN_UNROLL
      for (int m = 0; m < MR; ++m)
        acc[m][g] = hn::MulAdd(hn::Set(d, q.row(m)[c]), column, acc[m][g]);
    }
  }
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    REFRAIN_UNROLL
    for (int g = 0; g < G; ++g) hn::StoreU(acc[m][g], d, scores.row(m) + g * N);
  }
}

// Scores of queries and the keys of a run, `at` in the block; columns of `scores` [queries, block].
// What is read next is asked for. memory: kKeyGroups groups of keys.
template <CacheType kType>
HWY_INLINE void score_run(MatrixView<const float> q, const StoredRun& run, Range at,
                          std::byte* memory, MatrixView<float> scores) {
  const int64_t N = float_lanes(), bytes = cache_bytes(kType, q.cols);
  with_count<kFewQueries>(q.rows, [&](auto rows) HWY_ATTR {
    constexpr int MR = decltype(rows)::value;
    constexpr int G = MR == 1 ? kKeyGroups : MR == 2 ? 2 : 1;
    for (int64_t i = at.low; i < at.high;) {
      const int64_t n = std::min(at.high - i, G * N);
      const std::byte* from = run.k + (i - at.low) * run.row;
      for (int64_t r = 0; r < n; ++r) {
        prefetch_bytes(run.v + (i - at.low + r) * run.row, bytes);
        if (i - at.low + r + kKeyBlock < run.length)
          prefetch_bytes(from + (r + kKeyBlock) * run.row, bytes);
      }
      // Copied first: rows that are a power of two apart would push each other out of the cache. A
      // group that is not full is filled up with its last key.
      for (int64_t r = 0; r < round_up(n, N); ++r)
        copy_bytes(from + std::min(r, n - 1) * run.row, bytes, memory + r * bytes);
      if (n == G * N) {
        score_groups<kType, MR, G>(q, memory, scores.col_range(i, n));
      } else {
        for (int64_t r = 0; r < n; r += N) {
          HWY_ALIGN float lanes[MR * HWY_MAX_BYTES / sizeof(float)];
          score_groups<kType, MR, 1>(q, memory + r * bytes, {lanes, MR, N});
          for (int64_t m = 0; m < MR; ++m)
            std::copy_n(lanes + m * N, std::min(N, n - r), scores.row(m) + i + r);
        }
      }
      i += n;
    }
  });
}

// out [MR, V vectors from `column` on] += p [MR, rows] times values. `scales` [block of a head][key
// of a block]: of q8_0.
template <CacheType kType, int MR, int V>
HWY_NOINLINE void add_columns(MatrixView<const float> p, const StoredRun& run, const float* scales,
                              int64_t column, MatrixView<float> out) {
  const FloatTag d;
  const int64_t N = float_lanes();
  const std::byte* values = run.v + (kType == CacheType::kQ8_0 ? 2 * cache_blocks(out.cols) + column
                                                               : column * cache_bytes(kType, 1));
  FloatVec acc[MR][V];
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    REFRAIN_UNROLL
    for (int v = 0; v < V; ++v) acc[m][v] = hn::LoadU(d, out.row(m) + column + v * N);
  }
  for (int64_t k = 0; k < p.cols; ++k, values += run.row) {
    FloatVec x[V];
    REFRAIN_UNROLL
    for (int v = 0; v < V; ++v) {
      if constexpr (kType == CacheType::kFloat32) {
        x[v] = hn::LoadU(d, reinterpret_cast<const float*>(values) + v * N);
      } else if constexpr (kType == CacheType::kBf16) {
        x[v] = Whole().load(reinterpret_cast<const BFloat16*>(values) + v * N);
      } else {
        const float* scale = scales + (column + v * N) / kCacheBlock * kKeyBlock + k;
        x[v] = hn::Mul(load_steps(Whole(), reinterpret_cast<const int8_t*>(values) + v * N),
                       hn::Set(d, *scale));
      }
    }
    REFRAIN_UNROLL
    for (int m = 0; m < MR; ++m) {
      const FloatVec by = hn::Set(d, p.row(m)[k]);
      REFRAIN_UNROLL
      for (int v = 0; v < V; ++v) acc[m][v] = hn::MulAdd(by, x[v], acc[m][v]);
    }
  }
  REFRAIN_UNROLL
  for (int m = 0; m < MR; ++m) {
    REFRAIN_UNROLL
    for (int v = 0; v < V; ++v) hn::StoreU(acc[m][v], d, out.row(m) + column + v * N);
  }
}

// out [queries, width] += p [queries, rows of the run] times its values. width: whole vectors.
// memory: kKeyBlock floats for each block of a head.
template <CacheType kType>
HWY_INLINE void add_run(MatrixView<const float> p, const StoredRun& run, float* memory,
                        MatrixView<float> out) {
  const int64_t N = float_lanes(), width = out.cols;
  if constexpr (kType == CacheType::kQ8_0)
    for (int64_t b = 0; b < cache_blocks(width); ++b) {
      const std::byte* scales = run.v + 2 * b;
      float* to = memory + b * kKeyBlock;
      int64_t k = 0;
      for (; k + N <= p.cols; k += N)
        hn::StoreU(scales_of_rows(scales + k * run.row, run.row), FloatTag(), to + k);
      for (; k < p.cols; ++k) to[k] = scale_of(load_bits(scales + k * run.row));
    }
  with_count<kFewQueries>(p.rows, [&](auto rows) HWY_ATTR {
    constexpr int MR = decltype(rows)::value;
    int64_t column = 0;
    for (; column + 4 * N <= width; column += 4 * N)
      add_columns<kType, MR, 4>(p, run, memory, column, out);
    for (; column < width; column += N) add_columns<kType, MR, 1>(p, run, memory, column, out);
  });
}

// scores [queries, kKeyBlock] of queries, at most kFewQueries, and a block of keys. memory:
// kKeyBlock keys in float32.
HWY_INLINE void score_block(const ForwardTask& task, const KeyBlock& block,
                            MatrixView<const float> q, float* memory, float* scores) {
  const MatrixView<float> all(scores, q.rows, block.count, kKeyBlock);
  each_stored_run(task, block, [&](const StoredRun& run, Range at) HWY_ATTR {
    with_cache_type(run.type, [&](auto type) HWY_ATTR {
      score_run<decltype(type)::value>(q, run, at, reinterpret_cast<std::byte*>(memory), all);
    });
  });
}

// out [queries, width], of whole vectors, += scores of the keys in `seen` times their values.
// memory: kKeyBlock floats for each block of a head.
HWY_INLINE void add_block(const ForwardTask& task, const KeyBlock& block,
                          MatrixView<const float> scores, Range seen, float* memory,
                          MatrixView<float> out) {
  each_stored_run(task, block, [&](StoredRun run, Range at) HWY_ATTR {
    const Range some = intersection(at, seen);
    if (some.low >= some.high) return;
    run.v += (some.low - at.low) * run.row;
    with_cache_type(run.type, [&](auto type) HWY_ATTR {
      add_run<decltype(type)::value>(scores.col_range(some.low, some.high - some.low), run, memory,
                                     out);
    });
  });
}

#endif  // HWY_TARGET != HWY_SCALAR
}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
