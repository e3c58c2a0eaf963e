#include "refrain/formats/families/llama.h"

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <utility>

#include "refrain/base/error.h"
#include "refrain/formats/families/config_checks.h"
#include "refrain/formats/families/llama_keys.h"
#include "refrain/formats/families/rope_settings.h"
#include "refrain/formats/special_tokens.h"
#include "refrain/mixers/attention/attention.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kMixer = "attention";
constexpr int64_t kMost = std::numeric_limits<int32_t>::max();

// What a family has that others have not, and what it means by leaving a setting out; 0 stands for
// what ModelConfig makes of it.
struct Dialect {
  std::string_view model_type, name;  // "qwen2", "Qwen2" of Qwen2ForCausalLM
  int64_t kv_heads = 0, head_dim = 0, context = 2048;
  double rope_theta = 10000;
  bool tied = false;
  enum Biases { kNone, kByKey, kQkv } biases = kNone;  // by key: attention_bias, of the output too
  bool qk_norm = false;
  // In all blocks or none; in some, by layer_types; the same and only if use_sliding_window.
  enum Windows { kNoWindow, kUniform, kByLayer, kSwitched } windows = kNoWindow;
  std::optional<int64_t> window{};  // if it does not say
  bool lacks_rope = false;          // some blocks, by no_rope_layers
};

constexpr Dialect kLlama{.model_type = "llama", .name = "Llama", .biases = Dialect::kByKey};
constexpr Dialect kMistral{.model_type = "mistral",
                           .name = "Mistral",
                           .kv_heads = 8,
                           .context = 131072,
                           .windows = Dialect::kUniform,
                           .window = 4096};
constexpr Dialect kMinistral{.model_type = "ministral",
                             .name = "Ministral",
                             .kv_heads = 8,
                             .context = 131072,
                             .windows = Dialect::kByLayer,
                             .window = 4096};
constexpr Dialect kQwen2{.model_type = "qwen2",
                         .name = "Qwen2",
                         .kv_heads = 32,
                         .context = 32768,
                         .biases = Dialect::kQkv,
                         .windows = Dialect::kSwitched,
                         .window = 4096};
constexpr Dialect kQwen3{.model_type = "qwen3",
                         .name = "Qwen3",
                         .kv_heads = 32,
                         .head_dim = 128,
                         .context = 32768,
                         .biases = Dialect::kByKey,
                         .qk_norm = true,
                         .windows = Dialect::kSwitched,
                         .window = 4096};
constexpr Dialect kSmolLm3{.model_type = "smollm3",
                           .name = "SmolLM3",
                           .kv_heads = 4,
                           .context = 32768,
                           .rope_theta = 2e6,
                           .tied = true,
                           .biases = Dialect::kByKey,
                           .windows = Dialect::kSwitched,
                           .lacks_rope = true};

// From this block on a Qwen has its window, where layer_types does not say, and it neither.
constexpr int64_t kMaxWindowLayers = 28;
constexpr int64_t kNoRopeInterval = 4;  // of SmolLM3

// Sizes by both their names. `required`: there is no model without.
struct Size {
  std::string_view key, ours;
  int64_t ModelConfig::*field;
  int64_t Dialect::*absent = nullptr;
};
constexpr std::array kSizes = {
    Size{"vocab_size", "vocab_size", &ModelConfig::vocab_size},
    Size{"hidden_size", "d_model", &ModelConfig::d_model},
    Size{"intermediate_size", "d_ff", &ModelConfig::d_ff},
    Size{"num_hidden_layers", "layers", &ModelConfig::layers},
    Size{"num_attention_heads", "heads", &ModelConfig::heads},
    Size{"num_key_value_heads", "kv_heads", &ModelConfig::kv_heads, &Dialect::kv_heads},
    Size{"head_dim", "head_dim", &ModelConfig::head_dim, &Dialect::head_dim},
    Size{"max_position_embeddings", "context", &ModelConfig::context, &Dialect::context},
};

// resolve(), whose errors start with our name of a setting, in this file's names.
void resolve_named(ModelConfig& config, const std::string& name) {
  try {
    config.resolve();
  } catch (const Error& error) {
    std::string message = error.what();
    for (const Size& size : kSizes)
      if (message.starts_with(std::string(size.ours) + ":"))
        message.replace(0, size.ours.size(), size.key);
    throw_error("{}: {}", name, message);
  }
}

