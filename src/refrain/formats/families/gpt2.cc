#include "refrain/formats/families/gpt2.h"

#include <array>
#include <limits>

#include "refrain/base/error.h"
#include "refrain/formats/families/config_checks.h"
#include "refrain/formats/families/llama_keys.h"
#include "refrain/formats/special_tokens.h"
#include "refrain/mixers/attention/attention.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kMixer = "attention";
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// Sizes by both their names, and the small model's, which absent ones are.
struct Size {
  std::string_view key, ours;
  int64_t ModelConfig::*field;
  int64_t absent;
};
constexpr std::array kSizes = {
    Size{"vocab_size", "vocab_size", &ModelConfig::vocab_size, 50257},
    Size{"n_positions", "context", &ModelConfig::context, 1024},
    Size{"n_embd", "d_model", &ModelConfig::d_model, 768},
    Size{"n_layer", "layers", &ModelConfig::layers, 12},
    Size{"n_head", "heads", &ModelConfig::heads, 12},
    Size{"n_inner", "d_ff", &ModelConfig::d_ff, 0},  // 4 n_embd, as here
};

// Names of transformers for a function, and ours; the first is written.
struct Function {
  std::string_view key, ours;
};
constexpr std::array kFunctions = {Function{"gelu_new", "gelu_tanh"},
                                   Function{"gelu_pytorch_tanh", "gelu_tanh"},
                                   Function{"gelu", "gelu"}, Function{"relu", "relu"}};

// Read one by one, or without effect on what is computed from the tensors.
constexpr auto kRead =
    std::to_array<std::string_view>({"activation_function", "architectures", "layer_norm_epsilon",
                                     "model_type", "tie_word_embeddings"});
constexpr auto kIndifferent = std::to_array<std::string_view>(
    {"attn_pdrop", "embd_pdrop", "gradient_checkpointing", "initializer_range", "n_ctx",
     "reorder_and_upcast_attn", "resid_pdrop", "summary_activation", "summary_first_dropout",
     "summary_proj_to_labels", "summary_type", "summary_use_proj", "task_specific_params"});
// They change what is computed; the only values that are supported.
Json fixed() {
  return {{"add_cross_attention", false},
          {"is_encoder_decoder", false},
          {"scale_attn_by_inverse_layer_idx", false},
          {"scale_attn_weights", true},
          {"tie_encoder_decoder", false}};
}

void check_settings(const Json& json, const std::string& name, std::vector<std::string>& unknown) {
  const Json only = fixed();
  for (const auto& [key, value] : json.items()) {
    const std::string_view known = key;
    const bool is_size =
        std::ranges::any_of(kSizes, [&](const Size& size) { return size.key == known; });
    if (value.is_null() || is_size) continue;
    if (const Json* expected = io::find(only, known)) {
      expect_value(value, *expected, fmt::format("{}: {}", name, key));
    } else if (known == "architectures") {
      check_architectures(value, fmt::format("{}: {}", name, key), "GPT2", "LMHeadModel");
    } else if (contains(kRead, known) || contains(kIndifferent, known) ||
               contains(kLlamaIndifferent, known) || contains(kSpecialTokenKeys, known)) {
      continue;
    } else if (!contains(kLlamaRefused, known)) {
      unknown.push_back(key);
    } else if (!says_nothing(value)) {
      refuse_setting(name, key, value);
    }
  }
}

std::string read_function(const Json& json, const std::string& name) {
  constexpr const char* kKey = "activation_function";
  if (!io::find(json, kKey)) return std::string(kFunctions[0].ours);
  const std::string found = io::get_string(json, kKey, name);
  for (const Function& function : kFunctions)
    if (function.key == found) return std::string(function.ours);
  throw_error("{}: {}: expected gelu_new, gelu_pytorch_tanh, gelu or relu, found {}", name, kKey,
              io::quote(found));
}

// What all blocks have.
AttentionConfig plain_attention() { return {.qkv_bias = true, .output_bias = true, .rope = false}; }

ModelConfig parse(const Json& json, const std::string& name, const Notes& notes) {
  std::vector<std::string> unknown;
  check_settings(json, name, unknown);
  ModelConfig config;
  for (const Size& size : kSizes)
    config.*size.field =
        io::find(json, size.key) ? io::get_int(json, size.key, name, 1, kMost) : size.absent;
  config.rms_norm_eps = io::get_number(json, "layer_norm_epsilon", name, 1e-5);
  config.tie_embeddings = io::get_bool(json, "tie_word_embeddings", name, true);
  config.feed_forward = read_function(json, name);
  config.feed_forward_bias = true;
  config.norm = "layer_norm";
  config.learned_positions = true;
  config.pattern = kMixer;
  try {
    config.resolve();
  } catch (const Error& error) {
    std::string message = error.what();
    for (const Size& size : kSizes)
      if (message.starts_with(std::string(size.ours) + ":"))
        message.replace(0, size.ours.size(), size.key);
    throw_error("{}: {}", name, message);
  }
  config.mixers.assign(static_cast<size_t>(config.layers), {kMixer, plain_attention()});
  note_unknown(unknown, name, notes);
  return config;
}

bool is_gpt2(const ModelConfig& config) {
  if (config.bare() || config.gated() || !config.centred() || !config.learned_positions)
    return false;
  if (!config.feed_forward_bias || config.activation_precision != "accurate") return false;
  if (config.kv_heads != config.heads || config.heads * config.head_dim != config.d_model)
    return false;
  return std::ranges::all_of(config.mixers, [](const MixerConfig& mixer) {
    if (mixer.kind() != kMixer) return false;
    AttentionConfig expected = plain_attention();  // without rotary positions these mean nothing
    expected.rope_theta = mixer.as<AttentionConfig>().rope_theta;
    expected.rope_pairing = mixer.as<AttentionConfig>().rope_pairing;
    return mixer.as<AttentionConfig>() == expected;
  });
}

std::optional<Json> write(const ModelConfig& config) {
  if (!is_gpt2(config)) return {};
  Json json = {{"architectures", Json::array({"GPT2LMHeadModel"})}, {"model_type", "gpt2"}};
  for (const Size& size : kSizes) json[std::string(size.key)] = config.*size.field;
  for (const Function& function : kFunctions)
    if (function.ours == config.feed_forward && !json.contains("activation_function"))
      json["activation_function"] = function.key;
  json["layer_norm_epsilon"] = config.rms_norm_eps;
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["dtype"] = "float32";
  return json;
}

}  // namespace

const Family kGpt2Family = {"gpt2", parse, write, &kGpt2Tensors};

}  // namespace refrain
