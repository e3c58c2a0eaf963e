#include "refrain/kernels/attention/attention.h"

#include <cmath>
#include <limits>

#include "refrain/kernels/attention/attention_bf16.h"
#include "refrain/kernels/attention/attention_tasks.h"
#include "refrain/kernels/attention/stored_run.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention/attention.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention/attention-inl.h"
#include "refrain/kernels/attention/few_queries-inl.h"
#include "refrain/kernels/attention/kv_cache-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// One row of scores of a block. Of its columns, whole vectors, those in `seen` count; with kAll
// they all do.
template <bool kAll>
HWY_INLINE float highest_score(const float* s, Range seen, Range columns) {
  const FloatTag d;
  const FloatVec lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  FloatVec top = lowest;
  for (int64_t j = columns.low; j < columns.high; j += float_lanes()) {
    const FloatVec v = hn::LoadU(d, s + j);
    top = hn::Max(top, kAll ? v : hn::IfThenElse(lanes_in(seen, j), v, lowest));
  }
  return hn::GetLane(hn::MaxOfLanes(d, top));
}
// Scores become 2^(unit (s - high)), 0 where they do not count; returns their sum.
template <bool kAll>
HWY_INLINE float exponentials(float* s, Range seen, Range columns, float unit, float high) {
  const FloatTag d;
  const FloatVec factor = hn::Set(d, unit), less = hn::Set(d, high);
  FloatVec total = hn::Zero(d);
  for (int64_t j = columns.low; j < columns.high; j += float_lanes()) {
    FloatVec p = vector_exp2(hn::Mul(hn::Sub(hn::LoadU(d, s + j), less), factor));
    if constexpr (!kAll) p = hn::IfThenElseZero(lanes_in(seen, j), p);
    total = hn::Add(total, p);
    hn::StoreU(p, d, s + j);
  }
  return hn::GetLane(hn::SumOfLanes(d, total));
}

// The units of rows' scores, their running maxima and sums, and what was accumulated with them.
struct Running {
  const float* unit;
  float *maximum, *sum, *out;
};

// A tile's scores become probabilities relative to the running maxima; what was accumulated before
// is scaled to the new ones. seen(i): the columns that count in row i. The maxima first: a row's
// reduction overlaps with another's.
template <bool kAll, class Seen>
HWY_INLINE void softmax_tile(int64_t rows, float* scores, const Seen& seen, Range columns,
                             int64_t d, Running to_date) {
  const FloatTag tag;
  float high[kMaxTileRows];
  for (int64_t i = 0; i < rows; ++i)
    high[i] =
        std::max(to_date.maximum[i], highest_score<kAll>(scores + i * kKeyBlock, seen(i), columns));
  for (int64_t i = 0; i < rows; ++i) {
    float &maximum = to_date.maximum[i], &sum = to_date.sum[i];
    const float unit = to_date.unit[i];
    const Range mine = seen(i);
    if (mine.low >= mine.high) {
      std::fill(scores + i * kKeyBlock + columns.low, scores + i * kKeyBlock + columns.high, 0.0f);
      continue;
    }
    if (high[i] != maximum) {
      const FloatVec keep = vector_exp2(hn::Set(tag, unit * (maximum - high[i])));
      float* o = to_date.out + i * d;
      each(d, [&](auto at, int64_t j) HWY_ATTR { at.store(hn::Mul(at.load(o + j), keep), o + j); });
      sum *= hn::GetLane(keep);
      maximum = high[i];
    }
    sum += exponentials<kAll>(scores + i * kKeyBlock, mine, columns, unit, maximum);
  }
}

