// The reference implementations of kernel.h, for any number type: the recurrence, and the scan with
// the associative combination that the blocks use. Both are the specification.
#pragma once
#include <cmath>
#include <cstdint>
#include <vector>

#include "refrain/kernels/ref_math.h"
#include "refrain/mixers/attention_rnn/kernel.h"

namespace refrain::kernels {

// The state of a head over a span of tokens.
template <class T>
struct ScanState {
  T m = 0, c = 0;
  std::vector<T> a;

  static ScanState token(T s, const T* v, int64_t d) { return {s, T(1), {v, v + d}}; }
  bool empty() const { return !(real_part(c) > 0); }
};

// Combines a span with the span after it.
template <class T>
ScanState<T> combine(const ScanState<T>& left, const ScanState<T>& right) {
  if (left.empty()) return right;
  if (right.empty()) return left;
  ScanState<T> both{real_part(right.m) > real_part(left.m) ? right.m : left.m, T(0), {}};
  const T from_left = std::exp(left.m - both.m), from_right = std::exp(right.m - both.m);
  both.c = left.c * from_left + right.c * from_right;
  for (size_t j = 0; j < left.a.size(); ++j)
    both.a.push_back(left.a[j] * from_left + right.a[j] * from_right);
  return both;
}

// s [tokens, heads], v and o [tokens, width], state [state_size], initial, then final.
template <class T>
void attention_scan_ref(const ScanShape& shape, int64_t tokens, const T* s, const T* v, T* state,
                        T* o) {
  const int64_t heads = shape.heads, d = shape.head_dim;
  T *a = state, *c = a + heads * d, *m = c + heads;
  for (int64_t h = 0; h < heads; ++h) {
    ScanState<T> now{m[h], c[h], {a + h * d, a + (h + 1) * d}};
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t at = (t * heads + h) * d;
      now = combine(now, ScanState<T>::token(s[t * heads + h], v + at, d));
      for (int64_t j = 0; j < d; ++j) o[at + j] = now.a[static_cast<size_t>(j)] / now.c;
    }
    m[h] = now.m;
    c[h] = now.c;
    for (int64_t j = 0; j < d; ++j) a[h * d + j] = now.a[static_cast<size_t>(j)];
  }
}

// The states after every token of one head, by doubling (Hillis & Steele, 1986): the same function
// from another order of combination. s [tokens], v [tokens, d].
template <class T>
std::vector<ScanState<T>> prefix_scan_ref(int64_t d, int64_t tokens, const T* s, const T* v) {
  std::vector<ScanState<T>> all;
  for (int64_t t = 0; t < tokens; ++t) all.push_back(ScanState<T>::token(s[t], v + t * d, d));
  for (int64_t reach = 1; reach < tokens; reach *= 2)
    for (int64_t t = tokens - 1; t >= reach; --t) {
      ScanState<T>& at = all[static_cast<size_t>(t)];
      at = combine(all[static_cast<size_t>(t - reach)], at);
    }
  return all;
}

}  // namespace refrain::kernels
