// Reading what kv_cache.h stores, on one instruction set: a head's key or value as floats, and the
// transpose of as many keys as a vector has lanes.
#if defined(REFRAIN_KERNELS_KV_CACHE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_KV_CACHE_INL_H_
#undef REFRAIN_KERNELS_KV_CACHE_INL_H_
#else
#define REFRAIN_KERNELS_KV_CACHE_INL_H_
#endif

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "hwy/highway.h"
#include "refrain/kernels/attention/kv_cache.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_KV_CACHE_INL_ONCE
#define REFRAIN_KERNELS_KV_CACHE_INL_ONCE
namespace refrain::kernels {
// Where the values of a head of q8_0 begin, behind the scales.
inline const int8_t* steps_of(const std::byte* head, int64_t width) {
  return reinterpret_cast<const int8_t*>(head + 2 * cache_blocks(width));
}
inline uint16_t load_bits(const std::byte* from) {
  uint16_t bits;
  std::memcpy(&bits, from, sizeof(bits));
  return bits;
}

// Value i of a head.
template <CacheType kType>
float value_at(const std::byte* head, int64_t width, int64_t i) {
  if constexpr (kType == CacheType::kFloat32) {
    return reinterpret_cast<const float*>(head)[i];
  } else if constexpr (kType == CacheType::kBf16) {
    return static_cast<float>(BFloat16{load_bits(head + 2 * i)});
  } else {
    return scale_of(load_bits(head + 2 * (i / kCacheBlock))) *
           static_cast<float>(steps_of(head, width)[i]);
  }
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

template <CacheType kType>
using CacheTypeConstant = std::integral_constant<CacheType, kType>;

// f(CacheTypeConstant) of a type known at run time.
template <class F>
HWY_INLINE void with_cache_type(CacheType type, F&& f) {
  switch (type) {
    case CacheType::kFloat32:
      return f(CacheTypeConstant<CacheType::kFloat32>());
    case CacheType::kBf16:
      return f(CacheTypeConstant<CacheType::kBf16>());
    case CacheType::kQ8_0:
      return f(CacheTypeConstant<CacheType::kQ8_0>());
  }
}

using Int8Tag = hn::Rebind<int8_t, FloatTag>;
using Int32Tag = hn::RebindToSigned<FloatTag>;

HWY_INLINE FloatVec load_steps(Whole, const int8_t* from) {
  return hn::ConvertTo(FloatTag(), hn::PromoteTo(Int32Tag(), hn::LoadU(Int8Tag(), from)));
}
HWY_INLINE FloatVec load_steps(Part at, const int8_t* from) {
  HWY_ALIGN int8_t lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy_n(from, at.count, lanes);
  return load_steps(Whole(), lanes);
}

// to [width] = a head.
template <CacheType kType>
HWY_INLINE void read_head(const std::byte* head, int64_t width, float* to) {
  if constexpr (kType == CacheType::kFloat32) {
    const auto* from = reinterpret_cast<const float*>(head);
    each(width, [&](auto at, int64_t j) HWY_ATTR { at.store(at.load(from + j), to + j); });
  } else if constexpr (kType == CacheType::kBf16) {
    const auto* from = reinterpret_cast<const BFloat16*>(head);
    each(width, [&](auto at, int64_t j) HWY_ATTR { at.store(at.load(from + j), to + j); });
  } else {
    const int8_t* from = steps_of(head, width);
    for (int64_t first = 0; first < width; first += kCacheBlock) {
      const FloatVec scale = constant(scale_of(load_bits(head + 2 * (first / kCacheBlock))));
      each(std::min(kCacheBlock, width - first), [&](auto at, int64_t j) HWY_ATTR {
        at.store(hn::Mul(load_steps(at, from + first + j), scale), to + first + j);
      });
    }
  }
}

#if HWY_TARGET != HWY_SCALAR

// A vector of blocks of 128 bits, which lie `step` bytes apart.
template <class D>
HWY_INLINE hn::Vec<D> load_blocks(D d, const std::byte* from, int64_t step) {
  if constexpr (hn::MaxLanes(D()) * sizeof(float) == 16) {
    const hn::Repartition<uint8_t, D> bytes;
    return hn::BitCast(d, hn::LoadU(bytes, reinterpret_cast<const uint8_t*>(from)));
  } else {
    const hn::Half<D> half;
    constexpr int64_t kBlocks = static_cast<int64_t>(hn::MaxLanes(hn::Half<D>()) / 4);
    return hn::Combine(d, load_blocks(half, from + kBlocks * step, step),
                       load_blocks(half, from, step));
  }
}

// Word c of four, of rows `step` bytes apart, a lane for each row.
struct FourWords {
  FloatVec of[4];
};
HWY_INLINE FourWords transposed_words(const std::byte* from, int64_t step) {
  const FloatTag d;
  const hn::Repartition<double, FloatTag> d2;
  const auto x0 = load_blocks(d, from, 4 * step), x1 = load_blocks(d, from + step, 4 * step);
  const auto x2 = load_blocks(d, from + 2 * step, 4 * step);
  const auto x3 = load_blocks(d, from + 3 * step, 4 * step);
  const auto y0 = hn::BitCast(d2, hn::InterleaveLower(d, x0, x1));
  const auto y1 = hn::BitCast(d2, hn::InterleaveLower(d, x2, x3));
  const auto y2 = hn::BitCast(d2, hn::InterleaveUpper(d, x0, x1));
  const auto y3 = hn::BitCast(d2, hn::InterleaveUpper(d, x2, x3));
  return {{hn::BitCast(d, hn::InterleaveLower(d2, y0, y1)),
           hn::BitCast(d, hn::InterleaveUpper(d2, y0, y1)),
           hn::BitCast(d, hn::InterleaveLower(d2, y2, y3)),
           hn::BitCast(d, hn::InterleaveUpper(d2, y2, y3))}};
}

// scale_of() of the bits at `from`, of rows `step` bytes apart.
HWY_INLINE FloatVec scales_of_rows(const std::byte* from, int64_t step) {
  const FloatTag d;
  const Int32Tag di;
  const hn::Rebind<uint16_t, FloatTag> d16;
  HWY_ALIGN uint16_t bits[HWY_MAX_BYTES / sizeof(float)];
  for (int64_t r = 0; r < float_lanes(); ++r) bits[r] = load_bits(from + r * step);
  const auto h = hn::PromoteTo(di, hn::Load(d16, bits));
  const auto normal = hn::Add(hn::ShiftLeft<13>(h), hn::Set(di, (127 - 15) << 23));
  const FloatVec small = hn::Mul(hn::ConvertTo(d, h), constant(0x1p-24f));
  const FloatVec nan = hn::BitCast(d, hn::Set(di, 0x7fc00000));
  const auto is_small = hn::RebindMask(d, hn::Lt(h, hn::Set(di, 0x400)));
  const auto is_nan = hn::RebindMask(d, hn::Gt(h, hn::Set(di, 0x7bff)));
  return hn::IfThenElse(is_nan, nan, hn::IfThenElse(is_small, small, hn::BitCast(d, normal)));
}

// Values of a type in a block of 128 bits.
template <CacheType kType>
inline constexpr int kOfBlock = kType == CacheType::kFloat32 ? 4
                                : kType == CacheType::kBf16  ? 8
                                                             : 16;

// Values c, c + 1, ... of heads of as many rows as a vector has lanes, a block of them.
template <CacheType kType>
struct Columns {
  FloatVec of[kOfBlock<kType>];
};
// `scale`: of the rows' blocks, for q8_0.
template <CacheType kType>
HWY_INLINE Columns<kType> transposed_columns(const std::byte* heads, int64_t step, int64_t width,
                                             int64_t c, [[maybe_unused]] FloatVec scale) {
  [[maybe_unused]] const FloatTag d;
  [[maybe_unused]] const Int32Tag di;
  Columns<kType> columns;
  if constexpr (kType == CacheType::kFloat32) {
    const FourWords words = transposed_words(heads + 4 * c, step);
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) columns.of[w] = words.of[w];
  } else if constexpr (kType == CacheType::kBf16) {
    const FourWords words = transposed_words(heads + 2 * c, step);
    const auto upper = hn::Set(di, static_cast<int32_t>(0xffff0000));
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) {
      const auto pair = hn::BitCast(di, words.of[w]);
      columns.of[2 * w] = hn::BitCast(d, hn::ShiftLeft<16>(pair));
      columns.of[2 * w + 1] = hn::BitCast(d, hn::And(pair, upper));
    }
  } else {
    const FourWords words = transposed_words(heads + 2 * cache_blocks(width) + c, step);
    const auto value = [&](auto shifted) HWY_ATTR {
      return hn::Mul(hn::ConvertTo(d, hn::ShiftRight<24>(shifted)), scale);
    };
#pragma GCC unroll 4
    for (int w = 0; w < 4; ++w) {
      const auto steps = hn::BitCast(di, words.of[w]);
      columns.of[4 * w] = value(hn::ShiftLeft<24>(steps));
      columns.of[4 * w + 1] = value(hn::ShiftLeft<16>(steps));
      columns.of[4 * w + 2] = value(hn::ShiftLeft<8>(steps));
      columns.of[4 * w + 3] = value(steps);
    }
  }
  return columns;
}