// Keys of a run become columns of panels, those of `at`. With `ahead`, what is read next is asked
// for: the run's values, and its keys of the next block. memory: [at, d].
template <CacheType kType>
HWY_INLINE void pack_keys(const StoredRun& run, Range at, int64_t d, bool ahead, float* memory,
                          float* panels) {
  const int64_t N = float_lanes(), NR = panel_cols(), bytes = cache_bytes(kType, d);
  for (int64_t i = at.low; i < at.high;) {
    const int64_t first = i - at.low, n = std::min(at.high - i, N - i % N);
    const std::byte* from = run.k + first * run.row;
    for (int64_t r = 0; ahead && r < n; ++r) {
      prefetch_bytes(run.v + (first + r) * run.row, bytes);
      if (first + r + kKeyBlock < run.length)
        prefetch_bytes(from + (r + kKeyBlock) * run.row, bytes);
    }
    float* to = panels + i / NR * d * NR + i % NR;
#if HWY_TARGET != HWY_SCALAR
    if (n == N) {
      // Copied first: rows that are a power of two apart would push each other out of the cache.
      auto* copy = reinterpret_cast<std::byte*>(memory);
      for (int64_t r = 0; r < N; ++r) copy_bytes(from + r * run.row, bytes, copy + r * bytes);
      transpose_heads<kType>(copy, bytes, d, to, NR);
      i += n;
      continue;
    }
#endif
    for (int64_t r = 0; r < n; ++r) read_head<kType>(from + r * run.row, d, memory + r * d);
    transpose(memory, d, n, d, to, NR);
    i += n;
  }
}

// to [run, wide] = its values, zero beyond d.
template <CacheType kType>
HWY_INLINE void read_values(const StoredRun& run, int64_t n, int64_t d, int64_t wide, float* to) {
  for (int64_t i = 0; i < n; ++i, to += wide) {
    read_head<kType>(run.v + i * run.row, d, to);
    for (int64_t j = d; j < wide; ++j) to[j] = 0;
  }
}

