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
#include <cstddef>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace refrain {

// The name in files of Llamas. Other names stay as they are.
std::string llama_name(std::string_view ours);

// The block N of "layers.N.", nothing of other names.
std::optional<size_t> block_of(std::string_view ours);

// Whether a pattern means a tensor: "*" stands for any text, and a pattern that ends where a part
// of the name ends means all that begins so: "layers.0", "layers.*.mixer", "*.mixer.q_proj".
bool matches(std::string_view pattern, std::string_view name);

}  // namespace refrain
