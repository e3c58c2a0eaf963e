#include "refrain/model/operations.h"

#include <string>

namespace refrain {

std::vector<BlockOperations> block_operations(LanguageModel& model, int64_t length) {
  std::vector<BlockOperations> all(static_cast<size_t>(model.config().layers));
  const std::string blocks = "layers.";
  model.parameters().visit([&](const ParamSpec& spec, Param&) {
    if (!spec.name.starts_with(blocks)) return;
    const size_t dot = spec.name.find('.', blocks.size());
    BlockOperations& block = all[std::stoul(spec.name.substr(blocks.size(), dot - blocks.size()))];
    const bool feed_forward = spec.name.compare(dot, 14, ".feed_forward.") == 0;
    (feed_forward ? block.feed_forward : block.mixer) += 2 * static_cast<double>(spec.size());
  });
  for (size_t l = 0; l < all.size(); ++l) all[l].mixer += model.mixer(l).mixing_flops(length);
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
