// Memory for activations. A step is run twice: dry, over arenas that only count, which is its plan;
// then for real, over memory of that size. So the plan cannot differ from the use.
#pragma once
#include <algorithm>
#include <cstddef>

#include "refrain/base/arena.h"
#include "refrain/base/buffer.h"
#include "refrain/layers/context.h"

namespace refrain {

class Workspace {
 public:
  // step(Context&, Arena& saved), called dry and then for real. Memory is kept for the next call
  // and grows only when a step needs more than any before it.
  template <class Step>
  void run(const Dropout& dropout, Step&& step) {
    Arena counted_scratch, counted_saved;
    Context dry{counted_scratch, dropout};
    step(dry, counted_saved);
    reserve(scratch_, counted_scratch.peak());
    reserve(saved_, counted_saved.peak());
    Arena scratch(scratch_.data(), scratch_.size()), saved(saved_.data(), saved_.size());
    Context ctx{scratch, dropout};
    step(ctx, saved);
  }

  size_t bytes() const { return scratch_.size() + saved_.size(); }

 private:
  static void reserve(Buffer<std::byte>& buffer, size_t bytes) {
    bytes = std::max<size_t>(bytes, 64);  // an arena without memory would only count
    if (buffer.size() >= bytes) return;
    buffer = Buffer<std::byte>();  // the old one goes before the new one comes
    buffer = Buffer<std::byte>(bytes);
  }

  Buffer<std::byte> scratch_, saved_;
};

}  // namespace refrain
