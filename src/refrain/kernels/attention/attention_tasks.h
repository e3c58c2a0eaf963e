// How attention divides its work into tasks, for any compute type: forward by runs of queries,
// backward by segments of keys.
#pragma once
#include <span>

#include "refrain/base/parallel.h"
#include "refrain/kernels/attention/attention.h"
#include "refrain/kernels/attention/attention_pattern.h"

namespace refrain::kernels {

// Floats of the queries of a forward task. With so many, packing a block of keys is a small share
// of the work, and the queries stay in the second-level cache.
inline constexpr int64_t kQueryFloats = 65536;
// Queries whose gradients are computed at a time, at absolute multiples of this.
inline constexpr int64_t kQueryBlock = 64;
// Floats of the keys of a backward task. With so many, its data and a few blocks stay in the
// second-level cache. Segments of keys are multiples of kSegmentStep.
inline constexpr int64_t kSegmentFloats = 32768, kSegmentStep = 64;

// Queries [first, last) of a sequence, of all heads that share a key/value head. No task has more
// rows, of a query and a head, than `most_rows`.
struct ForwardTask {
  const AttentionShape& shape;
  const AttentionSequence& sequence;
  int64_t kv_head, first, last, most_rows;
};

// run(task, memory) for every task; floats(most_rows): the memory that one takes.
template <class Floats, class Run>
void share_forward(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                   Arena& scratch, const Floats& floats, const Run& run) {
  Arena::Frame frame(scratch);
  const int64_t d = shape.head_dim, group = shape.heads / shape.kv_heads;
  int64_t longest = 0, work = 0;
  for (const AttentionSequence& s : sequences) {
    longest = std::max(longest, s.queries);
    work += attention_work(shape, s.queries, s.start);
  }
  const int64_t most_rows =
      std::min(std::max({int64_t{64}, kQueryFloats / d, group}), longest * group);
  const Tensor memory = scratch.take({threads(), (floats(most_rows) + 15) / 16 * 16});
  if (scratch.planning() || sequences.empty()) return;
  // Enough tasks for the threads, of no more than most_rows rows.
  const int64_t heads = static_cast<int64_t>(sequences.size()) * shape.kv_heads;
  const int64_t most = std::max<int64_t>(1, most_rows / group);
  const int64_t pieces = std::max((longest + most - 1) / most,
                                  std::min((longest + 63) / 64, 4 * threads() / heads + 1));
  const int64_t per_piece = (longest + pieces - 1) / pieces;
  parallel_for(
      heads * pieces,
      [&](int64_t task, int worker) {
        // The last parts see the most keys, so they go first.
        const int64_t piece = pieces - 1 - task / heads, head = task % heads;
        const AttentionSequence& s = sequences[static_cast<size_t>(head / shape.kv_heads)];
        const int64_t first = piece * per_piece, last = std::min(s.queries, first + per_piece);
        if (first < last)
          run(ForwardTask{shape, s, head % shape.kv_heads, first, last, most_rows},
              memory.row(worker));
      },
      4 * work);
}

// The tasks of one key/value head of a sequence: segments of the strided list, then of the local
// list. The queries of a segment come in blocks, ascending. A block of dQ is one chain of additions
// over all segments that see it, in this order. So each segment waits until the one before has
// finished the block. Threads follow one another through a long sequence, and nothing is computed
// twice.
class Segments {
 public:
  Segments(const AttentionShape& shape, int64_t queries, int64_t start, int64_t keys)
      : size_(keys),
        strided_(shape, KeyRange::kStrided),
        local_(shape, KeyRange::kLocal),
        begin_(start),
        end_(start + queries),
        strided_keys_(strided_.seen(end_ - 1).high),
        strided_segments_((strided_keys_ + size_ - 1) / size_),
        first_local_(local_.seen(begin_).low / size_) {}

  int64_t count() const { return strided_segments_ + (end_ + size_ - 1) / size_ - first_local_; }
  int64_t strided_keys() const { return strided_keys_; }
  int64_t most_keys() const { return size_; }  // of a segment
  bool is_strided(int64_t segment) const { return segment < strided_segments_; }
  const KeyRange& list(int64_t segment) const { return is_strided(segment) ? strided_ : local_; }
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
  KeyRange strided_, local_;
  int64_t begin_, end_, strided_keys_, strided_segments_, first_local_;
};

// A segment of a sequence's keys, of one key/value head.
struct BackwardTask {
  const AttentionShape& shape;
  const AttentionSequence& sequence;
  const AttentionGradients& gradients;
  const Segments& segments;
  int64_t segment, kv_head;
  float* strided;   // [strided_keys, 2, head_dim], dk and dv of the strided list
  int32_t* blocks;  // of each segment of this head, the query blocks done

