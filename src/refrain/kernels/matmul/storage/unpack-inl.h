// A panel's group of any storage (storage.h) as float32, on one instruction set: what packing of
// products unpacks, block by block. Included once per SIMD target by the kernel files.
#if defined(REFRAIN_KERNELS_UNPACK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_UNPACK_INL_H_
#undef REFRAIN_KERNELS_UNPACK_INL_H_
#else
#define REFRAIN_KERNELS_UNPACK_INL_H_
#endif

#include <cstdint>
#include <cstring>

#include "hwy/highway.h"
#include "refrain/kernels/matmul/storage/halves-inl.h"
#include "refrain/kernels/matmul/storage/storage.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_UNPACK_ONCE
#define REFRAIN_KERNELS_UNPACK_ONCE
namespace refrain::kernels {

// Of a matrix w [N, K]: 32 rows, 32 columns.
struct GroupIndex {
  int64_t panel, group;
};
inline const std::byte* group_at(PackedWeights w, const GroupIndex& at, int64_t K) {
  return w.panels_from(at.panel, K).data + static_cast<size_t>(at.group) * group_bytes(w.type);
}

}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

template <Storage type>
HWY_INLINE void unpack_halves(const std::byte* group, float* to) {
  const int64_t N = float_lanes();
  each_half<type>(group, kWeightGroup,
                  [&](auto half, int64_t k, const std::byte* pairs, auto second) HWY_ATTR {
                    float* row = to + k * kWeightPanel + half * 16;
                    for (int64_t v = 0; v < 16; v += N)
                      hn::StoreU(half_of<type, second>(pairs + v * 4), FloatTag(), row + v);
                  });
}

HWY_INLINE FloatVec scales_at(const std::byte* halves, int64_t row) {
  const hn::Rebind<uint16_t, FloatTag> bits;
  const hn::Rebind<hwy::float16_t, FloatTag> half;
  const auto v = hn::LoadU(bits, reinterpret_cast<const uint16_t*>(halves) + row);
  return hn::PromoteTo(FloatTag(), hn::BitCast(half, v));
}

// Byte `b` of every lane, as a number.
template <int b>
HWY_INLINE FloatVec byte_of(hn::Vec<PairBitsTag> v, uint32_t mask) {
  const PairBitsTag d;
  const hn::RebindToSigned<PairBitsTag> di;
  return hn::ConvertTo(FloatTag(),
                       hn::BitCast(di, hn::And(hn::ShiftRight<8 * b>(v), hn::Set(d, mask))));
}
template <class F>
HWY_INLINE void each_byte(hn::Vec<PairBitsTag> v, uint32_t mask, F&& f) {
  f(0, byte_of<0>(v, mask));
  f(1, byte_of<1>(v, mask));
  f(2, byte_of<2>(v, mask));
  f(3, byte_of<3>(v, mask));
}

HWY_INLINE void unpack_q8_0(const std::byte* group, float* to) {
  const std::byte* bytes = group + 2 * kWeightPanel;
  const FloatVec middle = hn::Set(FloatTag(), 128.0f);
  for (int64_t row = 0; row < kWeightPanel; row += float_lanes()) {
    const FloatVec d = scales_at(group, row);
    for (int64_t j = 0; j < kWeightGroup / 4; ++j) {
      const auto v = hn::LoadU(PairBitsTag(),
                               reinterpret_cast<const uint32_t*>(bytes) + j * kWeightPanel + row);
      each_byte(v, 255, [&](int64_t b, FloatVec q) HWY_ATTR {
        hn::StoreU(hn::Mul(d, hn::Sub(q, middle)), FloatTag(),
                   to + (4 * j + b) * kWeightPanel + row);
      });
    }
  }
}
HWY_INLINE void unpack_q4(const std::byte* group, float* to) {
  const std::byte* bytes = group + 4 * kWeightPanel;
  for (int64_t row = 0; row < kWeightPanel; row += float_lanes()) {
    const FloatVec d = scales_at(group, row), m = scales_at(group + 2 * kWeightPanel, row);
    const auto put = [&](int64_t k, FloatVec q) HWY_ATTR {  // d q is exact
      hn::StoreU(hn::MulAdd(d, q, m), FloatTag(), to + k * kWeightPanel + row);
    };
    for (int64_t j = 0; j < kWeightGroup / 8; ++j) {
      const auto v = hn::LoadU(PairBitsTag(),
                               reinterpret_cast<const uint32_t*>(bytes) + j * kWeightPanel + row);
      each_byte(v, 15, [&](int64_t b, FloatVec q) HWY_ATTR { put(4 * j + b, q); });
      each_byte(hn::ShiftRight<4>(v), 15,
                [&](int64_t b, FloatVec q) HWY_ATTR { put(16 + 4 * j + b, q); });
    }
  }
}

// to [32 columns of w][32 rows], the numbers of unpack() in storage.h; not of float32.
HWY_INLINE void unpack_group(PackedWeights w, const std::byte* group, float* to) {
  switch (w.type) {
    case Storage::kBf16:
      return unpack_halves<Storage::kBf16>(group, to);
    case Storage::kFloat16:
      return unpack_halves<Storage::kFloat16>(group, to);
    case Storage::kQ8_0:
      return unpack_q8_0(group, to);
    case Storage::kQ4:
      return unpack_q4(group, to);
    case Storage::kFloat32:
      break;
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
