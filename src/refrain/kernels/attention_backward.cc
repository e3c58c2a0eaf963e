#include <utility>

#include "refrain/base/parallel.h"
#include "refrain/kernels/attention.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention_backward.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention-inl.h"

#ifndef REFRAIN_KERNELS_ATTENTION_BACKWARD_ONCE
#define REFRAIN_KERNELS_ATTENTION_BACKWARD_ONCE
namespace refrain::kernels {
// Queries and keys whose products are made at a time. No sum depends on them: scores are not
// rescaled here, and every gradient is one chain over ascending positions.
inline constexpr int64_t kQueryBlock = 64, kKeyBlock = 64;
// Floats of a task's keys: what is kept of them stays in the second cache beside a few blocks.
inline constexpr int64_t kSegmentFloats = 32768;

// The tasks of one key/value head of a sequence: segments of the strided list, then of the local
// one. A segment's queries come in blocks, ascending. A block of dQ is one chain over all segments
// that see it, in this order, so each waits until the one before has done the block: threads follow
// one another through a long sequence, and nothing is computed twice.
class Segments {
 public:
  Segments(const AttentionShape& shape, int64_t queries, int64_t start, int64_t keys)
      : size_(keys),
        strided_(shape, KeyList::kStrided),
        local_(shape, KeyList::kLocal),
        begin_(start),
        end_(start + queries),
        strided_keys_(strided_.seen(end_ - 1).high),
        strided_segments_((strided_keys_ + size_ - 1) / size_),
        first_local_(local_.seen(begin_).low / size_) {}

  int64_t count() const { return strided_segments_ + (end_ + size_ - 1) / size_ - first_local_; }
  int64_t strided_keys() const { return strided_keys_; }
  bool is_strided(int64_t segment) const { return segment < strided_segments_; }
  const KeyList& list(int64_t segment) const { return is_strided(segment) ? strided_ : local_; }
  // Its keys in the list, those that some query sees.
  Range keys(int64_t segment) const {
    const bool strided = is_strided(segment);
    const int64_t index = strided ? segment : segment - strided_segments_ + first_local_;
    return intersection({index * size_, (index + 1) * size_},
                        strided ? Range{0, strided_keys_} : Range{local_.seen(begin_).low, end_});
  }
  // Positions of the queries that see some of its keys; of those in `block`.
  Range queries(int64_t segment) const {
    const Range all = keys(segment);
    return intersection({begin_, end_}, {list(segment).seen_by(all.low).low,
                                         list(segment).seen_by(all.high - 1).high});
  }
  Range block(int64_t index) const {
    return intersection({begin_, end_}, {index * kQueryBlock, (index + 1) * kQueryBlock});
  }
  // The last segment before this one that sees queries of the block, or -1.
  int64_t before(int64_t segment, int64_t index) const {
    if (segment == 0) return -1;
    if (is_strided(segment)) return segment - 1;
    const Range positions = block(index);
    if (segment > strided_segments_ && queries(segment - 1).high > positions.low)
      return segment - 1;
    const int64_t seen = strided_.seen(positions.high - 1).high;
    return (seen + size_ - 1) / size_ - 1;
  }

