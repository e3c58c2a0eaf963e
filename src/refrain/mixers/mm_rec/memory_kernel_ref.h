// The reference implementation of memory_kernel.h: one query and one head over slots, for double
// and std::complex<double>.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include "refrain/kernels/ref_math.h"

namespace refrain::kernels {

// q, o [d]; k[i], v[i]: those of the i-th slot.
template <class T>
void memory_attention_ref(int64_t d, double scale, const T* q, const std::vector<const T*>& k,
                          const std::vector<const T*>& v, T* o) {
  std::vector<T> p;
  T top = -INFINITY;
  for (const T* key : k) {
    T dot = 0;
    for (int64_t c = 0; c < d; ++c) dot += q[c] * key[c];
    p.push_back(dot * scale);
    top = higher(top, p.back());
  }
  T sum = 0;
  for (T& weight : p) sum += weight = std::exp(weight - top);
  for (int64_t c = 0; c < d; ++c) {
    o[c] = 0;
    for (size_t i = 0; i < v.size(); ++i) o[c] += p[i] / sum * v[i][c];
  }
}

}  // namespace refrain::kernels
