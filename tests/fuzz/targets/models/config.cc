// config.json of a model, and the shapes of its weights.
#include "fuzz/target.h"
#include "fuzz/tiny.h"
#include "refrain/formats/checkpoint.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) {
  const ModelDescription read = parse_model_config(io::parse_json(input, "config.json"), "input");
  const io::Json written = to_json(read);
  expect(to_json(parse_model_config(written, "written")) == written,
         "what was written reads as something else");
  if (read.config.layers <= 8) LanguageModel(read.config, LanguageModel::Memory::kLater);
}

std::vector<std::string> seeds() {
  std::vector<std::string> all;
  for (const char* pattern :
       {"attention", "gla attention", "lstm", "gru rnn", "mm_rec", "attention_rnn",
        "attention:rope_scaling=llama3,rope_factor=4", "attention:window=4 attention",
        "attention:qkv_bias=true", "attention:qk_norm=true,window=4 attention:qk_norm=true",
        "attention attention:rope=false"}) {
    const auto model = tiny_model(pattern);
    save_config(folder().path(), *model, {.bos = 1, .eos = 2});
    all.push_back(bytes_of(folder() / "config.json"));
  }
  all.emplace_back(R"({"model_type": "mistral", "architectures": ["MistralForCausalLM"],
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
    "num_key_value_heads": 1, "vocab_size": 8, "max_position_embeddings": 16,
    "sliding_window": 4, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": false, "torch_dtype": "float32", "eos_token_id": [2, 3]})");
  all.emplace_back(R"({"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "n_embd": 8,
    "n_inner": null, "n_layer": 1, "n_head": 2, "n_positions": 16, "vocab_size": 8,
    "activation_function": "gelu_new", "layer_norm_epsilon": 1e-5, "scale_attn_weights": true,
    "summary_type": "cls_index", "bos_token_id": 1, "eos_token_id": 2})");
  return all;
}

const Register registered({"config", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
