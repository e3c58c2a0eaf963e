// The keys and values of a forward task, where they are: in the projection of the call's tokens, as
// floats, or in a state, in its type (kv_cache.h).
#pragma once
#include <algorithm>
#include <cstddef>

#include "refrain/kernels/attention/attention_pattern.h"
#include "refrain/kernels/attention/attention_tasks.h"

namespace refrain::kernels {

// Keys in a block: blocks stand at multiples of this in their list. Part of the numbers: it decides
// where the running sum is rescaled.
constexpr int64_t kKeyBlock = 128;

// Evenly spaced rows of one head, in the type they are stored in.
struct StoredRun {
  CacheType type;
  const std::byte *k, *v;
  int64_t row, length;  // bytes from one to the next; how many
};
// From key i of a list on, at most `most`.
inline StoredRun stored_run(const ForwardTask& task, const KeyRange& list, int64_t i,
                            int64_t most) {
  const AttentionSequence& s = task.sequence;
  const int64_t d = task.shape.head_dim;
  if (s.cache_type != CacheType::kFloat32 && list.position(i) < s.start) {
    const auto run = list.run(s.cached, s.start, i, most);
    const int64_t offset = task.kv_head * cache_bytes(s.cache_type, d);
    return {s.cache_type, run.k + offset, run.v + offset, run.row, run.length};
  }
  const auto run = list.run(s.keys, s.start, i, most);
  const auto bytes = [&](const float* head) {
    return reinterpret_cast<const std::byte*>(head + task.kv_head * d);
  };
  return {CacheType::kFloat32, bytes(run.k), bytes(run.v),
          run.row * static_cast<int64_t>(sizeof(float)), run.length};
}

// Asks for n bytes in the second-level cache.
inline void prefetch_bytes(const std::byte* from, int64_t n) {
  constexpr int64_t kLine = 64;
  for (int64_t j = 0; j < n; j += kLine) __builtin_prefetch(from + j, 0, 2);
  __builtin_prefetch(from + n - 1, 0, 2);
}

// Keys [first, first + count) of a list, a block; the list ends at `last`.
struct KeyBlock {
  const KeyRange& list;
  int64_t first, count, last;
};
// f(run, at) for the runs that a block's keys `at`, counted from its first, lie in. A run may be
// longer than that: it goes on into the next block.
template <class F>
void each_stored_run(const ForwardTask& task, const KeyBlock& block, F&& f) {
  const int64_t most = std::min(block.count + kKeyBlock, block.last - block.first);
  for (int64_t i = 0; i < block.count;) {
    const StoredRun run = stored_run(task, block.list, block.first + i, most - i);
    const int64_t end = std::min(i + run.length, block.count);
    f(run, Range{i, end});
    i = end;
  }
}

}  // namespace refrain::kernels
