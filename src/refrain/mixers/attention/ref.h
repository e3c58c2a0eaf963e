// Reference implementation of the attention mixer: plain loops, for any number type. It is the
// specification of attention.cc. With std::complex<double> it gives exact gradients by the complex
// step.
#pragma once
#include <algorithm>
#include <cmath>
#include <span>
#include <type_traits>
#include <vector>

#include "refrain/kernels/attention/attention_ref.h"
#include "refrain/kernels/attention/kv_cache_ref.h"
#include "refrain/kernels/elementwise/rms_norm_ref.h"
#include "refrain/kernels/elementwise/rope_ref.h"
#include "refrain/mixers/attention/attention.h"

namespace refrain {

template <class T>
struct AttentionRef {
  MixerDims s;
  AttentionConfig c;

  // One sequence: `tokens` tokens from position `start`. weights: in visiting order. x, y:
  // [tokens, D]. state: rows of rotated keys and values, initial, then final: of all positions, or
  // of the window's in a ring, followed by the stride's.
  void forward(std::span<const std::vector<T>> weights, int64_t start, int64_t tokens, const T* x,
               T* y, T* state) const {
    const int64_t D = s.d_model, d = s.head_dim, q_width = s.heads * d, kv = s.kv_heads * d;
    const int64_t row = 2 * kv;
    const int64_t keys = start + tokens;
    size_t next = 0;
    const std::vector<T> none,
        &w_qkv = weights[next++], &b_qkv = c.qkv_bias ? weights[next++] : none,
        &q_norm = c.qk_norm ? weights[next++] : none, &k_norm = c.qk_norm ? weights[next++] : none,
        &w_o = weights[next++], &b_o = c.output_bias ? weights[next++] : none;
    const auto pairing =
        c.rope_pairing == "half" ? kernels::RopePairing::kHalf : kernels::RopePairing::kAdjacent;
    std::vector<T> queries(static_cast<size_t>(tokens * q_width)), out(queries.size());
    // Rows by position, as a query sees them inside and outside of its window; rows that are not in
    // the state are not seen.
    std::vector<T> near(static_cast<size_t>(keys * row)), far(near.size());
    const auto each_held = [&](int64_t read, auto&& f) {
      for (int64_t p = c.window > 0 ? std::max<int64_t>(0, read - c.window) : 0; p < read; ++p)
        f(near.data() + p * row, state + (c.window > 0 ? p % c.window : p) * row);
      for (int64_t i = 0; c.stride > 0 && i < read / c.stride; ++i)
        f(far.data() + ((i + 1) * c.stride - 1) * row, state + (c.window + i) * row);
    };
    each_held(start, [&](T* to, const T* from) { std::copy_n(from, row, to); });
    for (int64_t t = 0; t < tokens; ++t) {
      std::vector<T> qkv(static_cast<size_t>(q_width + row), T(0));
      for (size_t i = 0; i < qkv.size(); ++i)
        for (int64_t j = 0; j < D; ++j)
          qkv[i] += w_qkv[i * static_cast<size_t>(D) + static_cast<size_t>(j)] * x[t * D + j];
      for (size_t i = 0; i < b_qkv.size(); ++i) qkv[i] += b_qkv[i];
      for (int64_t h = 0; h < s.heads + s.kv_heads; ++h) {
        T* const head = &qkv[static_cast<size_t>(h * d)];
        if (c.qk_norm) {
          T r = 0;
          auto* w = const_cast<T*>((h < s.heads ? q_norm : k_norm).data());
          kernels::rms_norm_ref<T>({head, {1, d}}, {w, {d}}, s.norm_eps, {head, {1, d}}, {&r, {1}});
        }
        if (c.rope)
          kernels::rope_ref(head, d, c.rope_theta, static_cast<double>(start + t), pairing,
                            c.scaling());
      }
      for (int64_t i = 0; i < q_width; ++i)
        queries[static_cast<size_t>(t * q_width + i)] = qkv[static_cast<size_t>(i)];
      if constexpr (std::is_floating_point_v<T>)
        for (int64_t h = 0; h < 2 * s.kv_heads; ++h)
          kernels::round_to_cache_ref(s.cache_type, d, &qkv[static_cast<size_t>(q_width + h * d)]);
      for (auto* to : {&near, &far})
        std::copy_n(qkv.begin() + q_width, row, to->begin() + (start + t) * row);
    }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < s.heads; ++h) {
        const int64_t g = h / (s.heads / s.kv_heads), position = start + t;
        std::vector<T> k, v;
        for (int64_t p = 0; p < keys; ++p) {
          if (!kernels::attention_sees(c.window, c.stride, position, p)) continue;
          const auto& from = c.window > 0 && position - p >= c.window ? far : near;
          const auto at = from.begin() + p * row + g * d;
          k.insert(k.end(), at, at + d);
          v.insert(v.end(), at + kv, at + kv + d);
        }
        const auto first = static_cast<size_t>(t * q_width + h * d);
        const kernels::AttentionHeadRef head{1, static_cast<int64_t>(k.size()) / d, d,
                                             1.0 / std::sqrt(static_cast<double>(d))};
        head.forward(&queries[first], k.data(), v.data(), &out[first]);
      }
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < D; ++i) {
        T sum = 0;
        for (int64_t j = 0; j < q_width; ++j)
          sum +=
              w_o[static_cast<size_t>(i * q_width + j)] * out[static_cast<size_t>(t * q_width + j)];
        y[t * D + i] = c.output_bias ? sum + b_o[static_cast<size_t>(i)] : sum;
      }
    each_held(keys, [&](const T* from, T* to) { std::copy_n(from, row, to); });
  }
};

}  // namespace refrain
