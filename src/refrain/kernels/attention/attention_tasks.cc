#include "refrain/kernels/attention/attention_tasks.h"

#include <algorithm>

namespace refrain::kernels {

void put_key_gradients(const BackwardTask& task, const float* dk, const float* dv, int64_t row) {
  const int64_t d = task.shape.head_dim, first = task.kv_head * d;
  const Range keys = task.keys();
  const auto put = [&](const float* from, float* to, bool add) {
    if (!add)
      std::copy_n(from, d, to);
    else
      for (int64_t j = 0; j < d; ++j) to[j] += from[j];
  };
  for (int64_t i = keys.low; i < keys.high; ++i, dk += row, dv += row) {
    if (task.segments.is_strided(task.segment)) {
      float* to = task.strided + i * 2 * d;
      put(dk, to, false);
      put(dv, to + d, false);
    } else if (task.wants(i)) {
      const auto to = task.list().run(task.gradients.keys, task.sequence.start, i, 1);
      const bool add = task.gradients.add || task.list().position(i) < task.sequence.start;
      put(dk, to.k + first, add);
      put(dv, to.v + first, add);
    }
  }
}

void add_strided(const AttentionShape& shape, const AttentionSequence& s,
                 const AttentionKeys<float>& to, int64_t kv_head, int64_t keys, const float* from) {
  const int64_t d = shape.head_dim;
  const KeyRange list(shape, KeyRange::kStrided);
  for (int64_t i = 0; i < keys; ++i, from += 2 * d) {
    const auto row = list.run(to, s.start, i, 1);
    if (!row.k) continue;
    for (int64_t j = 0; j < d; ++j) {
      row.k[kv_head * d + j] += from[j];
      row.v[kv_head * d + j] += from[d + j];
    }
  }
}

}  // namespace refrain::kernels
