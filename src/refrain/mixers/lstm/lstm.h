// Long short-term memory (Hochreiter and Schmidhuber, 1997; forget gates by Gers et al., 2000),
// with the weights of PyTorch's nn.LSTM, gates in the order i f g o:
//
//   [i f g o] = x[t] W_ihᵀ + b_ih + h[t-1] W_hhᵀ + b_hh
//   c[t] = σ(f) ⊙ c[t-1] + σ(i) ⊙ tanh(g)          h[t] = σ(o) ⊙ tanh(c[t])
//
// Its state is h and then c. In stacks of normed blocks the forget gates start open: their bias_ih
// is 1.
#pragma once
#include "refrain/mixers/recurrent.h"

namespace refrain {

struct LstmConfig {
  static constexpr kernels::Cell kCell = kernels::Cell::kLstm;
  static constexpr const char* kName = "lstm";

  int64_t hidden = 0;

  template <class V>
  void visit(V&& v) {
    v("hidden", hidden,
      "units; 0 = d_model; of any other number, a projection (o_proj) leads back to d_model");
  }
};

extern template class RecurrentMixer<LstmConfig>;
using Lstm = RecurrentMixer<LstmConfig>;

}  // namespace refrain
