// The attention mixer in plain loops, for any number type: the specification that attention.cc is
// held to. With std::complex<double> it yields exact gradients by the complex step.
#pragma once
#include <cmath>
#include <span>
#include <vector>

#include "refrain/kernels/attention_ref.h"
#include "refrain/mixers/attention/attention.h"

namespace refrain {

template <class T>
struct AttentionRef {
  MixerShape s;
  AttentionConfig c;

  // One sequence: `tokens` tokens from position `start`. weights: in visiting order. x, y:
  // [tokens, D]. state: rows of rotated keys and values, those before `start` filled.
  void forward(std::span<const std::vector<T>> weights, int64_t start, int64_t tokens, const T* x,
               T* y, T* state) const {
    const int64_t D = s.d_model, d = s.head_dim, q_width = s.heads * d, kv = s.kv_heads * d;
    const int64_t row = 2 * kv;
    std::vector<T> queries(static_cast<size_t>(tokens * q_width)), out(queries.size());
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<T> qkv(static_cast<size_t>(q_width + row), T(0));
      for (size_t i = 0; i < qkv.size(); ++i)
        for (int64_t j = 0; j < D; ++j)
          qkv[i] += weights[0][i * static_cast<size_t>(D) + static_cast<size_t>(j)] * x[t * D + j];
      for (int64_t h = 0; h < s.heads + s.kv_heads; ++h)
        for (int64_t i = 0; i < d / 2; ++i) {
          const double angle =
              static_cast<double>(start + t) *
              std::pow(c.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
          const bool half = c.rope_pairing == "half";
          T& a = qkv[static_cast<size_t>(h * d + (half ? i : 2 * i))];
          T& b = qkv[static_cast<size_t>(h * d + (half ? i + d / 2 : 2 * i + 1))];
          const T a0 = a;
          a = a0 * std::cos(angle) - b * std::sin(angle);
          b = a0 * std::sin(angle) + b * std::cos(angle);
        }
      for (int64_t i = 0; i < q_width; ++i)
        queries[static_cast<size_t>(t * q_width + i)] = qkv[static_cast<size_t>(i)];
      for (int64_t i = 0; i < row; ++i)
        state[(start + t) * row + i] = qkv[static_cast<size_t>(q_width + i)];
    }
    const int64_t keys = start + tokens;
    for (int64_t h = 0; h < s.heads; ++h) {
      const int64_t g = h / (s.heads / s.kv_heads);
      std::vector<T> q, k, v, o(static_cast<size_t>(tokens * d));
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t j = 0; j < d; ++j)
          q.push_back(queries[static_cast<size_t>(t * q_width + h * d + j)]);
      for (int64_t t = 0; t < keys; ++t)
        for (int64_t j = 0; j < d; ++j) {
          k.push_back(state[t * row + g * d + j]);
          v.push_back(state[t * row + kv + g * d + j]);
        }
      kernels::attention_ref(tokens, keys, d, 1.0 / std::sqrt(static_cast<double>(d)), q.data(),
                             k.data(), v.data(), o.data());
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t j = 0; j < d; ++j)
          out[static_cast<size_t>(t * q_width + h * d + j)] = o[static_cast<size_t>(t * d + j)];
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < D; ++i) {
        T sum = 0;
        for (int64_t j = 0; j < q_width; ++j)
          sum += weights[1][static_cast<size_t>(i * q_width + j)] *
                 out[static_cast<size_t>(t * q_width + j)];
        y[t * D + i] = sum;
      }
  }
};

}  // namespace refrain
