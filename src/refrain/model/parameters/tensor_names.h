// Names of a language model's tensors.
//
//   ours                                      in files of Llamas
//   embedding.weight                          model.embed_tokens.weight
//   layers.N.mixer_norm.weight                model.layers.N.input_layernorm.weight
//   layers.N.mixer.*                          model.layers.N.self_attn.*
//   layers.N.feed_forward_norm.weight         model.layers.N.post_attention_layernorm.weight
//   layers.N.feed_forward.*                   model.layers.N.mlp.*
//   norm.weight, head.weight, head.bias       model.norm.weight, lm_head.weight, lm_head.bias
#pragma once
#include <string>
#include <string_view>

namespace refrain {

// The name in files of Llamas. Other names stay as they are.
std::string llama_name(std::string_view ours);

}  // namespace refrain
