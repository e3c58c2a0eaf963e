#include "refrain/formats/gguf/names.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <utility>
#include <vector>

#include "refrain/base/error.h"

namespace refrain {
namespace {

using io::Gguf;
using io::Json;
using Names = std::pair<std::string_view, std::string_view>;  // one's and GGUF's

// Ours are those of model/parameters/tensor_names.h.
constexpr auto kOutsideBlocks = std::to_array<Names>({
    {"embedding", "token_embd"},
    {"norm", "output_norm"},
    {"head", "output"},
});
constexpr auto kInBlocks = std::to_array<Names>({
    {"mixer_norm", "attn_norm"},
    {"feed_forward_norm", "ffn_norm"},
    {"mixer.q_proj", "attn_q"},
    {"mixer.k_proj", "attn_k"},
    {"mixer.v_proj", "attn_v"},
    {"mixer.o_proj", "attn_output"},
    {"mixer.q_norm", "attn_q_norm"},
    {"mixer.k_norm", "attn_k_norm"},
    {"feed_forward.gate_proj", "ffn_gate"},
    {"feed_forward.up_proj", "ffn_up"},
    {"feed_forward.down_proj", "ffn_down"},
});

constexpr auto kArchitectures = std::to_array<std::string_view>({"llama", "qwen2", "qwen3"});

// Sizes by both their names, the second behind "<architecture>.".
constexpr auto kSizes = std::to_array<Names>({
    {"max_position_embeddings", "context_length"},
    {"hidden_size", "embedding_length"},
    {"num_hidden_layers", "block_count"},
    {"intermediate_size", "feed_forward_length"},
    {"num_attention_heads", "attention.head_count"},
});
constexpr const char *kKvHeads = "attention.head_count_kv", *kKeyLength = "attention.key_length",
                     *kValueLength = "attention.value_length",
                     *kEps = "attention.layer_norm_rms_epsilon", *kTheta = "rope.freq_base",
                     *kRotated = "rope.dimension_count", *kVocab = "vocab_size",
                     *kScaling = "rope.scaling.type", *kFactor = "rope.scaling.factor",
                     *kOldFactor = "rope.scale_linear", *kCausal = "attention.causal";
constexpr auto kRead =
    std::to_array<std::string_view>({kKvHeads, kKeyLength, kValueLength, kEps, kTheta, kRotated,
                                     kVocab, kScaling, kFactor, kOldFactor, kCausal});
constexpr const char* kRopeTable = "rope_freqs.weight";

// They change what is computed if they have a value: refused unless false or zero.
constexpr auto kRefused = std::to_array<std::string_view>({
    "attention.alibi_bias_max",
    "attention.clamp_kqv",
    "attention.scale",
    "attention.sliding_window",
    "attn_logit_softcapping",
    "embedding_scale",
    "expert_count",
    "final_logit_softcapping",
    "leading_dense_block_count",
    "logit_scale",
    "residual_scale",
    "use_parallel_residual",
});
// They change nothing here.
constexpr auto kIndifferent = std::to_array<std::string_view>({
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "expert_used_count",
    "tensor_data_layout",
});

bool says_nothing(const io::GgufValue& value) {
  if (const auto* n = std::get_if<int64_t>(&value)) return *n == 0;
  if (const auto* x = std::get_if<double>(&value)) return *x == 0 || *x == 1;
  if (const auto* truth = std::get_if<bool>(&value)) return !*truth;
  return false;
}

// What llama3's scaling divides the frequency of each pair of channels by.
struct Llama3Scaling {
  double factor = 8, low = 1, high = 4;
  int64_t context = 8192;
};
std::vector<double> divisors_of(const Llama3Scaling& s, int64_t d, double theta) {
  std::vector<double> divisors;
  for (int64_t i = 0; i < d / 2; ++i) {
    const double f = std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(d));
    const double turns = static_cast<double>(s.context) * f / (2 * std::numbers::pi);
    const double share = std::clamp((turns - s.low) / (s.high - s.low), 0.0, 1.0);
    divisors.push_back(1 / ((1 - share) / s.factor + share));
  }
  return divisors;
}

// The table of files of Llama 3, whose other settings such files do not have. Those that all
// published models have are tried.
Json scaling_of_table(const Gguf& file, const io::GgufTensor& table, int64_t d, double theta) {
  const std::string where = fmt::format("{}: {}", file.path(), kRopeTable);
  if (table.type != io::GgufType::kF32 || table.shape != std::vector<int64_t>{d / 2})
    throw_error("{}: expected {} numbers of float32, found {} of {}", where, d / 2,
                table.bytes / io::gguf_type_info(table.type).bytes,
                io::gguf_type_info(table.type).name);
  std::vector<float> found(static_cast<size_t>(d / 2));
  file.read(table, 0, std::as_writable_bytes(std::span(found)));
  Llama3Scaling scaling;
  scaling.factor = *std::ranges::max_element(found);
  if (std::ranges::all_of(found, [](float x) { return x == 1; })) return nullptr;
  constexpr double kNear = 1e-4;  // of float32 powers
  const std::vector<double> expected = std::isfinite(scaling.factor) && scaling.factor > 1
                                           ? divisors_of(scaling, d, theta)
                                           : std::vector<double>(found.size());
  for (size_t i = 0; i < found.size(); ++i)
    if (!(std::abs(found[i] - expected[i]) <= kNear * expected[i]))
      throw_error("{}: expected frequencies that are scaled as those of Llama 3, found others",
                  where);
  return {{"rope_type", "llama3"},
          {"factor", scaling.factor},
          {"low_freq_factor", scaling.low},
          {"high_freq_factor", scaling.high},
          {"original_max_position_embeddings", scaling.context}};
}

Json scaling_of(const Gguf& file, const std::string& prefix, int64_t d, double theta) {
  const std::string type = file.get_string(prefix + kScaling, "none");
  const double old = file.get_number(prefix + kOldFactor, 1.0);
  const io::GgufTensor* table = file.find_tensor(kRopeTable);
  if (type != "none" && type != "linear")
    throw_error("{}: {}{}: expected \"none\" or \"linear\", found {}", file.path(), prefix,
                kScaling, io::quote(type));
  if (type == "linear" || old != 1) {
    if (table)
      throw_error("{}: {}: expected no such tensor with linear scaling", file.path(), kRopeTable);
    return {{"rope_type", "linear"}, {"factor", file.get_number(prefix + kFactor, old)}};
  }
  return table ? scaling_of_table(file, *table, d, theta) : Json();
}

void check_keys(const Gguf& file, const std::string& prefix, const Notes& notes) {
  std::vector<std::string> unknown;
  for (const auto& [key, value] : file.keys()) {
    if (!key.starts_with(prefix)) continue;
    const std::string_view name = std::string_view(key).substr(prefix.size());
    const bool is_read = std::ranges::count(kSizes, name, &Names::second) +
                             std::ranges::count(kRead, name) +
                             std::ranges::count(kIndifferent, name) >
                         0;
    if (is_read) continue;
    if (std::ranges::count(kRefused, name) == 0)
      unknown.push_back(key);
    else if (!says_nothing(value))
      throw_error("{}: {}: expected no such setting", file.path(), key);
  }
  if (!file.get_bool(prefix + kCausal, true))
    throw_error("{}: {}{}: expected true, found false", file.path(), prefix, kCausal);
  if (!unknown.empty())
    add_note(notes, "{}: unknown settings left aside: {}", file.path(), fmt::join(unknown, ", "));
}

int64_t get_size(const Gguf& file, const std::string& key, std::optional<int64_t> absent = {}) {
  return file.get_int(key, 1, std::numeric_limits<int32_t>::max(), absent);
}

}  // namespace

