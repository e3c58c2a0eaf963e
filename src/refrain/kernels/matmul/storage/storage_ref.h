// Blocks of 32 numbers of a row, quantised: scalar, and what kernels are compared with.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "refrain/base/float16.h"
#include "refrain/kernels/matmul/storage/blocks.h"
#include "refrain/kernels/matmul/storage/storage.h"

namespace refrain::kernels {

using BlockOfFloats = std::span<const float, kWeightGroup>;

// The largest absolute value of a block; 0 of one that is too small to divide by, NaN of one with a
// number that is not finite.
inline float size_of(BlockOfFloats x) {
  constexpr float kTooSmall = 0x1p-100f;
  float largest = 0, bad = 0;
  for (const float v : x) {
    largest = std::max(largest, std::abs(v));
    bad += v * 0;  // NaN of what is not finite
  }
  return bad == 0 ? largest < kTooSmall ? 0 : largest : bad;
}

// x ~ d q, q in -127 .. 127. As GGML's q8_0: the scale is rounded when it is stored, after numbers
// were divided by it.
inline Q8Block quantise_q8_0(BlockOfFloats x) {
  const float d = size_of(x) / 127, inverse = d > 0 ? 1 / d : 0;
  Q8Block block{Float16::of(d), {}};
  for (size_t i = 0; i < x.size() && d > 0; ++i)
    block.q[i] = static_cast<int8_t>(std::clamp(std::round(x[i] * inverse), -127.0f, 127.0f));
  return block;
}

// The nearest q for a scale and a minimum as they are stored, and the squared error.
inline float fit_q4(BlockOfFloats x, Q4Block& block) {
  const float d = static_cast<float>(block.d), m = static_cast<float>(block.m);
  const float inverse = d > 0 ? 1 / d : 0;
  float error = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const float q = std::clamp(std::round((x[i] - m) * inverse), 0.0f, 15.0f);
    block.q[i] = static_cast<uint8_t>(q);
    const float e = x[i] - (d * q + m);
    error += e * e;
  }
  return error;
}

// From the range of the block, and from narrower ones: the largest number of a block is often
// alone. Of each range the line d q + m that is nearest to the numbers in the least squares' sense
// is tried as well; the best is taken.
inline Q4Block quantise_q4(BlockOfFloats x) {
  const auto [low, high] = std::minmax_element(x.begin(), x.end());
  Q4Block best{Float16::of(0), Float16::of(size_of(x)), {}};
  if (!(size_of(x) > 0)) return best;
  float least = std::numeric_limits<float>::infinity();
  const auto consider = [&](float d, float m) {
    Q4Block block{Float16::of(d), Float16::of(m), {}};
    const float error = fit_q4(x, block);
    if (error < least) {
      least = error;
      best = block;
    }
    return block;
  };
  constexpr float kShares[] = {1, 0.95f, 0.9f, 0.85f, 0.8f};
  for (const float share : kShares) {
    const float width = *high - *low, m = *low + (1 - share) / 2 * width;
    const Q4Block block = consider(share * width / 15, m);
    double n = x.size(), q1 = 0, q2 = 0, v1 = 0, qv = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double q = block.q[i], v = x[i];
      q1 += q, q2 += q * q, v1 += v, qv += q * v;
    }
    const double determinant = n * q2 - q1 * q1;
    if (determinant > 0) {
      const double d = (n * qv - q1 * v1) / determinant;
      consider(static_cast<float>(d), static_cast<float>((v1 - d * q1) / n));
    }
  }
  return best;
}

// A row of x as the products with quantised weights read it: s q by blocks, q in -127 .. 127, ties
// to even. A block with a number that is not finite has a scale of NaN.
struct ActivationBlock {
  float s;
  std::array<int8_t, kWeightGroup> q;
};
inline ActivationBlock quantise_activations(BlockOfFloats x) {
  const float largest = size_of(x), inverse = largest > 0 ? 127 / largest : 0;
  ActivationBlock block{largest / 127, {}};
  for (size_t i = 0; i < x.size() && largest > 0; ++i)
    block.q[i] = static_cast<int8_t>(std::clamp(std::nearbyint(x[i] * inverse), -127.0f, 127.0f));
  return block;
}

// y[n] = (y[n] +) x wᵀ of one row x [K], w [N, K] of type q8_0 or q4.
inline void quantised_product_ref(PackedWeights w, int64_t N, std::span<const float> x, float* y,
                                  bool add) {
  const auto K = static_cast<int64_t>(x.size());
  for (int64_t n = 0; n < N; ++n) {
    const std::byte* group = w.panels_from(n / kWeightPanel, K).data;
    const size_t row = static_cast<size_t>(n % kWeightPanel);
    float sum = 0;
    for (int64_t k = 0; k < K; k += kWeightGroup, group += group_bytes(w.type)) {
      std::array<float, kWeightGroup> part{};
      std::copy_n(x.data() + k, std::min(kWeightGroup, K - k), part.data());
      const ActivationBlock block = quantise_activations(part);
      const auto* scales = reinterpret_cast<const uint16_t*>(group);
      const auto d = static_cast<float>(Float16{scales[row]});
      int32_t dot = 0, all = 0;
      if (w.type == Storage::kQ8_0) {
        const auto* q = reinterpret_cast<const uint8_t*>(group + 2 * kWeightPanel);
        for (size_t i = 0; i < kWeightGroup; ++i)
          dot += (q[i / 4 * 4 * kWeightPanel + row * 4 + i % 4] - 128) * block.q[i];
        sum = std::fma(static_cast<float>(dot), d * block.s, sum);
      } else {
        const auto* q = reinterpret_cast<const uint8_t*>(group + 4 * kWeightPanel);
        for (size_t i = 0; i < kWeightGroup; ++i) {
          const uint8_t both = q[i % 16 / 4 * 4 * kWeightPanel + row * 4 + i % 4];
          dot += (i < 16 ? both & 15 : both >> 4) * block.q[i];
          all += block.q[i];
        }
        sum = std::fma(static_cast<float>(dot), d * block.s, sum);
        sum = std::fma(static_cast<float>(Float16{scales[kWeightPanel + row]}),
                       block.s * static_cast<float>(all), sum);
      }
    }
    y[n] = add ? y[n] + sum : sum;
  }
}

}  // namespace refrain::kernels
