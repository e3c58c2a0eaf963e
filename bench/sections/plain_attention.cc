#include "bench/sections/plain_attention.h"

#include <algorithm>
#include <cmath>

#include "refrain/base/parallel.h"
#include "refrain/kernels/loss/cross_entropy.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain::bench {

using kernels::gemm;

PlainAttention::PlainAttention(int64_t tokens, int64_t heads, int64_t head_dim, float scale)
    : tokens_(tokens),
      heads_(heads),
      head_dim_(head_dim),
      scale_(scale),
      p_(static_cast<size_t>(heads * tokens * tokens)),
      ds_(static_cast<size_t>(tokens * tokens)) {}

double PlainAttention::bytes(int64_t tokens, int64_t heads) {
  const auto T = static_cast<double>(tokens);
  return sizeof(float) * T * T * static_cast<double>(heads + 1);
}

void PlainAttention::forward(const Rows& in, float* o, Arena& scratch) {
  const int64_t T = tokens_;
  for (int64_t h = 0; h < heads_; ++h) {
    float* p = p_.data() + h * T * T;
    gemm(head(in.q, h), head(in.k, h).transposed(), {p, T, T}, scratch);
    if (!scratch.planning()) {
      parallel_ranges(T, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i)
          std::fill(p + i * T + i + 1, p + (i + 1) * T, -INFINITY);
      });
      kernels::softmax_rows({p, {T, T}}, 1 / scale_);
    }
    gemm({p, T, T}, head(in.v, h), head(o, h), scratch);
  }
}

void PlainAttention::backward(const Rows& in, const Gradients& g, Arena& scratch) {
  const int64_t T = tokens_, d = head_dim_, row = heads_ * d;
  for (int64_t h = 0; h < heads_; ++h) {
    const float* p = p_.data() + h * T * T;
    float* ds = ds_.data();
    const int64_t at = h * d;
    gemm({p, T, T, 1, T}, head(g.d_o, h), head(g.dv, h), scratch);
    gemm(head(g.d_o, h), head(in.v, h).transposed(), {ds, T, T}, scratch);
    if (!scratch.planning())
      parallel_ranges(T, 16, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          float sum = 0;
          for (int64_t c = 0; c < d; ++c) sum += g.d_o[i * row + at + c] * in.o[i * row + at + c];
          for (int64_t j = 0; j < T; ++j)
            ds[i * T + j] = scale_ * p[i * T + j] * (ds[i * T + j] - sum);
        }
      });
    gemm({ds, T, T}, head(in.k, h), head(g.dq, h), scratch);
    gemm({ds, T, T, 1, T}, head(in.q, h), head(g.dk, h), scratch);
  }
}

}  // namespace refrain::bench
