// Causal attention as the formula has it, all scores in memory: what blockwise attention is held
// against. Per head, with T x T matrices:
//
//   P = softmax(scale q kᵀ + mask),  o = P v
//   dv = Pᵀ do,  dS = P (do vᵀ - rowsum(do o)),  dq = scale dS k,  dk = scale dSᵀ q
#pragma once
#include "refrain/base/arena.h"
#include "refrain/base/buffer.h"
#include "refrain/base/matrix_view.h"

namespace refrain::bench {

// One sequence of `tokens` rows, heads side by side: every tensor is [tokens, heads * head_dim].
class PlainAttention {
 public:
  PlainAttention(int64_t tokens, int64_t heads, int64_t head_dim, float scale);

  // Bytes that it keeps: the probabilities of all heads and the scores' gradients of one.
  static double bytes(int64_t tokens, int64_t heads);

  // What is read, o once it is written.
  struct Rows {
    const float *q, *k, *v, *o = nullptr;
  };
  struct Gradients {
    const float* d_o;
    float *dq, *dk, *dv;
  };
  void forward(const Rows&, float* o, Arena& scratch);
  // After forward.
  void backward(const Rows&, const Gradients&, Arena& scratch);

 private:
  template <class T>
  MatrixView<T> head(T* rows, int64_t h) const {
    return {rows + h * head_dim_, tokens_, head_dim_, heads_ * head_dim_};
  }

  int64_t tokens_, heads_, head_dim_;
  float scale_;
  Buffer<float> p_, ds_;  // [heads, T, T], [T, T]
};

}  // namespace refrain::bench
