// Reference implementation of the mixer of a classical cell: plain loops, for any number type.
#pragma once
#include <span>
#include <vector>

#include "refrain/kernels/sequence/recurrent_ref.h"
#include "refrain/mixers/recurrent.h"

namespace refrain {

template <class Config, class T>
struct RecurrentMixerRef {
  MixerDims s;
  Config c;

  // One sequence. weights: w_ih, w_hh, b_ih, b_hh and, where hidden is not D, o_proj. x, y
  // [tokens, D]. state: [S H], initial, then final.
  void forward(std::span<const std::vector<T>> weights, int64_t /*start*/, int64_t tokens,
               const T* x, T* y, T* state) const {
    const int64_t D = s.d_model, H = recurrent_width(s, Config::kName, c.hidden);
    const int64_t width = kernels::gates_of(Config::kCell) * H;
    const auto linear = [&](const std::vector<T>& w, int64_t in, int64_t out, const T* from,
                            T* to) {
      for (int64_t t = 0; t < tokens; ++t)
        for (int64_t i = 0; i < out; ++i)
          for (int64_t j = 0; j < in; ++j)
            to[t * out + i] += w[static_cast<size_t>(i * in + j)] * from[t * in + j];
    };
    std::vector<T> a, h(static_cast<size_t>(tokens * H));
    for (int64_t t = 0; t < tokens; ++t) a.insert(a.end(), weights[2].begin(), weights[2].end());
    linear(weights[0], D, width, x, a.data());
    const kernels::RecurrentCellRef<T> cell{Config::kCell, H, weights[1].data(), weights[3].data(),
                                            s.activation_precision};
    cell.forward(tokens, a.data(), h.data(), state);
    if (H == D) {
      std::copy(h.begin(), h.end(), y);
    } else {
      std::fill(y, y + tokens * D, T(0));
      linear(weights[4], H, D, h.data(), y);
    }
  }
};

}  // namespace refrain
