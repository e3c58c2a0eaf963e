#include "refrain/kernels/dropout.h"

#include <cmath>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/base/random.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/dropout.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Bits are compared as integers: to_unit(bits) >= p is bits >> 8 >= threshold.
#if HWY_TARGET == HWY_SCALAR

void drop_row(float* x, int64_t n, int32_t threshold, float scale, uint64_t key, uint64_t row) {
  for (int64_t j = 0; j < n; j += 4) {
    const auto words = philox({static_cast<uint32_t>(row), static_cast<uint32_t>(row >> 32),
                               static_cast<uint32_t>(j / 4), 0},
                              key);
    for (int64_t k = 0; k < 4 && j + k < n; ++k)
      x[j + k] = static_cast<int32_t>(words[static_cast<size_t>(k)] >> 8) >= threshold
                     ? x[j + k] * scale
                     : 0;
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

template <class At>
HWY_INLINE void drop(At at, Words words, int32_t threshold, float scale, float* x) {
  const hn::RebindToUnsigned<FloatTag> du;
  const hn::RebindToSigned<FloatTag> di;
  const auto number = hn::BitCast(di, hn::ShiftRight<8>(hn::BitCast(du, words)));
  const auto keep = hn::RebindMask(FloatTag(), hn::Gt(number, hn::Set(di, threshold - 1)));
  const auto kept = hn::Mul(at.load(x), hn::Set(FloatTag(), scale));
  at.store(hn::IfThenElseZero(keep, kept), x);
}

void drop_row(float* x, int64_t n, int32_t threshold, float scale, uint64_t key, uint64_t row) {
  const WordTag d;
  const int64_t N = float_lanes(), counters = N / 2;
  // Interleaving 128-bit blocks at the end sends even lanes to the first vector and odd lanes to
  // the second, so that is where their counters lie.
  HWY_ALIGN uint64_t order[HWY_MAX_BYTES / sizeof(uint64_t)];
  for (int64_t i = 0; i < counters; ++i)
    order[i] = static_cast<uint64_t>(i % 2 * (counters / 2) + i / 2);
  auto next = hn::Load(d, order);
  const auto row_low = hn::Set(d, row), row_high = hn::Set(d, row >> 32);
  for (int64_t j = 0; j < n; j += 2 * N) {
    const Counters c = philox_lanes({row_low, row_high, next, hn::Zero(d)}, key);
    next = hn::Add(next, hn::Set(d, static_cast<uint64_t>(counters)));
    const auto first = join_halves(c.c0, c.c1), second = join_halves(c.c2, c.c3);
    const auto low = hn::InterleaveLower(d, first, second);
    const auto high = hn::InterleaveUpper(d, first, second);
    if (j + 2 * N <= n) {
      drop(Whole(), low, threshold, scale, x + j);
      drop(Whole(), high, threshold, scale, x + j + N);
    } else {
      drop(Part{std::min(N, n - j)}, low, threshold, scale, x + j);
      if (n - j > N) drop(Part{n - j - N}, high, threshold, scale, x + j + N);
    }
  }
}

#endif

void dropout_apply(Tensor x, float p, uint64_t key, std::span<const uint64_t> row_ids) {
  const auto threshold = static_cast<int32_t>(std::ceil(double{p} * 0x1p24));
  const auto scale = static_cast<float>(1 / (1 - double{p}));
  parallel_rows(x.rows(), x.cols(), [&](int64_t row) {
    drop_row(x.row(row), x.cols(), threshold, scale, key, row_ids[static_cast<size_t>(row)]);
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(dropout_apply);

void dropout_apply(Tensor x, float p, uint64_t key, std::span<const uint64_t> row_ids) {
  REFRAIN_CHECK(p >= 0 && p < 1);
  REFRAIN_CHECK(static_cast<int64_t>(row_ids.size()) == x.rows());
  if (p > 0) HWY_DYNAMIC_DISPATCH(dropout_apply)(x, p, key, row_ids);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
