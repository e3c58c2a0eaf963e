// Language models of PyTorch's users around nn.RNN (tanh), nn.LSTM or nn.GRU, from a safetensors
// file of their state_dict. Names may stand behind any prefix; l counts layers from 0:
//
//   embedding      *emb*.weight or encoder.weight                                   [V, E]
//   cells          weight_ih_l<l> [G H, E or H], weight_hh_l<l> [G H, H],
//                  bias_ih_l<l>, bias_hh_l<l> [G H], or no biases at all
//   output         decoder, head, lm_head, fc, out, output or linear: .weight [V, H], .bias [V] or
//                  none
//
// The result is a stack of bare blocks (model/block.h) that computes the same. Its width is the
// greater of E and H: a narrower embedding is filled up with zeros, which nothing reads; narrower
// cells are led back to the width by o_proj, which is the identity.
#pragma once
#include <memory>
#include <string>

#include "refrain/model/language_model.h"

namespace refrain {

// kind: rnn, lstm or gru. All names and shapes are checked before memory is allocated. Any other
// tensor (another direction, a projection, a norm) is an Error that names it.
std::unique_ptr<LanguageModel> load_torch_cells(const std::string& path, const std::string& kind);

}  // namespace refrain
