// The Llama-shaped families of `transformers`, versions 4 and 5: stacks of attention with gated
// feed-forward layers.
//
//   llama      LlamaForCausalLM (SmolLM, TinyLlama, Llama 1 to 3), also with attention_bias
//   mistral    a window in all blocks or in none
//   ministral  a window in some blocks
//   qwen2      biases of q, k and v; a window in some blocks, if use_sliding_window
//   qwen3      normed queries and keys; windows as qwen2
//   smollm3    some blocks without rotary positions; windows as qwen2
//
// docs/formats.md lists what is read, what makes no difference and what is refused.
#pragma once
#include <span>

#include "refrain/formats/family.h"

namespace refrain {

// In the order in which they are asked to write.
std::span<const Family> llama_families();

}  // namespace refrain
