#include "refrain/model/config.h"

#include <map>
#include <set>
#include <sstream>

#include "refrain/base/expect_in.h"

namespace refrain {
namespace {

std::vector<std::string> split(const std::string& pattern) {
  std::vector<std::string> words;
  std::istringstream text(pattern);
  for (std::string word; text >> word;) words.push_back(word);
  return words;
}

// The words of a pattern, one per block.
std::vector<std::string> words_of(const std::string& pattern, int64_t layers) {
  std::vector<std::string> words = split(pattern);
  if (words.empty()) throw_error("pattern: expected the name of a mixer, found none");
  const size_t period = words.size();
  for (size_t i = period; i < static_cast<size_t>(layers); ++i) words.push_back(words[i % period]);
  words.resize(static_cast<size_t>(layers));
  return words;
}

std::string kind_of(const std::string& word) { return word.substr(0, word.find(':')); }

// "attention:window=256,stride=64"
MixerConfig parse_word(const std::string& word, const SettingMap& settings) {
  const std::string kind = kind_of(word);
  if (kind == word) return parse_mixer(kind, settings);
  mixer_traits(kind);  // an Error for one that does not exist
  std::set<std::string> known;
  visit_mixer_settings([&](const MixerSetting& setting) { known.insert(setting.name); });
  SettingMap own = settings;
  std::set<std::string> given;
  for (size_t comma = kind.size(); comma != word.npos;) {
    const size_t begin = comma + 1;
    comma = word.find(',', begin);
    const std::string setting = word.substr(begin, comma - begin);
    const size_t equals = setting.find('=');
    const std::string name = kind + "." + setting.substr(0, equals);
    if (equals == setting.npos || !known.contains(name))
      throw_error("pattern: {:.60}: expected settings of {} (name=value,...), found '{:.60}'", word,
                  kind, setting);
    if (!given.insert(name).second)
      throw_error("pattern: {:.60}: expected every setting once, found {} twice", word, name);
    own.set(name, setting.substr(equals + 1));
  }
  return parse_mixer(kind, own);
}

// Whether the pattern says of each block its kind, and no more. It need not: mixers may be given
// beside it.
bool names_kinds(const std::string& pattern, const std::vector<MixerConfig>& mixers) {
  const std::vector<std::string> kinds = split(pattern);
  if (kinds.empty()) return false;
  for (size_t i = 0; i < mixers.size(); ++i)
    if (kinds[i % kinds.size()] != mixers[i].kind()) return false;
  return pattern.find(':') == pattern.npos;
}

}  // namespace

void ModelConfig::resolve(const SettingMap& settings) {
  expect_in("vocab_size", vocab_size, 1, int64_t{1} << 24);
  expect_in("d_model", d_model, 1, int64_t{1} << 16);
  expect_in("layers", layers, 1, 4096);
  expect_in("heads", heads, 1, 4096);
  expect_in("kv_heads", kv_heads, 0, 4096);
  expect_in("head_dim", head_dim, 0, 4096);
  expect_in("d_ff", d_ff, 0, int64_t{1} << 20);
  expect_in("context", context, 1, int64_t{1} << 24);
  if (!(rms_norm_eps >= 0 && rms_norm_eps < 1))
    throw_error("rms_norm_eps: expected 0 to 1, found {}", rms_norm_eps);
  if (head_dim == 0) {
    if (d_model % heads != 0)
      throw_error("heads: expected a divisor of d_model = {}, found {}", d_model, heads);
    head_dim = d_model / heads;
    expect_in("head_dim", head_dim, 1, 4096);
  }
  if (kv_heads == 0) kv_heads = heads;
  if (heads % kv_heads != 0)
    throw_error("kv_heads: expected a divisor of heads = {}, found {}", heads, kv_heads);
  if (!gated() && !plain_activation())
    throw_error("feed_forward: expected swiglu, gelu, gelu_tanh or relu, found '{}'", feed_forward);
  if (feed_forward_bias && gated())
    throw_error(
        "feed_forward_bias: expected --feed-forward gelu, gelu_tanh or relu with it, found swiglu");
  if (norm != "rms_norm" && norm != "layer_norm")
    throw_error("norm: expected rms_norm or layer_norm, found '{}'", norm);
  if (d_ff == 0) d_ff = gated() ? (8 * d_model / 3 + 31) / 32 * 32 : 4 * d_model;
  if (!kernels::activation_precision_named(activation_precision))
    throw_error("activation_precision: expected accurate or fast, found '{}'",
                activation_precision);
  if (block != "pre_norm" && block != "bare")
    throw_error("block: expected pre_norm or bare, found '{}'", block);
  if (mixers.empty()) mixers = parse_pattern(pattern, layers, settings);
  REFRAIN_CHECK(std::ssize(mixers) == layers);
}

FeedForward::Options ModelConfig::feed_forward_options() const {
  return {.activation = plain_activation(), .bias = feed_forward_bias, .precision = precision()};
}

std::optional<kernels::Activation> ModelConfig::plain_activation() const {
  if (feed_forward == "gelu") return kernels::Activation::kGelu;
  if (feed_forward == "gelu_tanh") return kernels::Activation::kGeluTanh;
  if (feed_forward == "relu") return kernels::Activation::kRelu;
  return std::nullopt;
}

std::vector<std::string> ModelConfig::mixer_kinds() const {
  std::vector<std::string> kinds;
  if (mixers.empty())
    for (const std::string& word : words_of(pattern, layers)) kinds.push_back(kind_of(word));
  for (const MixerConfig& mixer : mixers) kinds.push_back(mixer.kind());
  return kinds;
}

SettingMap ModelConfig::mixer_settings() const {
  SettingMap all;
  std::set<std::string> kinds;
  for (const MixerConfig& mixer : mixers)
    if (kinds.insert(mixer.kind()).second) put_mixer_settings(mixer, all);
  return all;
}

std::string ModelConfig::full_pattern() const {
  const SettingMap first = mixer_settings();
  std::string words;
  bool alike = true;
  for (const MixerConfig& mixer : mixers) {
    words += (words.empty() ? "" : " ") + mixer.kind();
    SettingMap own;
    put_mixer_settings(mixer, own);
    char separator = ':';
    for (const auto& [name, value] : own.values()) {
      if (first.values().at(name) == value) continue;
      words += separator + name.substr(mixer.kind().size() + 1) + "=" + value;
      separator = ',';
      alike = false;
    }
  }
  return alike && names_kinds(pattern, mixers) ? pattern : words;
}

std::vector<MixerConfig> parse_pattern(const std::string& pattern, int64_t layers,
                                       const SettingMap& settings) {
  std::map<std::string, MixerConfig> known;  // also of words that a short stack has no block for
  for (const std::string& word : split(pattern))
    if (!known.contains(word)) known[word] = parse_word(word, settings);
  std::vector<MixerConfig> mixers;
  for (const std::string& word : words_of(pattern, layers)) mixers.push_back(known.at(word));
  return mixers;
}

ModelConfig with_settings(ModelConfig config, const SettingMap& settings) {
  config.mixers.clear();
  config.resolve(settings);
  return config;
}

}  // namespace refrain
