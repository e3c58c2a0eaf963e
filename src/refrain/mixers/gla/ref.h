// Reference implementation of the gla mixer: plain loops, for any number type. It is the
// specification of gla.cc.
#pragma once
#include <cmath>
#include <span>
#include <vector>

#include "refrain/kernels/elementwise/activation_ref.h"
#include "refrain/kernels/sequence/short_conv_ref.h"
#include "refrain/mixers/gla/gla.h"
#include "refrain/mixers/gla/kernel_ref.h"

namespace refrain {

template <class T>
struct GlaRef {
  MixerDims s;
  GlaConfig c;

  // One sequence: `tokens` tokens. weights: in visiting order. x, y: [tokens, D]. state: initial,
  // then final; [heads, K, V], and for a convolution the last rows [taps - 1, ...] of q, of k and
  // of v.
  void forward(std::span<const std::vector<T>> weights, int64_t /*start*/, int64_t tokens,
               const T* x, T* y, T* state) const {
    const GlaLayout l(s, c);
    const int64_t H = l.heads, K = l.key_dim, V = l.value_dim;
    auto next = weights.begin();
    const std::vector<T>& w = *next++;
    std::vector<T> rows = linear(x, s.d_model, w, l.columns, tokens);
    const auto add_bias = [&](int64_t first, int64_t count) {
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < count; ++i) rows[at(t * l.columns + first + i)] += (*next)[at(i)];
      ++next;
    };
    if (c.bias) add_bias(l.q, l.keys());
    if (c.bias) add_bias(l.k, l.keys());
    if (!l.low_rank) add_bias(l.gate, l.keys());
    if (c.bias) add_bias(l.v, l.values());
    if (c.bias && c.output_gate) add_bias(l.output_gate, l.values());
    T* past = state + l.matrices();
    const auto convolve = [&](int64_t first, int64_t count) {
      const auto p = take(rows, l.columns, first, count, tokens);
      std::vector<T> convolved(p.size());
      kernels::ShortConvRef{count, l.taps, tokens}.forward(next->data(), p.data(), past,
                                                           convolved.data());
      for (int64_t t = 0; t < tokens; ++t)
        std::copy_n(convolved.begin() + t * count, count, rows.begin() + t * l.columns + first);
      past += (l.taps - 1) * count;
      ++next;
    };
    if (l.taps > 0) {
      convolve(l.q, l.keys());
      convolve(l.k, l.keys());
      convolve(l.v, l.values());
    }
    std::vector<T> logits = take(rows, l.columns, l.gate, l.gate_columns, tokens);
    if (l.low_rank) {
      const std::vector<T>&up = *next++, &b = *next++;
      logits = linear(logits.data(), l.gate_columns, up, l.keys(), tokens);
      for (size_t i = 0; i < logits.size(); ++i) logits[i] += b[i % b.size()];
    }
    std::vector<T> out(at(tokens * l.values()));
    for (int64_t h = 0; h < H; ++h) {
      const auto q = take(rows, l.columns, l.q + h * K, K, tokens);
      auto k = take(rows, l.columns, l.k + h * K, K, tokens);
      auto v = take(rows, l.columns, l.v + h * V, V, tokens);
      for (T& value : k) value = activated(c.key_act, value);
      for (T& value : v) value = activated(c.value_act, value);
      const auto z = take(logits, l.keys(), h * K, K, tokens);
      std::vector<T> o(v.size());
      const double scale = c.scale > 0 ? c.scale : 1 / std::sqrt(static_cast<double>(K));
      kernels::GlaHeadRef{tokens, K, V, scale, l.low_rank ? c.gate_divisor : 1}.forward(
          {q.data(), k.data(), v.data(), z.data()}, state + h * K * V, o.data());
      for (int64_t t = 0; t < tokens; ++t) {
        T squares = 0;
        for (int64_t j = 0; j < V; ++j) squares += o[at(t * V + j)] * o[at(t * V + j)];
        const T r = 1.0 / std::sqrt(squares / static_cast<double>(V) + 1e-5);
        for (int64_t j = 0; j < V; ++j) {
          T n = o[at(t * V + j)];
          if (c.output_norm) n *= r * (*next)[at(j)];
          if (c.output_gate)
            n *= kernels::activation_ref(kernels::Activation::kSilu,
                                         rows[at(t * l.columns + l.output_gate + h * V + j)],
                                         s.activation_precision);
          out[at(t * l.values() + h * V + j)] = n;
        }
      }
    }
    if (c.output_norm) ++next;
    const std::vector<T>& wo = *next++;
    const auto result = linear(out.data(), l.values(), wo, s.d_model, tokens);
    for (int64_t i = 0; i < tokens * s.d_model; ++i)
      y[i] = result[at(i)] + (c.bias ? (*next)[at(i % s.d_model)] : T(0));
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  T activated(const std::string& name, T x) const {
    if (name == "tanh") return kernels::tanh_ref(x, s.activation_precision);
    return name == "sigmoid" ? kernels::sigmoid_ref(x, s.activation_precision) : x;
  }
  // Columns [first, first + count) of [tokens, row].
  static std::vector<T> take(const std::vector<T>& from, int64_t row, int64_t first, int64_t count,
                             int64_t tokens) {
    std::vector<T> part;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < count; ++i) part.push_back(from[at(t * row + first + i)]);
    return part;
  }
  // x [tokens, in] times the transpose of w [out, in].
  static std::vector<T> linear(const T* x, int64_t in, const std::vector<T>& w, int64_t out,
                               int64_t tokens) {
    std::vector<T> y(at(tokens * out));
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t o = 0; o < out; ++o)
        for (int64_t i = 0; i < in; ++i) y[at(t * out + o)] += w[at(o * in + i)] * x[t * in + i];
    return y;
  }
};

}  // namespace refrain
