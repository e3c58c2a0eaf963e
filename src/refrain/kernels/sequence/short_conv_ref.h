// The reference implementation of short_conv.h, for double and std::complex<double>. Its complex
// step is the gradient.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "refrain/kernels/elementwise/activation_ref.h"

namespace refrain::kernels {

// One sequence.
struct ShortConvRef {
  int64_t channels, taps, rows;
  ActivationPrecision precision = ActivationPrecision::kAccurate;

  // w [channels, taps]; p, y [rows, channels]; past [taps - 1, channels]: initial, then final.
  template <class T>
  void forward(const T* w, const T* p, T* past, T* y) const {
    const int64_t before = (taps - 1) * channels;
    std::vector<T> all(past, past + before);
    all.insert(all.end(), p, p + rows * channels);
    for (int64_t t = 0; t < rows; ++t)
      for (int64_t c = 0; c < channels; ++c) {
        T z = 0;
        for (int64_t i = 0; i < taps; ++i)
          z += w[c * taps + i] * all[static_cast<size_t>(before + (t - i) * channels + c)];
        y[t * channels + c] = activation_ref(Activation::kSilu, z, precision);
      }
    std::copy_n(all.end() - before, before, past);
  }
};

}  // namespace refrain::kernels
