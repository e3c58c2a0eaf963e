#include "refrain/kernels/attention/kv_cache.h"

#include <algorithm>
#include <cstring>

#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/attention/kv_cache.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/attention/kv_cache-inl.h"
#include "refrain/kernels/attention/scores-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

HWY_INLINE void store_steps(Whole, FloatVec steps, int8_t* to) {
  hn::StoreU(hn::DemoteTo(Int8Tag(), hn::NearestInt(steps)), Int8Tag(), to);
}
HWY_INLINE void store_steps(Part at, FloatVec steps, int8_t* to) {
  HWY_ALIGN int8_t lanes[HWY_MAX_BYTES / sizeof(float)];
  store_steps(Whole(), steps, lanes);
  std::copy_n(lanes, at.count, to);
}

template <CacheType kType>
HWY_INLINE void write_head(const float* from, int64_t width, std::byte* head) {
  if constexpr (kType == CacheType::kFloat32) {
    std::memcpy(head, from, static_cast<size_t>(width) * sizeof(float));
  } else if constexpr (kType == CacheType::kBf16) {
    auto* to = reinterpret_cast<BFloat16*>(head);
    each(width, [&](auto at, int64_t j)
                    HWY_ATTR { at.store(rounded_to_bf16(at.load(from + j)), to + j); });
  } else {
    auto* to = reinterpret_cast<int8_t*>(head + 2 * cache_blocks(width));
    for (int64_t first = 0; first < width; first += kCacheBlock) {
      const int64_t n = std::min(kCacheBlock, width - first);
      const auto largest = std::bit_cast<float>(largest_bits({from + first, 1, n}));
      const uint16_t bits = scale_bits(largest / 127);
      std::memcpy(head + 2 * (first / kCacheBlock), &bits, sizeof(bits));
      const float scale = scale_of(bits);
      const FloatVec by = constant(scale == 0 ? 1 : scale);
      each(n, [&](auto at, int64_t j) HWY_ATTR {
        const FloatVec steps = hn::Div(at.load(from + first + j), by);
        store_steps(at, hn::Min(hn::Max(steps, constant(-127)), constant(127)), to + first + j);
      });
    }
  }
}

void write_cache_rows(CacheType type, int64_t width, MatrixView<const float> rows,
                      std::byte* stored) {
  const int64_t heads = rows.cols / width, bytes = cache_bytes(type, width);
  with_cache_type(type, [&](auto constant_type) HWY_ATTR {
    parallel_rows(rows.rows, rows.cols, [&](int64_t r) HWY_ATTR {
      for (int64_t h = 0; h < heads; ++h)
        write_head<decltype(constant_type)::value>(rows.row(r) + h * width, width,
                                                   stored + (r * heads + h) * bytes);
    });
  });
}

void read_cache_rows(CacheType type, int64_t width, const std::byte* stored,
                     MatrixView<float> rows) {
  const int64_t heads = rows.cols / width, bytes = cache_bytes(type, width);
  with_cache_type(type, [&](auto constant_type) HWY_ATTR {
    parallel_rows(rows.rows, rows.cols, [&](int64_t r) HWY_ATTR {
      for (int64_t h = 0; h < heads; ++h)
        read_head<decltype(constant_type)::value>(stored + (r * heads + h) * bytes, width,
                                                  rows.row(r) + h * width);
    });
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(write_cache_rows);
HWY_EXPORT(read_cache_rows);

void write_cache(CacheType type, int64_t width, MatrixView<const float> rows, std::byte* stored) {
  HWY_DYNAMIC_DISPATCH(write_cache_rows)(type, width, rows, stored);
}
void read_cache(CacheType type, int64_t width, const std::byte* stored, MatrixView<float> rows) {
  HWY_DYNAMIC_DISPATCH(read_cache_rows)(type, width, stored, rows);
}

std::optional<CacheType> cache_type_named(std::string_view name) {
  for (const CacheType type : {CacheType::kFloat32, CacheType::kBf16, CacheType::kQ8_0})
    if (name == name_of(type)) return type;
  return {};
}

const char* name_of(CacheType type) {
  if (type == CacheType::kBf16) return "bf16";
  return type == CacheType::kQ8_0 ? "q8_0" : "f32";
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
