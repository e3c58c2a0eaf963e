// Self-attention made with the cell (Feng et al., 2024): every token has a query of its own and
// runs the recurrence of kernel.h over all tokens of its sequence, those after it too.
//
//   o[t] = Σ_i e^{s[t,i]} v[i] / Σ_i e^{s[t,i]},   s[t,i] = q[t] · k[i] / √d,   q[t] = W_q x[t]
//
// q and k are rotated by their positions (kernels/elementwise/rope.h), base 10000. The sum is
// independent of the order of the tokens, so the recurrence goes block by block and all queries
// share a block (kernels/attention/cross_attention.h). There is no stepped form: a sequence is read
// whole, as an encoder does.
#pragma once
#include <vector>

#include "refrain/kernels/attention/cross_attention.h"
#include "refrain/kernels/elementwise/rope.h"
#include "refrain/layers/linear.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/mixer.h"

namespace refrain {

class TokenAttention {
 public:
  static constexpr double kRopeTheta = 10000;

  TokenAttention(const MixerDims&, bool bias, float scale);

  void visit(const ParamVisitor&);
  void forward(ExecutionContext&, const RaggedBatch&, ConstTensor x, Tensor y, Arena* saved) const;
  void backward(ExecutionContext&, const RaggedBatch&, ConstTensor x, const MixerGradients&,
                Arena& saved) const;
  double mixing_flops(int64_t length) const {
    return 4 * static_cast<double>(length) * static_cast<double>(shape_.width());
  }

 private:
  struct Activations {
    Tensor q, k, v, o;  // [R, heads d]; q and k rotated
    Tensor softmax;     // [R, 2 heads]
  };
  Activations layout(Arena&, int64_t rows) const;
  std::vector<kernels::CrossMemory> pack(ExecutionContext&, const RaggedBatch&, const Activations&,
                                         bool for_backward) const;
  std::vector<kernels::CrossQueries> queries(const RaggedBatch&, const Activations&) const;
  void rotate(ExecutionContext&, const RaggedBatch&, Tensor rows, bool inverse) const;

  kernels::CrossShape shape_;
  int64_t blocks_, table_rows_;
  std::vector<double> frequencies_;  // [head_dim / 2]
  std::vector<float> cos_, sin_;     // [table_rows_, head_dim / 2]
  Linear q_, k_, v_, o_;
};

}  // namespace refrain
