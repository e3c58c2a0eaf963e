// Reference implementation of the types of kv_cache.h: what a head's key or value becomes when it
// is stored. For any real number type.
#pragma once
#include <algorithm>
#include <cmath>

#include "refrain/kernels/attention/kv_cache.h"
#include "refrain/kernels/matmul/bf16.h"

namespace refrain::kernels {

// x [width] becomes the values that the type has.
template <class T>
void round_to_cache_ref(CacheType type, int64_t width, T* x) {
  if (type == CacheType::kFloat32) return;
  if (type == CacheType::kBf16) {
    for (int64_t i = 0; i < width; ++i)
      x[i] = static_cast<T>(static_cast<float>(BFloat16::of(static_cast<float>(x[i]))));
    return;
  }
  for (int64_t first = 0; first < width; first += kCacheBlock) {
    const int64_t end = std::min(width, first + kCacheBlock);
    T largest = 0;
    for (int64_t i = first; i < end; ++i)
      largest = std::abs(x[i]) <= largest ? largest : std::abs(x[i]);
    const float scale = scale_of(scale_bits(static_cast<float>(largest / 127)));
    for (int64_t i = first; i < end; ++i) {
      if (std::isnan(scale)) {
        x[i] = static_cast<T>(scale);
        continue;
      }
      const T steps = std::nearbyint(x[i] / static_cast<T>(scale == 0 ? 1 : scale));
      const int q = static_cast<int>(std::clamp<T>(steps, -127, 127));
      x[i] = static_cast<T>(scale) * static_cast<T>(q);
    }
  }
}

}  // namespace refrain::kernels
