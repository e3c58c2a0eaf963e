// The simple recurrent network (Elman, 1990), with the weights of PyTorch's nn.RNN:
//
//   h[t] = tanh(x[t] W_ihᵀ + b_ih + h[t-1] W_hhᵀ + b_hh)
//
// Its state is h.
#pragma once
#include "refrain/mixers/recurrent.h"

namespace refrain {

struct RnnConfig {
  static constexpr kernels::Cell kCell = kernels::Cell::kRnn;
  static constexpr const char* kName = "rnn";

  int64_t hidden = 0;

  template <class V>
  void visit(V&& v) {
    v("hidden", hidden,
      "units; 0 = d_model; of any other number, a projection (o_proj) leads back to d_model");
  }
};

extern template class RecurrentMixer<RnnConfig>;
using Rnn = RecurrentMixer<RnnConfig>;

}  // namespace refrain
