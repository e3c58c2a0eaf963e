// Which columns of a row dropout keeps (dropout.h), on one instruction set. Included once per SIMD
// target by the kernel files.
#if defined(REFRAIN_KERNELS_DROPOUT_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef REFRAIN_KERNELS_DROPOUT_INL_H_
#undef REFRAIN_KERNELS_DROPOUT_INL_H_
#else
#define REFRAIN_KERNELS_DROPOUT_INL_H_
#endif

#include <cmath>

#include "hwy/highway.h"
#include "refrain/base/random.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_DROPOUT_INL_ONCE
#define REFRAIN_KERNELS_DROPOUT_INL_ONCE
namespace refrain::kernels {
// Columns that philox draws at a time on the widest target.
inline constexpr int64_t kMaxDrawn = 32;

// A rate in the form that random bits are compared with as integers: to_unit(bits) >= rate is
// bits >> 8 >= threshold.
struct DropoutRate {
  explicit DropoutRate(float rate)
      : threshold(static_cast<int32_t>(std::ceil(double{rate} * 0x1p24))),
        scale(static_cast<float>(1 / (1 - double{rate}))) {}
  int32_t threshold;
  float scale;  // of what is kept
};

// The part of a mask that is the same for all columns of a row: the key and some words of the
// counters.
struct DropoutRow {
  uint64_t key, row;
  uint32_t last = 0;
};
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

using KeptMask = hn::Mask<FloatTag>;

HWY_INLINE KeptMask kept_lanes(hn::Vec<hn::RebindToUnsigned<FloatTag>> bits, int32_t threshold) {
  const hn::RebindToSigned<FloatTag> di;
  const auto number = hn::BitCast(di, hn::ShiftRight<8>(bits));
  return hn::RebindMask(FloatTag(), hn::Gt(number, hn::Set(di, threshold - 1)));
}

#if HWY_TARGET == HWY_SCALAR

// f(keep, j) for the vectors of columns j, j + lanes, ... that cover [first, end) of the row, and
// up to drawn_columns() more. `first` is a multiple of those.
inline int64_t drawn_columns() { return 4; }
template <class F>
HWY_INLINE void each_drawn(DropoutRow row, int64_t first, int64_t end, int32_t threshold, F&& f) {
  for (int64_t j = first; j < end; j += 4) {
    const auto words = philox({static_cast<uint32_t>(row.row), static_cast<uint32_t>(row.row >> 32),
                               static_cast<uint32_t>(j / 4), row.last},
                              row.key);
    for (int64_t k = 0; k < 4; ++k)
      f(kept_lanes(hn::Set(hn::RebindToUnsigned<FloatTag>(), words[static_cast<size_t>(k)]),
                   threshold),
        j + k);
  }
}

#else

using WordTag = hn::ScalableTag<uint64_t>;
using Words = hn::Vec<WordTag>;

// The product of the low halves of 64-bit lanes.
HWY_INLINE Words multiply_low_halves(Words a, Words b) {
  const hn::Repartition<uint32_t, WordTag> d;
  return hn::MulEven(hn::BitCast(d, a), hn::BitCast(d, b));
}

// philox() for as many counters as there are 64-bit lanes. Numbers of 32 bits stand in the low
// halves; what the high halves hold is never read.
struct Counters {
  Words c0, c1, c2, c3;
};
HWY_INLINE Counters philox_lanes(Counters c, uint64_t key) {
  const WordTag d;
  const auto m0 = hn::Set(d, uint64_t{0xD2511F53u}), m1 = hn::Set(d, uint64_t{0xCD9E8D57u});
  auto k0 = hn::Set(d, key), k1 = hn::Set(d, key >> 32);
  const auto step0 = hn::Set(d, uint64_t{0x9E3779B9u}), step1 = hn::Set(d, uint64_t{0xBB67AE85u});
  for (int round = 0; round < 10; ++round) {
    const auto p0 = multiply_low_halves(c.c0, m0), p1 = multiply_low_halves(c.c2, m1);
    c = {hn::Xor(hn::Xor(hn::ShiftRight<32>(p1), c.c1), k0), p1,
         hn::Xor(hn::Xor(hn::ShiftRight<32>(p0), c.c3), k1), p0};
    k0 = hn::Add(k0, step0);
    k1 = hn::Add(k1, step1);
  }
  return c;
}

// low halves of a and b as [a, b] in each 64-bit lane
HWY_INLINE Words join_halves(Words a, Words b) {
  const hn::Repartition<uint32_t, WordTag> d;
  return hn::BitCast(WordTag(),
                     hn::OddEven(hn::BitCast(d, hn::ShiftLeft<32>(b)), hn::BitCast(d, a)));
}

// f(keep, j) for the vectors of columns j, j + lanes, ... that cover [first, end) of the row, and
// up to drawn_columns() more. `first` is a multiple of those.
inline int64_t drawn_columns() { return 2 * float_lanes(); }
template <class F>
HWY_INLINE void each_drawn(DropoutRow row, int64_t first, int64_t end, int32_t threshold, F&& f) {
  const WordTag d;
  const hn::RebindToUnsigned<FloatTag> du;
  const int64_t N = float_lanes(), counters = N / 2;
  // Interleaving 128-bit blocks at the end sends even lanes to the first vector and odd lanes to
  // the second, so that is where their counters lie.
  HWY_ALIGN uint64_t order[HWY_MAX_BYTES / sizeof(uint64_t)];
  for (int64_t i = 0; i < counters; ++i)
    order[i] = static_cast<uint64_t>(first / 4 + i % 2 * (counters / 2) + i / 2);
  auto next = hn::Load(d, order);
  const auto low = hn::Set(d, row.row), high = hn::Set(d, row.row >> 32);
  const auto last = hn::Set(d, uint64_t{row.last});
  for (int64_t j = first; j < end; j += 2 * N) {
    const Counters c = philox_lanes({low, high, next, last}, row.key);
    next = hn::Add(next, hn::Set(d, static_cast<uint64_t>(counters)));
    const auto even = join_halves(c.c0, c.c1), odd = join_halves(c.c2, c.c3);
    f(kept_lanes(hn::BitCast(du, hn::InterleaveLower(d, even, odd)), threshold), j);
    f(kept_lanes(hn::BitCast(du, hn::InterleaveUpper(d, even, odd)), threshold), j + N);
  }
}

#endif

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();
#endif  // include guard, once per target
