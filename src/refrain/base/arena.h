// A bump allocator over one block of memory. It is a stack: a Frame gives back, at its end,
// everything that was taken since its start.
//
// An Arena without memory only counts (a dry run). A memory plan is a step run dry over two
// counting arenas, so a plan cannot differ from what the step takes. Tensors of a dry run point to
// nowhere().
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "refrain/base/error.h"
#include "refrain/base/tensor.h"

namespace refrain {

// The address of a dry run's tensors. No program on x86-64 or ARM can have memory there, so code
// that touches such a tensor crashes. It is not null, because a dry run computes offsets as the
// real run does.
template <class T = float>
T* nowhere() {
  return reinterpret_cast<T*>(uintptr_t{1} << 55);
}

class Arena {
 public:
  static constexpr size_t kAlign = 64;

  Arena() = default;  // counts only
  Arena(std::byte* base, size_t bytes) : base_(base), limit_(bytes) {}

  bool planning() const { return base_ == nullptr; }

  template <class T = float>
  TensorOf<T> take(std::initializer_list<int64_t> shape) {
    TensorOf<T> t(nowhere<T>(), shape);
    const size_t bytes = (static_cast<size_t>(t.size()) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
    if (base_) {
      REFRAIN_CHECK(bytes <= limit_ - top_ && "the plan is smaller than its use");
      t.data = reinterpret_cast<T*>(base_ + top_);
    }
    top_ += bytes;
    peak_ = std::max(peak_, top_);
    return t;
  }

  size_t peak() const { return peak_; }

  // Where the next take() starts; rewind() goes back there without forgetting what was written.
  size_t mark() const { return top_; }
  void rewind(size_t mark) { top_ = mark; }

  class Frame {
   public:
    explicit Frame(Arena& a) : arena_(a), mark_(a.top_) {}
    ~Frame() { arena_.top_ = mark_; }
    Frame(const Frame&) = delete;
    Frame& operator=(const Frame&) = delete;

   private:
    Arena& arena_;
    size_t mark_;
  };

 private:
  std::byte* base_ = nullptr;
  size_t limit_ = 0, top_ = 0, peak_ = 0;
};

}  // namespace refrain
