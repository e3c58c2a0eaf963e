// The reference implementation of rope.h, for any number type: the angles themselves, no table.
#pragma once
#include <cmath>
#include <cstdint>
#include <numbers>

#include "refrain/kernels/elementwise/rope.h"

namespace refrain::kernels {

// The frequency f of a pair, scaled.
inline double rope_scaled_ref(double f, const RopeScaling& scaling) {
  if (scaling.kind == RopeScaling::Kind::kNone) return f;
  if (scaling.kind == RopeScaling::Kind::kLinear) return f / scaling.factor;
  const double wavelength = 2 * std::numbers::pi / f, L = scaling.original_context;
  const double low = scaling.low_freq_factor, high = scaling.high_freq_factor;
  if (wavelength > L / low) return f / scaling.factor;
  if (wavelength < L / high) return f;
  const double s = (L / wavelength - low) / (high - low);
  return f * ((1 - s) / scaling.factor + s);
}

// One head of width d, in place; inverse by a negative position.
template <class T>
void rope_ref(T* head, int64_t d, double rope_theta, double position, RopePairing pairing,
              const RopeScaling& scaling = {}) {
  for (int64_t i = 0; i < d / 2; ++i) {
    const double f = std::pow(rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
    const double angle = position * rope_scaled_ref(f, scaling);
    T& a = head[pairing == RopePairing::kHalf ? i : 2 * i];
    T& b = head[pairing == RopePairing::kHalf ? i + d / 2 : 2 * i + 1];
    const T turned = a * std::cos(angle) - b * std::sin(angle);
    b = a * std::sin(angle) + b * std::cos(angle);
    a = turned;
  }
}

}  // namespace refrain::kernels
