#include "refrain/formats/tensor_layout.h"

#include <algorithm>
#include <utility>

#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

using Rename = std::pair<std::string_view, std::string_view>;  // how names begin

constexpr std::string_view kLlamaStack = "model.", kGpt2Stack = "transformer.";

// Part by part.
template <class F>
std::vector<FileTensor> parts_of(const ParamSpec& spec, F&& name_of) {
  if (spec.parts.empty()) return {{name_of(spec.name), spec.shape}};
  std::vector<FileTensor> tensors;
  for (const ParamPart& part : spec.parts) {
    std::vector<int64_t> shape = spec.shape;
    shape[0] = part.rows;
    tensors.push_back({name_of(part.name), shape});
  }
  return tensors;
}

// Takes `begin` away from the front of `name`, and digits; whether it could.
bool skip(std::string_view& name, std::string_view begin) {
  if (!name.starts_with(begin)) return false;
  name.remove_prefix(begin.size());
  return true;
}
bool skip_number(std::string_view& name) {
  const size_t end = std::min(name.find_first_not_of("0123456789"), name.size());
  name.remove_prefix(end);
  return end > 0;
}

// "model.rotary_emb.inv_freq" or "model.layers.<number>.self_attn.rotary_emb.inv_freq": versions of
// transformers saved what follows from rope_theta.
bool is_rotary_table(std::string_view name) {
  constexpr std::string_view kTable = "rotary_emb.inv_freq";
  skip(name, kLlamaStack);
  if (name == kTable) return true;
  return skip(name, "layers.") && skip_number(name) && skip(name, ".self_attn.") && name == kTable;
}

// "transformer.h.<number>.attn.bias" and "masked_bias": which keys a query sees.
bool is_causal_mask(std::string_view name) {
  skip(name, kGpt2Stack);
  return skip(name, "h.") && skip_number(name) && skip(name, ".attn.") &&
         (name == "bias" || name == "masked_bias");
}

constexpr Rename kOfGpt2[] = {{"embedding.", "transformer.wte."},
                              {"position_embedding.", "transformer.wpe."},
                              {"norm.", "transformer.ln_f."},
                              {"head.", "lm_head."}};
constexpr Rename kOfGpt2Block[] = {{"mixer_norm.", "ln_1."},
                                   {"mixer.qkv_proj.", "attn.c_attn."},
                                   {"mixer.o_proj.", "attn.c_proj."},
                                   {"feed_forward_norm.", "ln_2."},
                                   {"feed_forward.up_proj.", "mlp.c_fc."},
                                   {"feed_forward.down_proj.", "mlp.c_proj."}};

template <size_t N>
std::string renamed(std::string_view name, const Rename (&renames)[N]) {
  for (const auto& [ours, theirs] : renames)
    if (name.starts_with(ours)) return std::string(theirs).append(name.substr(ours.size()));
  return std::string(name);
}

std::vector<FileTensor> tensors_of_gpt2(const ParamSpec& spec) {
  std::string_view name = spec.name;
  if (!skip(name, "layers.")) return {{renamed(name, kOfGpt2), spec.shape}};
  const size_t dot = name.find('.');
  FileTensor one{std::string(kGpt2Stack) + "h." + std::string(name.substr(0, dot + 1)) +
                     renamed(name.substr(dot + 1), kOfGpt2Block),
                 spec.shape, spec.shape.size() == 2};
  std::reverse(one.shape.begin(), one.shape.end());
  return {one};
}

}  // namespace

const TensorLayout kOurTensors = {[](const ParamSpec& spec) {
  return parts_of(spec, [](const std::string& name) { return name; });
}};
const TensorLayout kLlamaTensors = {
    [](const ParamSpec& spec) { return parts_of(spec, llama_name); }, kLlamaStack, is_rotary_table};
const TensorLayout kGpt2Tensors = {tensors_of_gpt2, kGpt2Stack, is_causal_mask};

const TensorLayout& layout_of(std::span<const std::string_view> names) {
  const auto has = [&](std::string_view name) { return std::ranges::count(names, name) > 0; };
  if (has("embedding.weight") || has("head.weight")) return kOurTensors;
  for (std::string_view name : {"transformer.wte.weight", "transformer.wpe.weight"})
    if (has(name) || has(name.substr(kGpt2Stack.size()))) return kGpt2Tensors;
  return kLlamaTensors;
}

}  // namespace refrain
