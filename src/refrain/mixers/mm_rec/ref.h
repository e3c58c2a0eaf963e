// Reference implementation of the mm_rec mixer: plain loops, for any number type. It is the
// specification of mm_rec.cc.
#pragma once
#include <cmath>
#include <span>
#include <vector>

#include "refrain/mixers/mm_rec/kernel_ref.h"
#include "refrain/mixers/mm_rec/memory_kernel_ref.h"
#include "refrain/mixers/mm_rec/mm_rec.h"

namespace refrain {

template <class T>
struct MmRecRef {
  MixerDims s;
  MmRecConfig c;

  // One sequence: `tokens` tokens from position `start`. weights: in visiting order. x, y [tokens,
  // D]. state: h, and with a memory the sum of the open chunk and a ring of rows [k | v] per level;
  // initial, then final.
  void forward(std::span<const std::vector<T>> weights, int64_t start, int64_t tokens, const T* x,
               T* y, T* state) const {
    const int64_t D = s.d_model, I = c.inner == 0 ? std::max<int64_t>(1, D / 4) : c.inner;
    const bool full = c.recurrence == "full";
    auto next = weights.begin();
    const std::vector<T>& w = *next++;
    const auto part = [&](int64_t i) {
      return linear(std::vector<T>(w.begin() + i * D * D, w.begin() + (i + 1) * D * D), x, tokens,
                    D);
    };
    const int64_t first = c.memory ? 1 : 0;
    const std::vector<T> q = part(0), k = part(first), v = part(first + 1), z = part(first + 2);
    const auto decay_half = [&](const std::vector<T>& from) {
      std::vector<T> inner = linear(*next++, from.data(), tokens, D);
      for (T& value : inner) value = kernels::activation_ref(kernels::Activation::kGelu, value);
      return linear(*next++, inner.data(), tokens, I);
    };
    const std::vector<T> s1 = decay_half(z), s2 = decay_half(k);
    std::vector<T> decay(z.size()), gates(2 * z.size()), h(z.size());
    for (size_t i = 0; i < z.size(); ++i) decay[i] = kernels::mm_rec_decay_ref(c.mu, s1[i], s2[i]);
    const std::vector<T> of_z = linear(*next, z.data(), tokens, D);
    if (full) {
      for (int64_t t = 0; t < tokens; ++t)
        std::copy_n(of_z.begin() + t * D, D, gates.begin() + t * 2 * D);
      ++next;
    } else {
      gates = of_z;
    }
    const std::vector<T>&of_h = *next++, &bias = *next++;
    kernels::mm_rec_ref<T>({D, c.mu, bias.data(), full ? of_h.data() : nullptr}, tokens,
                           {z.data(), decay.data(), gates.data(), h.data()}, state);
    for (size_t i = 0; i < h.size(); ++i) y[i] = h[i] + 0.1 * v[i];
    if (c.memory) attend(next, start, q, h, y, state);
  }

 private:
  using Weights = typename std::span<const std::vector<T>>::iterator;

  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  static std::vector<T> linear(const std::vector<T>& w, const T* x, int64_t rows, int64_t in) {
    const int64_t out = static_cast<int64_t>(w.size()) / in;
    std::vector<T> y(at(rows * out));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < out; ++i)
        for (int64_t j = 0; j < in; ++j) y[at(r * out + i)] += w[at(i * in + j)] * x[r * in + j];
    return y;
  }

  // Token by token: read the finished slots, then add to the open chunk.
  void attend(Weights next, int64_t start, const std::vector<T>& q, const std::vector<T>& h, T* y,
              T* state) const {
    const int64_t D = s.d_model, M = c.slots, heads = c.heads == 0 ? s.heads : c.heads;
    const int64_t d = D / heads, tokens = std::ssize(h) / D;
    const std::vector<T>&null = *next++, &q_of_h = *next++, &kv = *next++, &w_o = *next++;
    const std::vector<T> of_null = linear(kv, null.data(), 1, D);
    T *sum = state + D, *rings = state + 2 * D;
    const auto ring = [&](int64_t level, int64_t i) { return rings + (level * M + i % M) * 2 * D; };
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t done = (start + t) / c.stretch;
      std::vector<const T*> rows;
      if (done == 0) rows.push_back(of_null.data());
      for (int64_t level = 0, n = done; level < 3; ++level, n /= 4)
        for (int64_t i = std::max<int64_t>(0, n - M); i < n; ++i) rows.push_back(ring(level, i));
      std::vector<T> query = linear(q_of_h, &h[at(t * D)], 1, D), o(at(D));
      for (int64_t j = 0; j < D; ++j) query[at(j)] += 0.5 * q[at(t * D + j)];
      for (int64_t head = 0; head < heads; ++head) {
        std::vector<const T*> k, v;
        for (const T* row : rows) {
          k.push_back(row + head * d);
          v.push_back(row + D + head * d);
        }
        kernels::memory_attention_ref(d, 1 / std::sqrt(static_cast<double>(d)),
                                      &query[at(head * d)], k, v, &o[at(head * d)]);
      }
      const std::vector<T> out = linear(w_o, o.data(), 1, D);
      for (int64_t j = 0; j < D; ++j) y[t * D + j] += out[at(j)];

      for (int64_t j = 0; j < D; ++j) sum[j] += h[at(t * D + j)];
      if ((start + t + 1) % c.stretch != 0) continue;
      for (int64_t j = 0; j < D; ++j) sum[j] /= static_cast<double>(c.stretch);
      const std::vector<T> slot = linear(kv, sum, 1, D);
      std::copy(slot.begin(), slot.end(), ring(0, done));
      std::fill_n(sum, D, T(0));
      for (int64_t level = 1, n = done + 1; level < 3 && n % 4 == 0; ++level) {
        n /= 4;
        for (int64_t j = 0; j < 2 * D; ++j) {
          T mean = 0;
          for (int64_t i = 4 * (n - 1); i < 4 * n; ++i) mean += ring(level - 1, i)[j] / 4.0;
          ring(level, n - 1)[j] = mean;
        }
      }
    }
  }
};

}  // namespace refrain
