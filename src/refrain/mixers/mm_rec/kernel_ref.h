// The reference implementation of kernel.h: one sequence, step by step, for double and
// std::complex<double>.
#pragma once
#include <vector>

#include "refrain/kernels/elementwise/activation_ref.h"
#include "refrain/mixers/mm_rec/kernel.h"

namespace refrain::kernels {

template <class T>
T mm_rec_decay_ref(double mu, T s1, T s2) {
  const T product = sigmoid_ref(s1) * sigmoid_ref(s2);
  const double least = static_cast<double>(kMmRecLeastDecay), most = (1 - mu) / (1 + mu);
  if (real_part(product) < least) return least;
  if (real_part(product) > most) return most;
  return product;
}

template <class T>
struct MmRecCellRef {
  int64_t D;
  double mu;
  const T* b;  // [2D]
  const T* w;  // [2D, D], or null (linear)
};

template <class T>
struct MmRecRowsRef {
  const T *z, *decay;  // [tokens, D]
  const T* gates;      // [tokens, 2D]: a_r, and for linear a_p
  T* h;                // [tokens, D], written
};

// state [D]: the h before, then the last.
template <class T>
void mm_rec_ref(const MmRecCellRef<T>& cell, int64_t tokens, const MmRecRowsRef<T>& rows,
                T* state) {
  const auto& [D, mu, b, w] = cell;
  const auto& [z, decay, a, h] = rows;
  for (int64_t t = 0; t < tokens; ++t) {
    std::vector<T> gate(static_cast<size_t>(2 * D));
    for (int64_t i = 0; i < 2 * D; ++i) {
      T sum = b[i];
      if (!w || i < D) sum += a[t * 2 * D + i];
      for (int64_t j = 0; w && j < D; ++j) sum += w[i * D + j] * state[j];
      gate[static_cast<size_t>(i)] = sigmoid_ref(sum);
    }
    for (int64_t j = 0; j < D; ++j) {
      const T r = gate[static_cast<size_t>(j)], p = gate[static_cast<size_t>(D + j)];
      const T in = z[t * D + j], g = decay[t * D + j], past = state[j];
      const T n = (1.0 - r) * past + r * in + g * past;
      state[j] = h[t * D + j] = in * p + g * past + mu * n;
    }
  }
}

}  // namespace refrain::kernels