// Settings that the family has, and others must not use.
bool is_of(const Dialect& dialect, std::string_view key, bool no_window) {
  if (key == "attention_bias") return dialect.biases == Dialect::kByKey;
  if (key == "sliding_window") return dialect.windows != Dialect::kNoWindow || no_window;
  if (key == "max_window_layers") return dialect.windows == Dialect::kSwitched || no_window;
  if (key == "use_sliding_window") return dialect.windows == Dialect::kSwitched;
  if (key == "no_rope_layers" || key == "no_rope_layer_interval") return dialect.lacks_rope;
  return std::ranges::any_of(kSizes, [&](const Size& size) { return size.key == key; });
}

// Refuses what is known and cannot be honoured; what is unknown goes into the list.
void check_settings(const Json& json, const std::string& name, const Dialect& dialect,
                    std::vector<std::string>& unknown) {
  const Json fixed = llama_fixed();
  const Json* slides = io::find(json, "use_sliding_window");
  const bool no_window = dialect.windows == Dialect::kNoWindow && slides && *slides == Json(false);
  for (const auto& [key, value] : json.items()) {
    const std::string_view known = key;
    const std::string where = fmt::format("{}: {}", name, key);
    if (value.is_null() || is_of(dialect, known, no_window)) continue;  // null says nothing
    if (const Json* expected = io::find(fixed, known)) {
      expect_value(value, *expected, where);
    } else if (known == "architectures") {
      check_architectures(value, where, dialect.name, "ForCausalLM");
    } else if (contains(kLlamaRead, known) || contains(kSpecialTokenKeys, known) ||
               contains(kLlamaIndifferent, known)) {
      continue;
    } else if (!contains(kLlamaRefused, known)) {
      unknown.push_back(key);
    } else if (!says_nothing(value)) {
      refuse_setting(name, key, value);
    }
  }
}

// The window of the blocks that have one; 0: none has.
int64_t read_window(const Json& json, const std::string& name, const Dialect& dialect) {
  if (dialect.windows == Dialect::kNoWindow) return 0;
  if (dialect.windows == Dialect::kSwitched &&
      !io::get_bool(json, "use_sliding_window", name, false))
    return 0;
  if (!json.contains("sliding_window")) return dialect.window.value_or(0);
  return io::find(json, "sliding_window") ? io::get_int(json, "sliding_window", name, 1, kMost) : 0;
}

// Whether each block has rotary positions.
std::vector<bool> read_rope_layers(const Json& json, const std::string& name,
                                   const Dialect& dialect, int64_t layers) {
  std::vector<bool> rope(static_cast<size_t>(layers), true);
  if (!dialect.lacks_rope) return rope;
  const std::string where = name + ": no_rope_layers";
  const Json* list = io::find(json, "no_rope_layers");
  const int64_t interval = io::find(json, "no_rope_layer_interval")
                               ? io::get_int(json, "no_rope_layer_interval", name, 1, kMost)
                               : kNoRopeInterval;
  if (list && (!list->is_array() || std::cmp_less(list->size(), layers)))
    throw_error("{}: expected a list of {} numbers, one for each layer, found {}", where, layers,
                list->is_array() ? std::to_string(list->size()) : io::describe(*list));
  for (int64_t l = 0; l < layers; ++l) {
    const auto at = static_cast<size_t>(l);
    rope[at] = (l + 1) % interval != 0;
    if (!list) continue;
    if ((*list)[at] != Json(0) && (*list)[at] != Json(1))
      throw_error("{}: expected 1 (rotary positions) or 0 (none), found {}", where,
                  io::describe((*list)[at]));
    rope[at] = (*list)[at] == Json(1);
  }
  return rope;
}

