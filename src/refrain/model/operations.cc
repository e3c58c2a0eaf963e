#include "refrain/model/operations.h"

#include <algorithm>

#include "refrain/mixers/attention/attention.h"

namespace refrain {
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

std::vector<BlockOperations> block_operations(LanguageModel& model, int64_t length) {
  const ModelConfig& config = model.config();
  const std::vector<std::string> kinds = config.mixers();
  std::vector<BlockOperations> all(kinds.size());
  const std::string blocks = "model.layers.";
  model.visit([&](const ParamSpec& spec, Param&) {
    if (!spec.name.starts_with(blocks)) return;
    const size_t dot = spec.name.find('.', blocks.size());
    BlockOperations& block = all[std::stoul(spec.name.substr(blocks.size(), dot - blocks.size()))];
    const bool feed_forward = spec.name.compare(dot, 5, ".mlp.") == 0;
    (feed_forward ? block.feed_forward : block.mixer) += 2 * static_cast<double>(spec.size());
  });
  for (size_t l = 0; l < kinds.size(); ++l)
    all[l].mixer += mixing_operations(kinds[l], config.mixer_shape(), model.mixer_settings(),
                                      length, model.state_bytes(static_cast<int64_t>(l), length));
  return all;
}

double head_operations(const ModelConfig& config) {
  return 2 * static_cast<double>(config.vocab_size * config.d_model);
}

int64_t head_rows(const ModelConfig& config) {
  constexpr int64_t kFloats = int64_t{1} << 18;
  return std::max<int64_t>(256, kFloats / config.vocab_size);
}

double model_operations(LanguageModel& model, int64_t length) {
  double operations = head_operations(model.config());
  for (const BlockOperations& block : block_operations(model, length))
    operations += block.mixer + block.feed_forward;
  return operations;
}

}  // namespace refrain
