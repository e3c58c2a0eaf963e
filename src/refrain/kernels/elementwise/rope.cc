#include "refrain/kernels/elementwise/rope.h"

#include <cmath>
#include <numbers>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/elementwise/rope.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/simd-inl.h"

#ifndef REFRAIN_KERNELS_ROPE_ONCE
#define REFRAIN_KERNELS_ROPE_ONCE
namespace refrain::kernels {
constexpr int64_t kMaxPairs = 2048;  // of a head

// Of one position; in double, rounded once.
inline void angles(std::span<const double> frequencies, int64_t m, float* cos, float* sin) {
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double angle = static_cast<double>(m) * frequencies[i];
    cos[i] = static_cast<float>(std::cos(angle));
    sin[i] = static_cast<float>(std::sin(angle));
  }
}
}  // namespace refrain::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

HWY_INLINE void load_pairs(Whole, const float* from, FloatVec& a, FloatVec& b) {
  hn::LoadInterleaved2(FloatTag(), from, a, b);
}
HWY_INLINE void load_pairs(Part at, const float* from, FloatVec& a, FloatVec& b) {
  float pairs[2 * HWY_MAX_BYTES / sizeof(float)] = {};
  std::copy_n(from, 2 * at.count, pairs);
  load_pairs(Whole(), pairs, a, b);
}
HWY_INLINE void store_pairs(Whole, FloatVec a, FloatVec b, float* to) {
  hn::StoreInterleaved2(a, b, FloatTag(), to);
}
HWY_INLINE void store_pairs(Part at, FloatVec a, FloatVec b, float* to) {
  float pairs[2 * HWY_MAX_BYTES / sizeof(float)];
  store_pairs(Whole(), a, b, pairs);
  std::copy_n(pairs, 2 * at.count, to);
}

template <RopePairing kPairing>
HWY_INLINE void rotate_row(float* x, int64_t heads, int64_t head_dim, const float* cos,
                           const float* sin, float direction) {
  const int64_t half = head_dim / 2;
  each(half, [&](auto at, int64_t i) HWY_ATTR {
    const auto c = at.load(cos + i);
    const auto s = hn::Mul(at.load(sin + i), hn::Set(FloatTag(), direction));
    for (int64_t h = 0; h < heads; ++h) {
      float* head = x + h * head_dim;
      FloatVec a, b;
      if constexpr (kPairing == RopePairing::kHalf) {
        a = at.load(head + i);
        b = at.load(head + half + i);
      } else {
        load_pairs(at, head + 2 * i, a, b);
      }
      const auto turned_a = hn::NegMulAdd(b, s, hn::Mul(a, c));
      const auto turned_b = hn::MulAdd(a, s, hn::Mul(b, c));
      if constexpr (kPairing == RopePairing::kHalf) {
        at.store(turned_a, head + i);
        at.store(turned_b, head + half + i);
      } else {
        store_pairs(at, turned_a, turned_b, head + 2 * i);
      }
    }
  });
}

void rope_apply(MatrixView<float> x, std::span<const int32_t> positions, const RopeTable& table,
                RopePairing pairing, bool inverse) {
  const float direction = inverse ? -1.0f : 1.0f;
  const int64_t head_dim = 2 * table.cos.cols(), heads = x.cols / head_dim;
  parallel_rows(x.rows, x.cols, [&](int64_t row) HWY_ATTR {
    const int64_t m = positions[static_cast<size_t>(row)];
    float* at = x.row(row);
    float late_cos[kMaxPairs], late_sin[kMaxPairs];
    const float *cos = late_cos, *sin = late_sin;
    if (m < table.cos.rows()) {
      cos = table.cos.row(m);
      sin = table.sin.row(m);
    } else {
      angles(table.frequencies, m, late_cos, late_sin);
    }
    if (pairing == RopePairing::kHalf)
      rotate_row<RopePairing::kHalf>(at, heads, head_dim, cos, sin, direction);
    else
      rotate_row<RopePairing::kAdjacent>(at, heads, head_dim, cos, sin, direction);
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(rope_apply);

std::vector<double> rope_frequencies(double rope_theta, int64_t head_dim,
                                     const RopeScaling& scaling) {
  using Kind = RopeScaling::Kind;
  const int64_t pairs = head_dim / 2;
  std::vector<double> frequencies(static_cast<size_t>(pairs));
  for (int64_t i = 0; i < pairs; ++i) {
    double& f = frequencies[static_cast<size_t>(i)];
    f = std::pow(rope_theta, -static_cast<double>(i) / static_cast<double>(pairs));
    if (scaling.kind == Kind::kNone) continue;
    double share = 0;  // of the frequency as it is
    if (scaling.kind == Kind::kLlama3) {
      const double turns = scaling.original_context * f / (2 * std::numbers::pi);
      const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
      share = turns < low ? 0 : turns > high ? 1 : (turns - low) / (high - low);
    }
    f = share == 1 ? f : share * f + (1 - share) * f / scaling.factor;
  }
  return frequencies;
}

void rope_table(std::span<const double> frequencies, Tensor cos, Tensor sin) {
  REFRAIN_CHECK(cos.rows() == sin.rows() && cos.cols() == sin.cols());
  REFRAIN_CHECK(std::ssize(frequencies) == cos.cols());
  parallel_ranges(cos.rows(), 64, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) angles(frequencies, m, cos.row(m), sin.row(m));
  });
}

void rope_apply(MatrixView<float> x, std::span<const int32_t> positions, const RopeTable& table,
                RopePairing pairing, bool inverse) {
  const int64_t pairs = table.cos.cols();
  REFRAIN_CHECK(x.rows == static_cast<int64_t>(positions.size()) && x.cols % (2 * pairs) == 0);
  REFRAIN_CHECK(table.sin.cols() == pairs && pairs <= kMaxPairs);
  REFRAIN_CHECK(std::ssize(table.frequencies) == pairs);
  REFRAIN_CHECK(table.cos.rows() == table.sin.rows());
  for (int32_t m : positions) REFRAIN_CHECK(m >= 0);
  HWY_DYNAMIC_DISPATCH(rope_apply)(x, positions, table, pairing, inverse);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