std::string gguf_name(std::string_view ours) {
  constexpr std::string_view kBlocks = "layers.";
  const size_t end = ours.rfind('.');  // before weight or bias
  if (end == ours.npos) return "";
  if (!ours.starts_with(kBlocks)) {
    for (const auto& [name, gguf] : kOutsideBlocks)
      if (ours.substr(0, end) == name) return fmt::format("{}{}", gguf, ours.substr(end));
    return "";
  }
  const size_t dot = ours.find('.', kBlocks.size());
  if (end <= dot) return "";
  for (const auto& [name, gguf] : kInBlocks)
    if (ours.substr(dot + 1, end - dot - 1) == name)
      return fmt::format("blk.{}.{}{}", ours.substr(kBlocks.size(), dot - kBlocks.size()), gguf,
                         ours.substr(end));
  return "";
}

bool has_paired_rows(std::string_view architecture, std::string_view name) {
  const size_t end = name.rfind('.');
  return architecture == "llama" &&
         (name.substr(0, end).ends_with(".attn_q") || name.substr(0, end).ends_with(".attn_k"));
}

Json config_of_gguf(const Gguf& file, const Notes& notes) {
  const std::string architecture = file.get_string("general.architecture");
  if (std::ranges::count(kArchitectures, architecture) == 0)
    throw_error("{}: general.architecture: expected {}, found {}", file.path(),
                fmt::join(kArchitectures, ", "), io::quote(architecture));
  const std::string prefix = architecture + ".";
  check_keys(file, prefix, notes);
  const io::GgufTensor* embedding = file.find_tensor("token_embd.weight");
  if (!embedding || embedding->shape.size() != 2)
    throw_error("{}: token_embd.weight: expected a matrix, found {}", file.path(),
                embedding ? "a vector" : "none");
  Json json = {{"model_type", architecture}, {"vocab_size", embedding->shape[0]}};
  if (const int64_t vocab = get_size(file, prefix + kVocab, embedding->shape[0]);
      vocab != embedding->shape[0])
    throw_error("{}: {}{}: expected {}, the rows of token_embd.weight, found {}", file.path(),
                prefix, kVocab, embedding->shape[0], vocab);
  for (const auto& [theirs, gguf] : kSizes)
    json[std::string(theirs)] = get_size(file, prefix + std::string(gguf));
  const auto heads = json["num_attention_heads"].get<int64_t>();
  const auto width = json["hidden_size"].get<int64_t>();
  json["num_key_value_heads"] = get_size(file, prefix + kKvHeads, heads);
  const int64_t d = get_size(file, prefix + kKeyLength, std::max<int64_t>(1, width / heads));
  for (const char* key : {kValueLength, kRotated})
    if (const int64_t other = get_size(file, prefix + key, d); other != d)
      throw_error("{}: {}{}: expected {}, the width of a head, found {}", file.path(), prefix, key,
                  d, other);
  json["head_dim"] = d;
  json["rms_norm_eps"] = file.get_number(prefix + kEps);
  const double theta = file.get_number(prefix + kTheta, 10000.0);
  json["rope_theta"] = theta;
  if (Json scaling = scaling_of(file, prefix, d, theta); !scaling.is_null())
    json["rope_scaling"] = std::move(scaling);
  json["tie_word_embeddings"] = file.find_tensor("output.weight") == nullptr;
  if (architecture != "qwen2")
    json["attention_bias"] = file.find_tensor("blk.0.attn_q.bias") != nullptr;
  return json;
}

