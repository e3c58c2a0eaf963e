// Owned memory: aligned for whole vectors, zero at first, never moved.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <span>

#include "refrain/base/error.h"

namespace refrain {

template <class T>
class Buffer {
 public:
  static constexpr size_t kAlign = 64, kHugePage = size_t{2} << 20;

  Buffer() = default;
  explicit Buffer(size_t count) : size_(count) {
    if (count == 0) return;
    // Large buffers ask for huge pages: products walk along columns, one page a step.
    const size_t wanted = count * sizeof(T);
    const size_t align = wanted < kHugePage ? kAlign : kHugePage;
    const size_t bytes = (wanted + kAlign - 1) / kAlign * kAlign;
    void* memory = nullptr;
    if (posix_memalign(&memory, align, bytes) != 0)
      throw_error("out of memory: {} bytes were asked for", bytes);
    data_.reset(static_cast<T*>(memory));
    // Whole huge pages only, so that no page reaches beyond the buffer. The kernel decides whether
    // it gives them.
    if (align == kHugePage) (void)madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
    std::memset(static_cast<void*>(data_.get()), 0, bytes);
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  size_t size() const { return size_; }
  T& operator[](size_t i) { return data_.get()[i]; }
  const T& operator[](size_t i) const { return data_.get()[i]; }
  std::span<T> span() { return {data(), size_}; }
  std::span<const T> span() const { return {data(), size_}; }

 private:
  struct Free {
    void operator()(T* p) const { std::free(p); }
  };
  std::unique_ptr<T, Free> data_;
  size_t size_ = 0;
};

}  // namespace refrain
