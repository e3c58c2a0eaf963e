// LlamaForCausalLM and MistralForCausalLM of `transformers`, versions 4 and 5: stacks of attention
// with gated feed-forward layers. A Mistral is a Llama with a window. docs/formats.md lists what is
// read, what makes no difference and what is refused.
#pragma once
#include "refrain/formats/family.h"

namespace refrain {

extern const Family kLlamaFamily, kMistralFamily;

}  // namespace refrain
