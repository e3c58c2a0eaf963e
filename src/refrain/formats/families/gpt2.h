// GPT2LMHeadModel of `transformers` (Radford et al., 2019): LayerNorm, learned positions, biases
// everywhere, a plain feed-forward layer. Products are stored transposed, and q, k and v as one.
#pragma once
#include "refrain/formats/family.h"

namespace refrain {

extern const Family kGpt2Family;

}  // namespace refrain
