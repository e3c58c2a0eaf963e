#include "cli/bench/flops.h"

#include <algorithm>

#include "refrain/mixers/attention/attention.h"

namespace refrain::cli::bench {
namespace {

// Keys that the queries of a sequence see, on average.
double mean_keys(const AttentionConfig& config, int64_t length) {
  int64_t keys = 0;
  for (int64_t t = 0; t < length; ++t) {
    const int64_t before = t + 1,
                  near = config.window > 0 ? std::min(config.window, before) : before;
    keys += near + (config.stride > 0 ? (before - near) / config.stride : 0);
  }
  return static_cast<double>(keys) / static_cast<double>(length);
}

}  // namespace

double mixing_operations(const std::string& kind, const MixerShape& shape, const Options& options,
                         int64_t length, size_t state_bytes) {
  if (kind != "attention") return 4 * static_cast<double>(state_bytes) / sizeof(float);
  return 4 * mean_keys(options.get<AttentionConfig>("attention."), length) *
         static_cast<double>(shape.heads * shape.head_dim);
}

double model_operations(const LanguageModel& model, int64_t length) {
  const ModelConfig& config = model.config();
  int64_t parameters = model.parameters();
  if (!config.tie_embeddings) parameters -= config.vocab_size * config.d_model;
  double operations = 2 * static_cast<double>(parameters);
  const std::vector<std::string> kinds = config.mixers();
  for (size_t l = 0; l < kinds.size(); ++l)
    operations += mixing_operations(kinds[l], config.mixer_shape(), model.mixer_settings(), length,
                                    model.state_bytes(static_cast<int64_t>(l), length));
  return operations;
}

}  // namespace refrain::cli::bench
