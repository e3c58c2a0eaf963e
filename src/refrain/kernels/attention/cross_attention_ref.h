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
  int64_t window = 0, stride = 0, first = 0;

  // Whether query i, at position first + i, sees key j.
  bool sees(int64_t i, int64_t j) const {
    const int64_t t = first + i < keys ? first + i : keys - 1;
    if (window == 0) return true;
    if (stride > 0 && (j + 1) % stride == 0) return true;
    return j >= t - window / 2 && j < t - window / 2 + window;
  }

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
        if (sees(i, j)) top = higher(top, p[static_cast<size_t>(j)]);
      }
      T sum = 0;
      for (int64_t j = 0; j < keys; ++j) {
        T& s = p[static_cast<size_t>(j)];
        sum += s = sees(i, j) ? std::exp(s - top) : T(0);
      }
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
