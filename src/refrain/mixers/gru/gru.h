// The gated recurrent unit (Cho et al., 2014), with the weights of PyTorch's nn.GRU, gates in the
// order r z n, the reset gate after the product:
//
//   r, z = σ(x[t] W_ihᵀ + b_ih + h[t-1] W_hhᵀ + b_hh)
//   n    = tanh(x[t] W_inᵀ + b_in + r ⊙ (h[t-1] W_hnᵀ + b_hn))
//   h[t] = (1 - z) ⊙ n + z ⊙ h[t-1]
//
// Its state is h.
#pragma once
#include "refrain/mixers/recurrent.h"

namespace refrain {

struct GruConfig {
  static constexpr kernels::Cell kCell = kernels::Cell::kGru;
  static constexpr const char* kName = "gru";

  int64_t hidden = 0;

  template <class V>
  void visit(V&& v) {
    v("hidden", hidden,
      "units; 0 = d_model; of any other number, a projection (o_proj) leads back to d_model");
  }
};

extern template class RecurrentMixer<GruConfig>;
using Gru = RecurrentMixer<GruConfig>;

}  // namespace refrain
