// Parts of a model by which parameters are counted and compared.
#pragma once
#include <string>
#include <string_view>

namespace refrain::cli {

// "embedding", "mixers", "feed_forward", "norms" or "head", from a parameter's name.
inline std::string group_of(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
  if (has("embed_tokens")) return "embedding";
  if (has("lm_head")) return "head";
  if (has(".self_attn.")) return "mixers";
  if (has(".mlp.")) return "feed_forward";
  return "norms";
}

}  // namespace refrain::cli