namespace {

// How config.json says that angles are scaled; null if they are not. Versions of transformers have
// it under two names.
const Json* scaling_in(const Json& config) {
  for (const char* key : {"rope_scaling", "rope_parameters"})
    if (const Json* found = io::find(config, key); found && found->is_object())
      if (found->value("rope_type", "default") != "default") return found;
  return nullptr;
}

double theta_in(const Json& config) {
  const Json* theta = io::find(config, "rope_theta");
  return (theta ? *theta : config.at("rope_parameters").at("rope_theta")).get<double>();
}

}  // namespace

std::vector<float> rope_table_of(const Json& config) {
  const Json* scaling = scaling_in(config);
  if (!scaling || scaling->at("rope_type") != "llama3") return {};
  const std::vector<double> divisors =
      divisors_of({.factor = scaling->at("factor").get<double>(),
                   .low = scaling->at("low_freq_factor").get<double>(),
                   .high = scaling->at("high_freq_factor").get<double>(),
                   .context = scaling->at("original_max_position_embeddings").get<int64_t>()},
                  config.at("head_dim").get<int64_t>(), theta_in(config));
  return {divisors.begin(), divisors.end()};
}

std::optional<io::GgufKeys> gguf_keys_of(const Json& config) {
  std::string architecture = config.at("model_type").get<std::string>();
  if (architecture == "mistral") architecture = "llama";
  if (std::ranges::count(kArchitectures, architecture) == 0) return {};
  // A window that sees the whole context is none.
  const Json* window = io::find(config, "sliding_window");
  if (window && *window < config.at("max_position_embeddings")) return {};
  if (architecture == "qwen3" && config.value("attention_bias", false)) return {};
  const std::string prefix = architecture + ".";
  io::GgufKeys keys = {{"general.architecture", architecture}, {"general.type", "model"}};
  const auto put = [&](std::string_view key, io::GgufValue value) {
    keys.emplace_back(prefix + std::string(key), std::move(value));
  };
  for (const auto& [theirs, gguf] : kSizes) put(gguf, config.at(theirs).get<int64_t>());
  put(kKvHeads, config.at("num_key_value_heads").get<int64_t>());
  const auto d = config.at("head_dim").get<int64_t>();
  for (const char* key : {kKeyLength, kValueLength, kRotated}) put(key, d);
  put(kVocab, config.at("vocab_size").get<int64_t>());
  put(kEps, config.at("rms_norm_eps").get<double>());
  put(kTheta, theta_in(config));
  if (const Json* scaling = scaling_in(config); scaling && scaling->at("rope_type") == "linear") {
    put(kScaling, "linear");
    put(kFactor, scaling->at("factor").get<double>());
  } else if (scaling && (scaling->at("rope_type") != "llama3" || architecture != "llama")) {
    return {};  // other architectures have no rope_freqs.weight
  }
  return keys;
}

}  // namespace refrain
