// Parts of a model by which parameters are counted and compared.
#pragma once
#include <string>
#include <string_view>

namespace refrain {

// "embedding", "mixers", "feed_forward", "norms" or "head", from a parameter's name.
inline std::string group_of(std::string_view name) {
  const auto has = [&](std::string_view part) { return name.find(part) != name.npos; };
  if (has("embedding.")) return "embedding";
  if (has("head.")) return "head";
  if (has(".mixer.")) return "mixers";
  if (has(".feed_forward.")) return "feed_forward";
  return "norms";
}

}  // namespace refrain