 private:
  int64_t size_;
  KeyList strided_, local_;
  int64_t begin_, end_, strided_keys_, strided_segments_, first_local_;
};

struct BackwardTask {
  const AttentionShape& shape;
  const AttentionSequence& sequence;
  const AttentionGradients& gradients;
  int64_t dq_row;
  bool add;
  const Segments& segments;
  int64_t segment, kv_head;
  float* strided;   // [strided_keys, 2, head_dim], dk and dv of the strided list
  int32_t* blocks;  // of each segment of this head, the query blocks done
};

inline int64_t backward_memory(int64_t d, int64_t keys) {
  const int64_t wide = padded_head(d);
  return keys * (2 * d + 3 * wide) + kQueryBlock * (3 * wide + 2 * kKeyBlock + 1);
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// One row of a block: scores to probabilities, dP to dS, in the columns in `seen`; the others
// become zero.
HWY_INLINE void probabilities_row(float* p, float* ds, Range seen, int64_t n, float unit, float lse,
                                  float scale, float delta) {
  const FloatTag d;
  const int64_t N = float_lanes();
  const FloatVec factor = hn::Set(d, unit), log_sum = hn::Set(d, lse);
  const FloatVec by = hn::Set(d, scale), less = hn::Set(d, delta * scale);
  for (int64_t j = 0; j < n; j += N) {
    if (j + N <= seen.low || j >= seen.high) {
      hn::StoreU(hn::Zero(d), d, p + j);
      hn::StoreU(hn::Zero(d), d, ds + j);
      continue;
    }
    FloatVec probability = vector_exp2(hn::MulSub(hn::LoadU(d, p + j), factor, log_sum));
    FloatVec slope = hn::Mul(probability, hn::MulSub(hn::LoadU(d, ds + j), by, less));
    if (j < seen.low || j + N > seen.high) {
      const auto mask = lanes_in(seen, j);
      probability = hn::IfThenElseZero(mask, probability);
      slope = hn::IfThenElseZero(mask, slope);
    }
    hn::StoreU(probability, d, p + j);
    hn::StoreU(slope, d, ds + j);
  }
}

// What a task keeps of its keys and of a block of queries.
struct BackwardMemory {
  BackwardMemory(int64_t d, int64_t segment_keys, float* at) : wide(padded_head(d)) {
    const auto take = [&](int64_t size) { return std::exchange(at, at + size); };
    keys_t = take(segment_keys * d);
    values_t = take(segment_keys * d);
    keys = take(segment_keys * wide);
    dk = take(segment_keys * wide);
    dv = take(segment_keys * wide);
    q = take(kQueryBlock * wide);
    d_o = take(kQueryBlock * wide);
    dq = take(kQueryBlock * wide);
    p = take(kQueryBlock * kKeyBlock);
    ds = take(kQueryBlock * kKeyBlock);
    delta = take(kQueryBlock);
  }
  int64_t wide;
  float *keys_t, *values_t;      // panels of the transposed keys and values, block by block
  float *keys, *dk, *dv;         // [segment_keys, wide]
  float *q, *d_o, *dq, *p, *ds;  // [kQueryBlock, wide] or [kQueryBlock, kKeyBlock]
  float* delta;                  // rowsum(dO o)
};

// The products of a block of queries, those at `positions` of head h, and block b of the task's
// keys.
void backward_block(const BackwardTask& task, const BackwardMemory& m, Range positions, int64_t h,
                    int64_t b, bool keys_wanted) {
  const AttentionShape& shape = task.shape;
  const KeyList& list = task.segments.list(task.segment);
  const Range all = task.segments.keys(task.segment);
  const int64_t d = shape.head_dim, wide = m.wide, N = float_lanes(), at = b * kKeyBlock;
  const int64_t k0 = all.low + at, n = std::min(kKeyBlock, all.high - k0), t0 = positions.low;
  const Range columns{0, n}, rows{0, positions.high - t0};
  const auto seen = [&](int64_t i) {
    return intersection(columns, shifted(list.seen(t0 + i), -k0));
  };
  const auto seen_by = [&](int64_t j) {
    return intersection(rows, shifted(list.seen_by(k0 + j), -t0));
  };
  const Range see{seen_by(0).low, seen_by(n - 1).high};
  if (see.low >= see.high) return;

  const bool whole = seen(see.low).high == n && seen(see.high - 1).low == 0;
  each_tile(see, [&](int64_t i0, int64_t count) HWY_ATTR {
    const int64_t from = seen(i0).low / N * N;
    const Range some{from, seen(i0 + count - 1).high};
    tile_row<Rows::kApart>(count, some, d, m.q + i0 * wide, wide,
                           transposed_panels(m.keys_t + at * d, d), m.p + i0 * kKeyBlock, kKeyBlock,
                           false);
    tile_row<Rows::kApart>(count, some, d, m.d_o + i0 * wide, wide,
                           transposed_panels(m.values_t + at * d, d), m.ds + i0 * kKeyBlock,
                           kKeyBlock, false);
  });
  const float* lse = task.sequence.lse + h * task.sequence.queries + t0 - task.sequence.start;
  const DropoutRate rate(shape.dropout.rate);
  for (int64_t i = see.low; i < see.high; ++i) {
    float *p = m.p + i * kKeyBlock, *ds = m.ds + i * kKeyBlock;
    const Range mine = whole ? columns : seen(i);
    const auto to_probabilities = [&]() HWY_ATTR {
      probabilities_row(p, ds, mine, n, shape.scale * kLog2E, lse[i], shape.scale, m.delta[i]);
    };
    if (shape.dropout.rate == 0) {
      to_probabilities();
      continue;
    }
    const int64_t query = t0 + i - task.sequence.start;
    const DropoutFactors<kKeyBlock> factors(
        rate, dropout_row(shape, task.sequence, query, h, list.kind()), k0,
        {mine.low / N * N, round_up(mine.high, N)});
    factors.multiply(ds);
    to_probabilities();
    factors.multiply(p);
  }
  if (keys_wanted)
    each_tile(columns, [&](int64_t j0, int64_t count) HWY_ATTR {
      const int64_t i0 = std::max(see.low, seen_by(j0).low);
      const int64_t K = std::min(see.high, seen_by(j0 + count - 1).high) - i0;
      if (K <= 0) return;
      const int64_t out = (at + j0) * wide, in = i0 * kKeyBlock + j0;
      tile_row<Rows::kAdjacent>(count, {0, d}, K, m.p + in, kKeyBlock,
                                row_panels(m.d_o + i0 * wide, wide), m.dv + out, wide, true);
      tile_row<Rows::kAdjacent>(count, {0, d}, K, m.ds + in, kKeyBlock,
                                row_panels(m.q + i0 * wide, wide), m.dk + out, wide, true);
    });
  each_tile(see, [&](int64_t i0, int64_t count) HWY_ATTR {
    const int64_t from = seen(i0).low, to = seen(i0 + count - 1).high;
    tile_row<Rows::kApart>(count, {0, d}, to - from, m.ds + i0 * kKeyBlock + from, kKeyBlock,
                           row_panels(m.keys + (at + from) * wide, wide), m.dq + i0 * wide, wide,
                           true);
  });
}

// A block of queries of head h, copied side by side, with the gradient they have so far.
void load_queries(const BackwardTask& task, const BackwardMemory& m, Range positions, int64_t h,
                  bool first) {
  const AttentionShape& shape = task.shape;
  const FloatTag tag;
  const int64_t d = shape.head_dim, wide = m.wide, n = positions.high - positions.low;
  const int64_t i0 = positions.low - task.sequence.start;
  copy_rows(task.sequence.q + i0 * shape.q_row + h * d, shape.q_row, n, d, wide, m.q);
  copy_rows(task.gradients.d_o + i0 * shape.o_row + h * d, shape.o_row, n, d, wide, m.d_o);
  if (first)
    std::fill_n(m.dq, n * wide, 0.0f);
  else
    copy_rows(task.gradients.dq + i0 * task.dq_row + h * d, task.dq_row, n, d, wide, m.dq);
  for (int64_t i = 0; i < n; ++i) {
    const float *o = task.sequence.o + (i0 + i) * shape.o_row + h * d, *d_o = m.d_o + i * wide;
    FloatVec acc = hn::Zero(tag);
    each(d, [&](auto at, int64_t j)
                HWY_ATTR { acc = hn::MulAdd(at.load(o + j), at.load(d_o + j), acc); });
    m.delta[i] = hn::GetLane(hn::SumOfLanes(tag, acc));
  }
}

void attention_backward_task(const BackwardTask& task, float* work) {
  const AttentionShape& shape = task.shape;
  const Segments& segments = task.segments;
  const KeyList& list = segments.list(task.segment);
  const Range keys = segments.keys(task.segment), positions = segments.queries(task.segment);
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads, g = task.kv_head;
  const int64_t start = task.sequence.start, count = keys.high - keys.low;
  const bool strided = segments.is_strided(task.segment);
  const BackwardMemory m(d, round_up(count, kKeyBlock), work);
  const int64_t wide = m.wide;

  clear_panels(count, d, m.keys_t);
  clear_panels(count, d, m.values_t);
  for (int64_t i = 0; i < count;) {
    const auto run = list.run(task.sequence.keys, start, keys.low + i, count - i);
    transpose_rows(run.k + g * d, run.row, i, run.length, d, m.keys_t);
    transpose_rows(run.v + g * d, run.row, i, run.length, d, m.values_t);
    copy_rows(run.k + g * d, run.row, run.length, d, wide, m.keys + i * wide);
    i += run.length;
  }
  std::fill_n(m.dk, count * wide, 0.0f);
  std::fill_n(m.dv, count * wide, 0.0f);
  // Keys before the call's tokens may be of no interest to anyone.
  const auto& past = strided ? task.gradients.keys.strided : task.gradients.keys.past;
  const auto wanted = [&](int64_t i) { return past.k || list.position(keys.low + i) >= start; };

  for (int64_t block = positions.low / kQueryBlock; block * kQueryBlock < positions.high; ++block) {
    const Range at = segments.block(block);
    const int64_t before = segments.before(task.segment, block);
    if (before >= 0) wait_for_mark(task.blocks[before], static_cast<int32_t>(block + 1));
    for (int64_t h = g * group; h < (g + 1) * group; ++h) {
      load_queries(task, m, at, h, before < 0);
      for (int64_t i = 0; i < count; i += kKeyBlock)
        backward_block(task, m, at, h, i / kKeyBlock, wanted(std::min(i + kKeyBlock, count) - 1));
      float* dq = task.gradients.dq + (at.low - start) * task.dq_row + h * d;
      for (int64_t i = 0; i < at.high - at.low; ++i)
        copy_rows(m.dq + i * wide, wide, 1, d, d, dq + i * task.dq_row);
    }
    raise_mark(task.blocks[task.segment], static_cast<int32_t>(block + 1));
  }

  const auto put = [&](const float* from, float* to, bool add) HWY_ATTR {
    each(d, [&](auto at, int64_t j) HWY_ATTR {
      const FloatVec v = at.load(from + j);
      at.store(add ? hn::Add(at.load(to + j), v) : v, to + j);
    });
  };
  for (int64_t i = 0; i < count; ++i) {
    const float *dk = m.dk + i * wide, *dv = m.dv + i * wide;
    if (strided) {
      float* to = task.strided + (keys.low + i) * 2 * d;
      put(dk, to, false);
      put(dv, to + d, false);
    } else if (wanted(i)) {
      const auto to = list.run(task.gradients.keys, start, keys.low + i, 1);
      const bool add = task.add || list.position(keys.low + i) < start;
      put(dk, to.k + g * d, add);
      put(dv, to.v + g * d, add);
    }
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(attention_backward_task);

namespace {

// What the strided list's keys got joins what they got as others' neighbours.
void add_strided(const AttentionShape& shape, const AttentionSequence& s,
                 const AttentionKeys<float>& to, int64_t g, int64_t keys, const float* from) {
  const int64_t d = shape.head_dim;
  const KeyList list(shape, KeyList::kStrided);
  for (int64_t i = 0; i < keys; ++i, from += 2 * d) {
    const auto row = list.run(to, s.start, i, 1);
    if (!row.k) continue;
    for (int64_t j = 0; j < d; ++j) {
      row.k[g * d + j] += from[j];
      row.v[g * d + j] += from[d + j];
    }
  }
}

}  // namespace

void attention_backward(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                        std::span<const AttentionGradients> gradients, int64_t dq_row, bool add,
                        Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t d = shape.head_dim, kv_heads = shape.kv_heads;
  const int64_t heads = static_cast<int64_t>(sequences.size()) * kv_heads;
  int64_t longest = 0, most = 0, most_strided = 0, work = 0;
  for (const AttentionSequence& s : sequences) longest = std::max(longest, s.queries);
  // Enough tasks for the threads.
  int64_t segment_keys = std::max(kKeyBlock, kSegmentFloats / d / kKeyBlock * kKeyBlock);
  while (segment_keys > kKeyBlock && heads * longest < 4 * threads() * segment_keys)
    segment_keys = round_up(segment_keys / 2, kKeyBlock);
  for (const AttentionSequence& s : sequences) {
    const Segments segments(shape, s.queries, s.start, segment_keys);
    most = std::max(most, segments.count());
    most_strided = std::max(most_strided, segments.strided_keys());
    work += attention_work(shape, s.queries, s.start);
  }
  const Tensor memory = scratch.take({threads(), round_up(backward_memory(d, segment_keys), 16)});
  const Tensor strided = scratch.take({heads, most_strided * 2 * d});
  const TensorOf<int32_t> blocks = scratch.take<int32_t>({heads, most});
  if (scratch.counts_only() || sequences.empty()) return;
  std::fill(blocks.begin(), blocks.end(), 0);
  parallel_for(
      heads * most,
      [&](int64_t task, int worker) {
        const int64_t segment = task / heads, head = task % heads;
        const auto b = static_cast<size_t>(head / kv_heads);
        const AttentionSequence& s = sequences[b];
        const Segments segments(shape, s.queries, s.start, segment_keys);
        if (segment < segments.count()) HWY_DYNAMIC_DISPATCH(attention_backward_task)
        (BackwardTask{shape, s, gradients[b], dq_row, add, segments, segment, head % kv_heads,
                      strided.row(head), blocks.row(head)},
         memory.row(worker));
      },
      10 * work);
  if (most_strided > 0)
    parallel_for(
        heads,
        [&](int64_t head) {
          const auto b = static_cast<size_t>(head / kv_heads);
          const AttentionSequence& s = sequences[b];
          add_strided(shape, s, gradients[b].keys, head % kv_heads,
                      Segments(shape, s.queries, s.start, segment_keys).strided_keys(),
                      strided.row(head));
        },
        4 * heads * most_strided * d);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