  const KeyRange& list() const { return segments.list(segment); }
  Range keys() const { return segments.keys(segment); }
  // Whether the gradient of key i (in the list) is wanted; that of keys before the tokens of the
  // call may not be.
  bool wants(int64_t i) const {
    const auto& past = segments.is_strided(segment) ? gradients.keys.strided : gradients.keys.past;
    return past.k || list().position(i) >= sequence.start;
  }
};

// f(positions, head, first) for the blocks of queries that see some of the task's keys, ascending,
// and for the heads that share these keys. If `first` is false, f continues the sums of the
// segments before.
template <class F>
void each_query_block(const BackwardTask& task, const F& f) {
  const int64_t group = task.shape.heads / task.shape.kv_heads, h0 = task.kv_head * group;
  const Range positions = task.segments.queries(task.segment);
  for (int64_t block = positions.low / kQueryBlock; block * kQueryBlock < positions.high; ++block) {
    const int64_t before = task.segments.before(task.segment, block);
    if (before >= 0) wait_for(task.blocks[before], static_cast<int32_t>(block + 1));
    for (int64_t h = h0; h < h0 + group; ++h) f(task.segments.block(block), h, before < 0);
    signal(task.blocks[task.segment], static_cast<int32_t>(block + 1));
  }
}

// Writes the gradients of the task's keys, rows at stride `row`.
void put_key_gradients(const BackwardTask&, const float* dk, const float* dv, int64_t row);
// Adds the gradients of the strided list's keys, [keys, 2, head_dim], to those that they have as
// keys of the local list.
void add_strided(const AttentionShape&, const AttentionSequence&, const AttentionKeys<float>& to,
                 int64_t kv_head, int64_t keys, const float* from);

// run(task, memory) for every task; floats(keys): the memory that a segment of so many takes.
template <class Floats, class Run>
void share_backward(const AttentionShape& shape, std::span<const AttentionSequence> sequences,
                    std::span<const AttentionGradients> gradients, Arena& scratch,
                    const Floats& floats, const Run& run) {
  Arena::Frame frame(scratch);
  const int64_t d = shape.head_dim, kv_heads = shape.kv_heads;
  const int64_t heads = static_cast<int64_t>(sequences.size()) * kv_heads;
  int64_t longest = 0, most = 0, most_strided = 0, work = 0;
  for (const AttentionSequence& s : sequences) longest = std::max(longest, s.queries);
  // Enough tasks for the threads.
  int64_t steps = std::max<int64_t>(1, kSegmentFloats / d / kSegmentStep);
  while (steps > 1 && heads * longest < 4 * threads() * steps * kSegmentStep)
    steps = (steps + 1) / 2;
  const int64_t segment_keys = steps * kSegmentStep;
  for (const AttentionSequence& s : sequences) {
    const Segments segments(shape, s.queries, s.start, segment_keys);
    most = std::max(most, segments.count());
    most_strided = std::max(most_strided, segments.strided_keys());
    work += attention_work(shape, s.queries, s.start);
  }
  const Tensor memory = scratch.take({threads(), (floats(segment_keys) + 15) / 16 * 16});
  const Tensor strided = scratch.take({heads, most_strided * 2 * d});
  const TensorOf<int32_t> blocks = scratch.take<int32_t>({heads, most});
  if (scratch.planning() || sequences.empty()) return;
  std::fill(blocks.begin(), blocks.end(), 0);
  parallel_for(
      heads * most,
      [&](int64_t task, int worker) {
        const int64_t segment = task / heads, head = task % heads;
        const auto b = static_cast<size_t>(head / kv_heads);
        const AttentionSequence& s = sequences[b];
        const Segments segments(shape, s.queries, s.start, segment_keys);
        if (segment < segments.count())
          run(BackwardTask{shape, s, gradients[b], segments, segment, head % kv_heads,
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