// A task's rows are taken token by token, the heads of a token one after another: what a row sees
// moves forward with it.
void attention_forward_task(const ForwardTask& task, float* work) {
  const AttentionShape& shape = task.shape;
  const AttentionSequence& s = task.sequence;
  const int64_t g = task.kv_head, first = task.first, last = task.last;
  const int64_t most_rows = task.most_rows;
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads, N = float_lanes();
  const int64_t wide = padded_head(d), rows = (last - first) * group;
  float* queries = work;                      // [rows, d]
  float* out = queries + most_rows * d;       // [rows, d]
  float* keys = out + most_rows * d;          // panels of a block's keys, transposed
  float* values = keys + kKeyBlock * d;       // [kKeyBlock, wide]
  float* scores = values + kKeyBlock * wide;  // [kRowsAtOnce, kKeyBlock]
  float* maximum = scores + kRowsAtOnce * kKeyBlock;
  float* sum = maximum + most_rows;
  float* unit = sum + most_rows;
  std::fill_n(maximum, rows, -std::numeric_limits<float>::infinity());
  std::fill_n(sum, rows, 0.0f);
  std::fill_n(out, rows * d, 0.0f);
  for (int64_t i = first; i < last; ++i)
    copy_rows(s.q + i * shape.q_row + g * group * d, d, group, d, d,
              queries + (i - first) * group * d);
  std::fill_n(unit, rows, shape.scale * kLog2E);
  queries_in_range({queries, rows, d}, unit, {queries, rows, d});

  // Keys and values are not copied, but read where they are.
#if HWY_TARGET == HWY_SCALAR
  constexpr bool kInPlace = false;
#else
  constexpr bool kInPlace = true;
#endif
  const bool in_place = kInPlace && rows <= kFewQueries && d % N == 0;

  const DropoutRate rate(shape.dropout.rate);
  const int64_t begin = s.start + first, end = s.start + last;  // positions
  for (const auto kind : {KeyRange::kStrided, KeyRange::kLocal}) {
    const KeyRange list(shape, kind);
    const int64_t last_key = list.seen(end - 1).high;
    for (int64_t k0 = list.seen(begin).low / kKeyBlock * kKeyBlock; k0 < last_key;
         k0 += kKeyBlock) {
      const int64_t n = std::min(kKeyBlock, last_key - k0);
      const KeyBlock block{list, k0, n, last_key};
      Panels v = row_panels(values, wide);
      if (!in_place) clear_panels(n, d, keys);
      each_stored_run(task, block, [&](const StoredRun& run, Range at) HWY_ATTR {
        if (in_place) return;
        const int64_t length = at.high - at.low;
        float* to = values + at.low * wide;
        with_cache_type(run.type, [&](auto type) HWY_ATTR {
          constexpr CacheType kType = decltype(type)::value;
          pack_keys<kType>(run, at, d, rows <= kMaxTileRows, to, keys);
          // A single tile reads values where they are, if whole vectors of them lie there.
          if (kType == CacheType::kFloat32 && rows <= kRowsAtOnce && length == n && d % N == 0)
            v = row_panels(reinterpret_cast<const float*>(run.v),
                           run.row / static_cast<int64_t>(sizeof(float)));
          else
            read_values<kType>(run, length, d, wide, to);
        });
      });
      const Range see =
          intersection({begin, end}, {list.seen_by(k0).low, list.seen_by(k0 + n - 1).high});
      each_tile({(see.low - begin) * group, (see.high - begin) * group}, [&](int64_t r0,
                                                                             int64_t m) HWY_ATTR {
        const auto seen_at = [&](int64_t position) {
          return intersection({0, n}, shifted(list.seen(position), -k0));
        };
        const Range earliest = seen_at(begin + r0 / group);
        const Range latest = seen_at(begin + (r0 + m - 1) / group);
        const Range seen{earliest.low, latest.high};
        const Range columns{seen.low / N * N, round_up(seen.high, N)};
        const MatrixView<const float> q(queries + r0 * d, m, d);
#if HWY_TARGET != HWY_SCALAR
        if (in_place)
          score_block(task, block, q, keys, scores);
        else
#endif
          tile_row<Rows::kApart>(q, transposed_panels(keys, d), {columns.low, seen.high},
                                 {scores, m, n, kKeyBlock}, false);
        const Running to_date{unit + r0, maximum + r0, sum + r0, out + r0 * d};
        if (latest.low == 0 && earliest.high == n && n == columns.high)
          softmax_tile<true>(
              m, scores, [&](int64_t) { return seen; }, columns, d, to_date);
        else
          softmax_tile<false>(
              m, scores, [&](int64_t i) { return seen_at(begin + (r0 + i) / group); }, columns, d,
              to_date);
        for (int64_t i = 0; shape.dropout.rate > 0 && i < m; ++i) {
          const int64_t query = first + (r0 + i) / group, h = g * group + (r0 + i) % group;
          DropoutFactors<kKeyBlock>(rate, dropout_row(shape, s, query, h, kind), k0, columns)
              .multiply(scores + i * kKeyBlock);
        }
        const MatrixView<const float> p(scores, m, n, kKeyBlock);
#if HWY_TARGET != HWY_SCALAR
        if (in_place)
          add_block(task, block, p, seen, values, {out + r0 * d, m, d});
        else
#endif
          tile_row<Rows::kApart>(p.col_range(seen.low, seen.high - seen.low), v.from_row(seen.low),
                                 {0, d}, {out + r0 * d, m, d}, true);
      });
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t i = first + r / group, h = g * group + r % group;
    const float* from = out + r * d;
    float* o = s.o + i * shape.o_row + h * d;
    const FloatVec inverse = hn::Set(FloatTag(), 1.0f / sum[r]);
    each(d, [&](auto at, int64_t j)
                HWY_ATTR { at.store(hn::Mul(at.load(from + j), inverse), o + j); });
    s.softmax[h * s.queries + i] = maximum[r];
    s.softmax[(shape.heads + h) * s.queries + i] = std::log2(sum[r]);
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(attention_forward_task);

void attention_forward(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                       Arena& scratch, ComputeType compute_type) {
  const bool bf16 = compute_type == ComputeType::kBf16;
  for (const AttentionSequence& s : sequences)
    REFRAIN_CHECK(!bf16 || s.cache_type == CacheType::kFloat32);
  if (bf16 && microkernel())
    return attention_forward_bf16(*microkernel(), shape, sequences, scratch);
  const int64_t d = shape.head_dim;
  share_forward(
      shape, sequences, scratch,
      [&](int64_t rows) {
        return rows * (2 * d + 3) + kKeyBlock * (d + padded_head(d) + kMaxTileRows);
      },
      [&](const ForwardTask& task, float* memory) {
        HWY_DYNAMIC_DISPATCH(attention_forward_task)(task, memory);
      });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
