// The configuration of a decoder language model, apart from its weights.
#pragma once
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "refrain/base/setting_map.h"
#include "refrain/layers/feed_forward.h"
#include "refrain/mixers/dims.h"
#include "refrain/mixers/registry.h"

namespace refrain {

struct ModelConfig {
  int64_t vocab_size = 0;
  int64_t d_model = 128;
  int64_t layers = 4;
  int64_t heads = 4;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  int64_t d_ff = 0;
  int64_t context = 256;
  bool tie_embeddings = false;
  double rms_norm_eps = 1e-5;
  std::string pattern = kDefaultMixer;
  std::string block = "pre_norm";
  std::string feed_forward = "swiglu";
  bool feed_forward_bias = false;
  std::string norm = "rms_norm";
  std::string activation_precision = "accurate";
  bool learned_positions = false;

  // The mixer of each block with its settings. If empty, resolve() fills it from `pattern`.
  std::vector<MixerConfig> mixers{};

  template <class V>
  void visit(V&& v) {
    v("vocab_size", vocab_size, "tokens in the vocabulary; 0 = the tokenizer's");
    v("d_model", d_model, "width of the residual stream");
    v("layers", layers, "blocks in the stack");
    v("heads", heads, "heads of a mixer");
    v("kv_heads", kv_heads, "key/value heads; 0 = heads");
    v("head_dim", head_dim, "width of a head; 0 = d_model / heads");
    v("d_ff", d_ff,
      "width of the feed-forward layer; 0 = 8/3 d_model, rounded up to 32, or 4 d_model without a "
      "gate");
    v("context", context, "tokens of a training sequence");
    v("tie_embeddings", tie_embeddings, "the output matrix is the embedding");
    v("rms_norm_eps", rms_norm_eps, "added to the mean square");
    v("pattern", pattern,
      "mixers of the blocks, repeated to fill the stack: \"gla gla attention\"; one with settings "
      "of its own: \"attention:window=256,stride=64 attention\"");
    v("block", block,
      "pre_norm: norm, mixer, norm, feed-forward, both halves residual; bare: the mixer alone, no "
      "norm before the output, whose matrix has a bias");
    v("feed_forward", feed_forward,
      "swiglu: gated by silu; gelu, gelu_tanh (GPT-2's) or relu: one map, this function, another");
    v("feed_forward_bias", feed_forward_bias, "biases in both maps, without a gate");
    v("norm", norm, "rms_norm, or layer_norm, with a mean and a bias; both add rms_norm_eps");
    v("activation_precision", activation_precision,
      "of tanh, sigmoid and silu: accurate; fast: a rational tanh, off by up to 0.0235, and an "
      "exponential clamped to +-88");
    v("learned_positions", learned_positions,
      "a learned vector for each of the first `context` positions is added to the embedding; no "
      "sequence may be longer");
  }

  // Replaces 0 by the value that it stands for, and checks the rest; an Error names the setting.
  void resolve(const SettingMap& settings = {});

  bool bare() const { return block == "bare"; }
  bool gated() const { return feed_forward == "swiglu"; }
  bool centred() const { return norm == "layer_norm"; }
  std::optional<kernels::Activation> plain_activation() const;  // without a gate
  FeedForward::Options feed_forward_options() const;
  std::vector<std::string> mixer_kinds() const;  // one per block

  // The mixers as text again: the settings of the first block of each kind, and the pattern, with
  // the settings that differ in other blocks.
  SettingMap mixer_settings() const;
  std::string full_pattern() const;
  kernels::ActivationPrecision precision() const {
    return kernels::activation_precision_named(activation_precision).value();
  }
  MixerDims mixer_dims() const {
    return {.d_model = d_model,
            .heads = heads,
            .kv_heads = kv_heads,
            .head_dim = head_dim,
            .context = context,
            .blocks = layers,
            .activation_precision = precision(),
            .norm_eps = rms_norm_eps};
  }
};

// The mixers that a pattern names for so many layers. `settings`: settings of the kinds
// ("attention.window"), for what a word of the pattern does not set.
std::vector<MixerConfig> parse_pattern(const std::string& pattern, int64_t layers,
                                       const SettingMap& settings);

// `config` resolved with these settings of mixers.
ModelConfig with_settings(ModelConfig config, const SettingMap&);

}  // namespace refrain
