#include "refrain/model/parameters/tensor_names.h"

#include <charconv>
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

std::optional<size_t> block_of(std::string_view ours) {
  constexpr std::string_view kLayers = "layers.";
  if (!ours.starts_with(kLayers)) return {};
  ours.remove_prefix(kLayers.size());
  size_t block = 0;
  const auto [end, error] = std::from_chars(ours.data(), ours.data() + ours.size(), block);
  if (error != std::errc() || end == ours.data() + ours.size() || *end != '.') return {};
  return block;
}

bool matches(std::string_view pattern, std::string_view name) {
  // The classic walk: after a mismatch, the last star takes one character more.
  size_t p = 0, n = 0, star = pattern.npos, from = 0;
  while (n < name.size()) {
    if (p == pattern.size() && p > 0 && name[n] == '.') return true;
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      from = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p;
      ++n;
    } else if (star != pattern.npos) {
      p = star + 1;
      n = ++from;
    } else {
      return false;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

}  // namespace refrain
