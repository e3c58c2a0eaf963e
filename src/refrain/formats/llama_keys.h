// The settings in config.json files of Llamas, sorted by their effect here. A setting in no list is
// unknown: it is ignored with a note, since real files have many that change nothing
// (docs/formats.md).
#pragma once
#include <algorithm>
#include <array>
#include <string_view>

#include "refrain/io/json.h"

namespace refrain {

// Read one by one, beside sizes and ids.
inline constexpr auto kLlamaRead = std::to_array<std::string_view>({
    "architectures",
    "layer_types",
    "model_type",
    "rms_norm_eps",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "tie_word_embeddings",
});

// They do not change what is computed from the tensors. They are about training, about other
// programs, about how to compute, or about what to return.
inline constexpr auto kLlamaIndifferent = std::to_array<std::string_view>({
    "_attn_implementation_autoset",
    "_name_or_path",
    "attention_dropout",
    "attn_implementation",
    "chunk_size_feed_forward",
    "dtype",
    "id2label",
    "initializer_range",
    "label2id",
    "max_length",
    "output_attentions",
    "output_hidden_states",
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "tokenizer_class",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
});

// They change what is computed. These are the only values that are supported.
inline io::Json llama_fixed() {
  return {
      {"activation_precision", "accurate"},  // ours, as four more
      {"add_cross_attention", false},
      {"alibi", false},
      {"attention_bias", false},
      {"attention_out_bias", false},
      {"bias", false},
      {"block", "pre_norm"},
      {"embedding_multiplier", 1},
      {"feed_forward", "swiglu"},
      {"feed_forward_bias", false},
      {"hidden_act", "silu"},
      {"hidden_activation", "silu"},
      {"is_causal", true},
      {"is_encoder_decoder", false},
      {"is_llama_config", true},
      {"lm_head_bias", false},
      {"logit_scale", 1},
      {"logits_scaling", 1},
      {"mlp_bias", false},
      {"norm", "rms_norm"},
      {"norm_type", "rms_norm"},
      {"parallel_attn", false},
      {"partial_rotary_factor", 1},
      {"position_embedding_type", "rope"},
      {"qk_layernorm", false},
      {"qk_norm", false},
      {"qkv_bias", false},
      {"residual_multiplier", 1},
      {"rope_interleave", false},
      {"rope_interleaved", false},
      {"rotary_pct", 1},
      {"scale_attn_by_inverse_layer_idx", false},
      {"scale_attn_weights", true},
      {"scale_emb", 1},
      {"scale_embedding", false},
      {"tie_encoder_decoder", false},
      {"use_bias", false},
      {"use_bidirectional_attention", false},
      {"use_parallel_residual", false},
      {"use_qk_norm", false},
      {"use_rope", true},
      {"use_sliding_window", false},
  };
}

// They change what is computed if they have a value: refused unless null, false, zero or empty.
inline constexpr auto kLlamaRefused = std::to_array<std::string_view>({
    // positions, attention and what it sees
    "attention_chunk_size",
    "attention_k_eq_v",
    "attention_multiplier",
    "attention_window",
    "attn_config",
    "attn_logit_softcapping",
    "attn_temperature_tuning",
    "clip_qkv",
    "cross_attention_layers",
    "full_attention_interval",
    "global_rope_theta",
    "key_multiplier",
    "kv_lora_rank",
    "layers_block_type",
    "local_attention",
    "local_rope_theta",
    "logn_attn",
    "max_window_layers",
    "no_rope_layer_interval",
    "no_rope_layers",
    "num_kv_shared_layers",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "query_pre_attn_scalar",
    "rope_local_base_freq",
    "rotary_dim",
    "sliding_window",
    "sliding_window_pattern",
    "sliding_window_size",
    "use_dynamic_ntk",
    "use_logn_attn",
    "v_head_dim",
    // norms, scales and the output
    "dim_model_base",
    "embedding_scale",
    "final_logit_softcapping",
    "layer_norm_eps",
    "layer_norm_epsilon",
    "lm_head_multiplier",
    "mlp_multipliers",
    "norm_eps",
    "norm_epsilon",
    "output_multiplier",
    "post_norm",
    "scale_depth",
    "swiglu_alpha",
    "swiglu_limit",
    "use_post_norm",
    // experts
    "decoder_sparse_step",
    "expert_layer_offset",
    "expert_layer_period",
    "first_k_dense_replace",
    "mlp_layer_types",
    "mlp_only_layers",
    "moe_intermediate_size",
    "moe_k",
    "moe_layer_freq",
    "moe_num_experts",
    "moe_num_shared_experts",
    "moe_topk",
    "n_group",
    "n_routed_experts",
    "n_shared_experts",
    "norm_topk_prob",
    "num_experts",
    "num_experts_per_tok",
    "num_local_experts",
    "num_shared_experts",
    "output_router_logits",
    "routed_scaling_factor",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "scoring_func",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
    "top_k_experts",
    "topk_group",
    "topk_method",
    // weights in another form, parts that are missing or added
    "adapter_config",
    "audio_config",
    "compression_config",
    "hidden_size_per_layer_input",
    "num_mtp_layers",
    "num_nextn_predict_layers",
    "pruned_heads",
    "quantization",
    "quantization_config",
    "sparsity_config",
    "text_config",
    "vision_config",
    "vocab_size_per_layer_input",
});

// In rope_parameters and rope_scaling: angles that are scaled, or others in other layers.
inline constexpr auto kRopeRefused = std::to_array<std::string_view>({
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "chunked_attention",
    "factor",
    "full_attention",
    "high_freq_factor",
    "linear_attention",
    "long_factor",
    "low_freq_factor",
    "mrope_interleaved",
    "mrope_section",
    "mscale",
    "mscale_all_dim",
    "original_max_position_embeddings",
    "short_factor",
    "sliding_attention",
});

template <class Range>
bool contains(const Range& range, std::string_view key) {
  return std::find(std::begin(range), std::end(range), key) != std::end(range);
}

}  // namespace refrain
