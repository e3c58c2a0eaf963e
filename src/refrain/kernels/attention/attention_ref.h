// Reference implementation of causal attention: plain loops, for any number type. It is the
// specification of attention.h. With std::complex<double> it gives exact gradients by the complex
// step.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "refrain/base/random.h"
#include "refrain/kernels/attention/attention.h"
#include "refrain/kernels/ref_math.h"

namespace refrain::kernels {

// Whether the query at position t sees position p: all up to itself; with a window, its last
// `window` positions; with a stride, every stride-th position as well.
inline bool attention_sees(int64_t window, int64_t stride, int64_t t, int64_t p) {
  return p <= t && (window == 0 || t - p < window || (stride > 0 && (p + 1) % stride == 0));
}

// The factor of dropout for the probability with which the query at position t sees position p, if
// it sees it.
inline double attention_dropout_ref(AttentionDropout dropout, int64_t window, int64_t stride,
                                    uint64_t row_id, int64_t head, int64_t t, int64_t p) {
  if (dropout.rate == 0) return 1;
  const bool local = window == 0 || t - p < window;
  const int64_t key = local ? p : (p + 1) / stride - 1;
  const auto words =
      philox({static_cast<uint32_t>(row_id), static_cast<uint32_t>(row_id >> 32),
              static_cast<uint32_t>(key / 4), static_cast<uint32_t>(2 * head + local)},
             dropout.key);
  const bool kept = to_unit(words[static_cast<size_t>(key % 4)]) >= dropout.rate;
  return kept ? 1 / (1 - double{dropout.rate}) : 0;
}

// One head: q [queries, d], k and v [keys, d], o [queries, d], all dense; query i has key position
// keys - queries + i. factor(i, j): the factor of the probability of query i and key j, which it
// sees.
template <class T, class Factor>
void attention_ref(int64_t queries, int64_t keys, int64_t d, double scale, const T* q, const T* k,
                   const T* v, T* o, int64_t window, int64_t stride, const Factor& factor) {
  std::vector<T> s(static_cast<size_t>(keys));
  for (int64_t i = 0; i < queries; ++i) {
    const int64_t t = keys - queries + i;
    double top = -INFINITY;
    for (int64_t j = 0; j <= t; ++j) {
      if (!attention_sees(window, stride, t, j)) continue;
      T dot = 0;
      for (int64_t c = 0; c < d; ++c) dot += q[i * d + c] * k[j * d + c];
      s[static_cast<size_t>(j)] = dot * scale;
      top = std::max(top, real_part(s[static_cast<size_t>(j)]));
    }
    T sum = 0;
    for (int64_t j = 0; j <= t; ++j) {
      T& p = s[static_cast<size_t>(j)];
      p = attention_sees(window, stride, t, j) ? std::exp(p - top) : T(0);
      sum += p;
    }
    for (int64_t c = 0; c < d; ++c) {
      T out = 0;
      for (int64_t j = 0; j <= t; ++j)
        if (attention_sees(window, stride, t, j))
          out += s[static_cast<size_t>(j)] / sum * factor(i, j) * v[j * d + c];
      o[i * d + c] = out;
    }
  }
}

template <class T>
void attention_ref(int64_t queries, int64_t keys, int64_t d, double scale, const T* q, const T* k,
                   const T* v, T* o, int64_t window = 0, int64_t stride = 0) {
  attention_ref(queries, keys, d, scale, q, k, v, o, window, stride,
                [](int64_t, int64_t) { return 1.0; });
}

}  // namespace refrain::kernels
