// The reference implementation of rope.h, for any number type: the angles themselves, no table.
#pragma once
#include <cmath>
#include <cstdint>

#include "refrain/kernels/elementwise/rope.h"

namespace refrain::kernels {

// One head of width d, in place; inverse by a negative position.
template <class T>
void rope_ref(T* head, int64_t d, double rope_theta, double position, RopePairing pairing) {
  for (int64_t i = 0; i < d / 2; ++i) {
    const double angle =
        position * std::pow(rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
    T& a = head[pairing == RopePairing::kHalf ? i : 2 * i];
    T& b = head[pairing == RopePairing::kHalf ? i + d / 2 : 2 * i + 1];
    const T turned = a * std::cos(angle) - b * std::sin(angle);
    b = a * std::sin(angle) + b * std::cos(angle);
    a = turned;
  }
}

}  // namespace refrain::kernels