// The scales of value c of those rows, if it is the first of a block of q8_0; else those before.
template <CacheType kType>
HWY_INLINE FloatVec scales_at(const std::byte* heads, int64_t step, int64_t c, FloatVec before) {
  if constexpr (kType == CacheType::kQ8_0)
    if (c % kCacheBlock == 0) return scales_of_rows(heads + 2 * (c / kCacheBlock), step);
  return before;
}

// Value c of those rows, one by one.
template <CacheType kType>
HWY_INLINE FloatVec column_at(const std::byte* heads, int64_t step, int64_t width, int64_t c) {
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
  for (int64_t r = 0; r < float_lanes(); ++r)
    lanes[r] = value_at<kType>(heads + r * step, width, c);
  return hn::Load(FloatTag(), lanes);
}

// The transpose of heads of those rows: to[c * to_row + r] is value c of row r.
template <CacheType kType>
HWY_INLINE void transpose_heads(const std::byte* heads, int64_t step, int64_t width, float* to,
                                int64_t to_row) {
  const FloatTag d;
  FloatVec scale = hn::Zero(d);
  int64_t c = 0;
  for (; c + kOfBlock<kType> <= width; c += kOfBlock<kType>) {
    scale = scales_at<kType>(heads, step, c, scale);
    const auto columns = transposed_columns<kType>(heads, step, width, c, scale);
#pragma GCC unroll 16
    for (int j = 0; j < kOfBlock<kType>; ++j) hn::StoreU(columns.of[j], d, to + (c + j) * to_row);
  }
  for (; c < width; ++c) hn::StoreU(column_at<kType>(heads, step, width, c), d, to + c * to_row);
}

// to = n bytes, of which some may be written twice.
HWY_INLINE void copy_bytes(const std::byte* from, int64_t n, std::byte* to) {
  const hn::Repartition<uint8_t, FloatTag> d;
  const auto bytes = static_cast<int64_t>(hn::Lanes(d));
  if (n < bytes) {
    std::memcpy(to, from, static_cast<size_t>(n));
    return;
  }
  const auto copy = [&](int64_t j) HWY_ATTR {
    hn::StoreU(hn::LoadU(d, reinterpret_cast<const uint8_t*>(from + j)), d,
               reinterpret_cast<uint8_t*>(to + j));
  };
  for (int64_t j = 0; j + bytes <= n; j += bytes) copy(j);
  if (n % bytes != 0) copy(n - bytes);
}

#endif  // HWY_TARGET != HWY_SCALAR

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
