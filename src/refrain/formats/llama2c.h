// Models of karpathy/llama2.c, version 0 of its .bin files. Little endian:
//
//    0  7 x i32   dim, hidden_dim, layers, heads, kv_heads, vocab (negative: a head of its own),
//                 context
//   28  float32   token embedding [vocab, dim]
//                 of all layers, one layer after another:
//                   attention norms [dim], wq [dim, dim], wk, wv [kv_heads * d, dim], wo [dim, dim]
//                   feed-forward norms [dim], w1 [hidden_dim, dim], w2 [dim, hidden_dim],
//                   w3 [hidden_dim, dim]
//                 final norm [dim]
//                 cosines and sines [context, d / 2], which are not read, d = dim / heads
//                 head [vocab, dim], if vocab is negative
//
// There, channels 2i and 2i + 1 of a head rotate together; here i and i + d/2. The rows of wq and
// wk are put in that order, which leaves every product of q and k, and so the logits, as they were.
#pragma once
#include <memory>
#include <string>

#include "refrain/model/language_model.h"

namespace refrain {

// The size of the file is checked against its header before memory is allocated. The ids that begin
// and end a text are not in the file: llama2.c uses 1 and 2.
std::unique_ptr<LanguageModel> load_llama2c(const std::string& path);

}  // namespace refrain
