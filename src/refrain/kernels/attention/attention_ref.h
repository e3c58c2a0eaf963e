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

// One head; query i has key position keys - queries + i.
struct AttentionHeadRef {
  int64_t queries, keys, d;
  double scale;
  int64_t window = 0, stride = 0;

  bool sees(int64_t i, int64_t j) const {
    return attention_sees(window, stride, keys - queries + i, j);
  }

  // The factor of dropout for the probability of query i and key j, which it sees; `head` by
  // number.
  double dropout_factor(AttentionDropout dropout, uint64_t row_id, int64_t head, int64_t i,
                        int64_t j) const {
    if (dropout.rate == 0) return 1;
    const bool local = window == 0 || keys - queries + i - j < window;
    const int64_t key = local ? j : (j + 1) / stride - 1;
    const auto words =
        philox({static_cast<uint32_t>(row_id), static_cast<uint32_t>(row_id >> 32),
                static_cast<uint32_t>(key / 4), static_cast<uint32_t>(2 * head + local)},
               dropout.key);
    const bool kept = to_unit(words[static_cast<size_t>(key % 4)]) >= dropout.rate;
    return kept ? 1 / (1 - double{dropout.rate}) : 0;
  }

  // q [queries, d], k and v [keys, d], o [queries, d], all dense. factor(i, j): the factor of the
  // probability of query i and key j, which it sees.
  template <class T, class Factor>
  void forward(const T* q, const T* k, const T* v, T* o, const Factor& factor) const {
    std::vector<T> s(static_cast<size_t>(keys));
    for (int64_t i = 0; i < queries; ++i) {
      const int64_t t = keys - queries + i;
      T top = -INFINITY;
      for (int64_t j = 0; j <= t; ++j) {
        if (!sees(i, j)) continue;
        T dot = 0;
        for (int64_t c = 0; c < d; ++c) dot += q[i * d + c] * k[j * d + c];
        s[static_cast<size_t>(j)] = dot * scale;
        top = higher(top, s[static_cast<size_t>(j)]);
      }
      T sum = 0;
      for (int64_t j = 0; j <= t; ++j) {
        T& p = s[static_cast<size_t>(j)];
        p = sees(i, j) ? std::exp(p - top) : T(0);
        sum += p;
      }
      for (int64_t c = 0; c < d; ++c) {
        T out = 0;
        for (int64_t j = 0; j <= t; ++j)
          if (sees(i, j)) out += s[static_cast<size_t>(j)] / sum * factor(i, j) * v[j * d + c];
        o[i * d + c] = out;
      }
    }
  }

  template <class T>
  void forward(const T* q, const T* k, const T* v, T* o) const {
    forward(q, k, v, o, [](int64_t, int64_t) { return 1.0; });
  }
};

}  // namespace refrain::kernels
