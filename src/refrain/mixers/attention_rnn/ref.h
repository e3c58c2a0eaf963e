// Reference implementation of the attention_rnn mixer: plain loops, for any number type. It is the
// specification of attention_rnn.cc.
#pragma once
#include <cmath>
#include <span>
#include <vector>

#include "refrain/kernels/elementwise/rope_ref.h"
#include "refrain/mixers/attention_rnn/attention_rnn.h"
#include "refrain/mixers/attention_rnn/kernel_ref.h"

namespace refrain {

template <class T>
struct AttentionRnnRef {
  MixerDims s;
  AttentionRnnConfig c;

  // One sequence. weights: in visiting order. x, y [tokens, D]. state: a [heads d], c [heads],
  // m [heads], initial, then final.
  void forward(std::span<const std::vector<T>> weights, int64_t /*start*/, int64_t tokens,
               const T* x, T* y, T* state) const {
    const int64_t D = s.d_model, d = s.head_dim, width = s.heads * d;
    auto next = weights.begin();
    const auto linear = [&](const T* from, int64_t rows, int64_t in, int64_t out) {
      const std::vector<T>& w = *next++;
      std::vector<T> to(at(rows * out));
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < out; ++i)
          for (int64_t j = 0; j < in; ++j)
            to[at(r * out + i)] += w[at(i * in + j)] * from[r * in + j];
      if (!c.bias) return to;
      const std::vector<T>& b = *next++;
      for (size_t i = 0; i < to.size(); ++i) to[i] += b[i % b.size()];
      return to;
    };
    if (c.query == "token") {
      std::vector<T> q = linear(x, tokens, D, width), k = linear(x, tokens, D, width);
      const std::vector<T> v = linear(x, tokens, D, width);
      const std::vector<T> read = read_all(tokens, q, k, v);
      const std::vector<T> result = linear(read.data(), tokens, width, D);
      std::copy(result.begin(), result.end(), y);
      return;
    }
    const std::vector<T>& token = *next++;
    const std::vector<T> q = linear(token.data(), 1, D, width);
    const std::vector<T> k = linear(x, tokens, D, width), v = linear(x, tokens, D, width);
    std::vector<T> scores(at(tokens * s.heads)), o(v.size());
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t i = 0; i < width; ++i)
        scores[at(t * s.heads + i / d)] +=
            q[at(i)] * k[at(t * width + i)] / (c.scaled ? std::sqrt(static_cast<double>(d)) : 1.0);
    kernels::attention_scan_ref({s.heads, d}, tokens, scores.data(), v.data(), state, o.data());
    const std::vector<T> result = linear(o.data(), tokens, width, D);
    std::copy(result.begin(), result.end(), y);
  }

 private:
  static size_t at(int64_t i) { return static_cast<size_t>(i); }

  // Each query's run of the cell over all tokens.
  std::vector<T> read_all(int64_t tokens, std::vector<T>& q, std::vector<T>& k,
                          const std::vector<T>& v) const {
    const int64_t d = s.head_dim, width = s.heads * d;
    for (std::vector<T>* rows : {&q, &k})
      for (int64_t i = 0; i < tokens * s.heads; ++i)
        kernels::rope_ref(&(*rows)[at(i * d)], d, TokenAttention::kRopeTheta,
                          static_cast<double>(i / s.heads), kernels::RopePairing::kHalf);
    std::vector<T> o;
    for (int64_t t = 0; t < tokens; ++t)
      for (int64_t h = 0; h < s.heads; ++h) {
        kernels::ScanState<T> state{0, 0, std::vector<T>(at(d))};
        for (int64_t i = 0; i < tokens; ++i) {
          T score = 0;
          for (int64_t j = h * d; j < (h + 1) * d; ++j)
            score += q[at(t * width + j)] * k[at(i * width + j)];
          if (c.scaled) score /= std::sqrt(static_cast<double>(d));
          state = combine(state, kernels::ScanState<T>::token(score, &v[at(i * width + h * d)], d));
        }
        for (const T& a : state.a) o.push_back(a / state.c);
      }
    return o;
  }
};

}  // namespace refrain