// Whether each block has the window, if the family's blocks may differ.
std::vector<bool> read_layer_windows(const Json& json, const std::string& name,
                                     const Dialect& dialect, const std::vector<bool>& rope,
                                     int64_t window) {
  const auto layers = std::ssize(rope);
  std::vector<bool> slides(rope.size(), window > 0);
  const bool mixes = dialect.windows == Dialect::kByLayer || dialect.windows == Dialect::kSwitched;
  if (dialect.windows == Dialect::kSwitched && window > 0) {
    const int64_t first = io::find(json, "max_window_layers")
                              ? io::get_int(json, "max_window_layers", name, 0, kMost)
                              : kMaxWindowLayers;
    for (size_t l = 0; l < slides.size(); ++l)
      slides[l] = dialect.lacks_rope ? !rope[l] : std::cmp_greater_equal(l, first);
  }
  const Json* types = io::find(json, "layer_types");
  if (!types) return slides;
  const std::string where = name + ": layer_types";
  constexpr const char *kFull = "full_attention", *kSliding = "sliding_attention";
  if (!types->is_array()) throw_error("{}: expected a list, found {}", where, io::describe(*types));
  if (std::ssize(*types) != layers)
    throw_error("{}: expected {} words, one for each layer, found {}", where, layers,
                types->size());
  for (size_t l = 0; l < slides.size(); ++l) {
    const Json& type = (*types)[l];
    if (!mixes || window == 0) {
      expect_value(type, window > 0 ? kSliding : kFull, where);
    } else if (type != Json(kFull) && type != Json(kSliding)) {
      throw_error("{}: expected {} or {}, found {}", where, kFull, kSliding, io::describe(type));
    }
    slides[l] = type == Json(kSliding);
  }
  return slides;
}

ModelConfig parse(const Json& json, const std::string& name, const Dialect& dialect,
                  const Notes& notes) {
  std::vector<std::string> unknown;
  check_settings(json, name, dialect, unknown);

  ModelConfig config;
  for (const Size& size : kSizes)
    config.*size.field = io::find(json, size.key) || !size.absent
                             ? io::get_int(json, size.key, name, 1, kMost)
                             : dialect.*size.absent;
  // As many as heads, where it says that it does not say.
  if (json.contains("num_key_value_heads") && !io::find(json, "num_key_value_heads"))
    config.kv_heads = 0;
  config.rms_norm_eps = io::get_number(json, "rms_norm_eps", name, 1e-6);
  config.tie_embeddings = io::get_bool(json, "tie_word_embeddings", name, dialect.tied);
  config.pattern = kMixer;

  const bool by_key =
      dialect.biases == Dialect::kByKey && io::get_bool(json, "attention_bias", name, false);
  AttentionConfig attention{.qkv_bias = by_key || dialect.biases == Dialect::kQkv,
                            .output_bias = by_key,
                            .qk_norm = dialect.qk_norm};
  read_rope_settings(json, name, dialect.rope_theta, attention, unknown);
  resolve_named(config, name);
  const int64_t window = read_window(json, name, dialect);
  const std::vector<bool> rope = read_rope_layers(json, name, dialect, config.layers);
  const std::vector<bool> slides = read_layer_windows(json, name, dialect, rope, window);
  config.mixers.clear();
  for (size_t l = 0; l < rope.size(); ++l) {
    AttentionConfig one = attention;
    one.window = slides[l] ? window : 0;
    if (!rope[l]) one = without_rope(one);
    config.mixers.emplace_back(kMixer, one);
  }
  note_unknown(unknown, name, notes);
  return config;
}

// A stack that `transformers` would compute as some family: attention alone, alike in all blocks
// but for the window and, of a SmolLM3, rotary positions.
struct Shape {
  AttentionConfig attention;  // of a block with rotary positions; without the window
  int64_t window = 0;         // of the blocks that have one
  std::vector<bool> slides, rope;

  bool all_rope() const { return std::ranges::count(rope, false) == 0; }
  bool some_slide() const { return std::ranges::count(slides, true) > 0; }
  bool all_slide() const { return std::ranges::count(slides, false) == 0; }
};

