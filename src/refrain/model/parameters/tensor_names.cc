#include "refrain/model/parameters/tensor_names.h"

#include <utility>

namespace refrain {
namespace {

using Rename = std::pair<std::string_view, std::string_view>;  // how names begin

constexpr Rename kOfModel[] = {
    {"embedding.", "model.embed_tokens."}, {"norm.", "model.norm."}, {"head.", "lm_head."}};
constexpr Rename kOfBlock[] = {{"mixer_norm.", "input_layernorm."},
                               {"mixer.", "self_attn."},
                               {"feed_forward_norm.", "post_attention_layernorm."},
                               {"feed_forward.", "mlp."}};

template <size_t N>
std::string renamed(std::string_view name, const Rename (&renames)[N]) {
  for (const auto& [ours, theirs] : renames)
    if (name.starts_with(ours)) return std::string(theirs).append(name.substr(ours.size()));
  return std::string(name);
}

}  // namespace

std::string llama_name(std::string_view ours) {
  constexpr std::string_view kLayers = "layers.";
  if (!ours.starts_with(kLayers)) return renamed(ours, kOfModel);
  const size_t dot = ours.find('.', kLayers.size());
  if (dot == ours.npos) return std::string(ours);
  return std::string("model.").append(ours.substr(0, dot + 1)) +
         renamed(ours.substr(dot + 1), kOfBlock);
}

}  // namespace refrain
