// Reference implementation of cross attention: plain loops, for any number type. It is the
// specification of cross_attention.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "refrain/kernels/ref_math.h"

namespace refrain::kernels {

// One head.
struct CrossHeadRef {
  int64_t queries, keys, d;
  double scale;

  // q [queries, d], k and v [keys, d], o [queries, d], all dense. `weights`, if given, is
  // [queries, keys].
  template <class T>
  void forward(const T* q, const T* k, const T* v, T* o, T* weights = nullptr) const {
    std::vector<T> p(static_cast<size_t>(keys));
    for (int64_t i = 0; i < queries; ++i) {
      T top = -INFINITY;
      for (int64_t j = 0; j < keys; ++j) {
        T dot = 0;
        for (int64_t c = 0; c < d; ++c) dot += q[i * d + c] * k[j * d + c];
        p[static_cast<size_t>(j)] = dot * scale;
        top = higher(top, p[static_cast<size_t>(j)]);
      }
      T sum = 0;
      for (T& s : p) sum += s = std::exp(s - top);
      for (T& s : p) s /= sum;
      for (int64_t c = 0; c < d; ++c) {
        T out = 0;
        for (int64_t j = 0; j < keys; ++j) out += p[static_cast<size_t>(j)] * v[j * d + c];
        o[i * d + c] = out;
      }
      if (weights) std::copy(p.begin(), p.end(), weights + i * keys);
    }
  }
};

}  // namespace refrain::kernels