std::optional<Shape> shape_of(const ModelConfig& config) {
  if (config.bare() || !config.gated() || config.centred() || config.learned_positions) return {};
  if (config.activation_precision != "accurate") return {};
  Shape shape;
  std::optional<AttentionConfig> turned, unturned;
  for (const MixerConfig& mixer : config.mixers) {
    if (mixer.kind() != kMixer) return {};
    AttentionConfig one = mixer.as<AttentionConfig>();
    if (one.window > 0 && shape.window > 0 && one.window != shape.window) return {};
    if (one.window > 0) shape.window = one.window;
    shape.slides.push_back(std::exchange(one.window, 0) > 0);
    shape.rope.push_back(one.rope);
    if (one.stride != 0 || one.rope_pairing != AttentionConfig().rope_pairing) return {};
    std::optional<AttentionConfig>& alike = one.rope ? turned : unturned;
    if (alike && one != *alike) return {};
    alike = one;
  }
  if (!turned) return {};
  AttentionConfig expected = without_rope(*turned);
  if (unturned) expected.rope_theta = unturned->rope_theta;  // which means nothing there
  if (unturned && *unturned != expected) return {};
  shape.attention = *turned;
  return shape;
}

bool writes(const Dialect& dialect, const ModelConfig& config, const Shape& shape) {
  const AttentionConfig& a = shape.attention;
  // All but Qwen3 want this of transformers, even where head_dim says how wide a head is.
  if (!dialect.qk_norm && config.d_model % config.heads != 0) return false;
  if (a.qk_norm != dialect.qk_norm || (!shape.all_rope() && !dialect.lacks_rope)) return false;
  if (dialect.lacks_rope && shape.all_rope()) return false;
  if (dialect.biases == Dialect::kByKey && a.qkv_bias != a.output_bias) return false;
  if (dialect.biases == Dialect::kNone && (a.qkv_bias || a.output_bias)) return false;
  if (dialect.biases == Dialect::kQkv && (!a.qkv_bias || a.output_bias)) return false;
  if (dialect.windows == Dialect::kNoWindow) return !shape.some_slide();
  if (dialect.windows == Dialect::kUniform) return shape.all_slide();
  return true;
}

void put_windows(const Dialect& dialect, const Shape& shape, Json& json) {
  if (dialect.windows == Dialect::kNoWindow) return;
  json["sliding_window"] = shape.some_slide() ? Json(shape.window) : Json();
  if (dialect.windows == Dialect::kUniform) return;
  Json& types = json["layer_types"] = Json::array();
  for (const bool slides : shape.slides)
    types.push_back(slides ? "sliding_attention" : "full_attention");
  if (dialect.windows != Dialect::kSwitched) return;
  json["use_sliding_window"] = shape.some_slide();
  if (dialect.lacks_rope) return;
  // What versions before layer_types read, as far as it can say it.
  int64_t full = 0;
  while (std::cmp_less(full, shape.slides.size()) && !shape.slides[static_cast<size_t>(full)])
    ++full;
  json["max_window_layers"] = full;
}

std::optional<Json> write(const ModelConfig& config, const Dialect& dialect) {
  const std::optional<Shape> shape = shape_of(config);
  if (!shape || !writes(dialect, config, *shape)) return {};
  Json json = {{"architectures", Json::array({std::string(dialect.name) + "ForCausalLM"})},
               {"model_type", std::string(dialect.model_type)}};
  for (const Size& size : kSizes) json[std::string(size.key)] = config.*size.field;
  put_windows(dialect, *shape, json);
  json["hidden_act"] = "silu";
  if (dialect.biases != Dialect::kQkv) json["attention_bias"] = shape->attention.output_bias;
  json["mlp_bias"] = false;
  json["rms_norm_eps"] = config.rms_norm_eps;
  put_rope_settings(shape->attention, json);
  if (dialect.lacks_rope) {
    Json& layers = json["no_rope_layers"] = Json::array();
    for (const bool rope : shape->rope) layers.push_back(rope ? 1 : 0);
  }
  json["tie_word_embeddings"] = config.tie_embeddings;
  json["dtype"] = "float32";
  return json;
}

template <const Dialect& kDialect>
Family family_for() {
  return {kDialect.model_type,
          [](const Json& json, const std::string& name, const Notes& notes) {
            return parse(json, name, kDialect, notes);
          },
          [](const ModelConfig& config) { return write(config, kDialect); }, &kLlamaTensors};
}

}  // namespace

std::span<const Family> llama_families() {
  static const std::array all = {family_for<kLlama>(),     family_for<kMistral>(),
                                 family_for<kMinistral>(), family_for<kQwen2>(),
                                 family_for<kQwen3>(),     family_for<kSmolLm3>()};
  return all;
}

}  // namespace refrain
