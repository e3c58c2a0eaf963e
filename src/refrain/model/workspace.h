// Memory for activations. A step is run twice: dry, over arenas that only count, which gives the
// plan; then for real, over memory of that size. So the plan cannot differ from the use.
#pragma once
#include <algorithm>
#include <cstddef>

#include "refrain/base/arena.h"
#include "refrain/base/buffer.h"
#include "refrain/layers/execution_context.h"

namespace refrain {

// Bytes that a step takes.
struct StepBytes {
  size_t scratch = 0, saved = 0;
  size_t total() const { return scratch + saved; }
};

// The bytes that step(ExecutionContext&, Arena& saved) needs, by a dry run.
template <class Step>
StepBytes count_bytes(Step&& step) {
  Arena scratch, saved;
  ExecutionContext dry{scratch};
  step(dry, saved);
  return {scratch.peak(), saved.peak()};
}

class Workspace {
 public:
  // Allocates `bytes` now; memory does not grow from then on. A step that needs more is a
  // programming error.
  void fix(size_t bytes) {
    reserve(bytes);
    fixed_ = true;
  }

  // False when memory is fixed and the step needs more.
  template <class Step>
  bool fits(const Dropout& dropout, Step&& step) const {
    return !fixed_ || count(dropout, step).total() <= memory_.size();
  }

  // Calls step(ExecutionContext&, Arena& saved) dry and then for real. Memory stays for the next
  // call. Unless it is fixed, it grows when a step needs more than all before.
  template <class Step>
  void run(const Dropout& dropout, Step&& step) {
    const StepBytes needs = count(dropout, step);
    REFRAIN_CHECK((!fixed_ || needs.total() <= memory_.size()) &&
                  "the plan is smaller than its use");
    // An arena without memory would only count.
    const size_t least = Arena::kAlign, scratch_bytes = std::max(needs.scratch, least);
    const size_t saved_bytes = std::max(needs.saved, least);
    if (!fixed_) reserve(scratch_bytes + saved_bytes);
    Arena scratch(memory_.data(), scratch_bytes);
    Arena saved(memory_.data() + scratch_bytes, saved_bytes);
    ExecutionContext ctx{scratch, dropout};
    step(ctx, saved);
  }

  size_t bytes() const { return memory_.size(); }

 private:
  template <class Step>
  static StepBytes count(const Dropout& dropout, Step&& step) {
    return count_bytes([&](ExecutionContext& ctx, Arena& saved) {
      ctx.dropout = dropout;
      step(ctx, saved);
    });
  }
  void reserve(size_t bytes) {
    if (memory_.size() >= bytes) return;
    memory_ = Buffer<std::byte>();  // the old one goes before the new one comes
    memory_ = Buffer<std::byte>(bytes);
  }

  Buffer<std::byte> memory_;
  bool fixed_ = false;
};

}  // namespace refrain
