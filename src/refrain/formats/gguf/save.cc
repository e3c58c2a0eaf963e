#include <algorithm>
#include <array>
#include <cmath>
#include <set>
#include <utility>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/formats/family.h"
#include "refrain/formats/gguf/blocks.h"
#include "refrain/formats/gguf/gguf.h"
#include "refrain/formats/gguf/names.h"

namespace refrain {
namespace {

using io::GgufType;

// As llama.cpp counts the types of whole files.
int64_t file_type(GgufType type) {
  switch (type) {
    case GgufType::kF16:
      return 1;
    case GgufType::kQ4_0:
      return 2;
    case GgufType::kQ8_0:
      return 7;
    case GgufType::kBf16:
      return 32;
    default:
      return 0;
  }
}

// What of a config keeps llama.cpp from computing the model.
std::string reason_of(const ModelConfig& config, const std::optional<io::Json>& json) {
  if (json && io::find(*json, "sliding_window"))
    return fmt::format("a window of {} tokens", io::to_line(json->at("sliding_window")));
  if (config.bare()) return "blocks without norms and feed-forward layers";
  std::set<std::string> kinds;
  for (const MixerConfig& mixer : config.mixers) kinds.insert(mixer.kind());
  if (kinds.size() > 1 || !config.gated() || config.centred())
    return fmt::format("blocks of {} with {} and {}", fmt::join(kinds, ", "), config.norm,
                       config.feed_forward);
  return fmt::format("a stack of {} with settings of its own", *kinds.begin());
}

void put_special(const SpecialTokens& special, const Notes& notes, io::GgufKeys& keys) {
  using Key = io::GgufKeys::value_type;
  const auto put = [&](const char* name, int32_t id) {
    if (id < 0) return;
    const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
    std::erase_if(keys, [&](const Key& known) { return known.first == key; });
    keys.emplace_back(key, int64_t{id});
  };
  // What the tokenizer puts before texts is that token.
  const auto adds = std::ranges::find(keys, "tokenizer.ggml.add_bos_token", &Key::first);
  if (adds == keys.end() || adds->second == io::GgufValue(false)) put("bos", special.bos);
  put("eos", special.eos);
  put("padding", special.pad);
  constexpr auto kMore = std::to_array<const char*>({"eot", "eom"});
  for (size_t i = 0; i < std::min(kMore.size(), special.more_eos.size()); ++i)
    put(kMore[i], special.more_eos[i]);
  if (special.more_eos.size() > kMore.size())
    add_note(notes, "{} ids that end a text have no key: {}",
             special.more_eos.size() - kMore.size(),
             fmt::join(std::span(special.more_eos).subspan(kMore.size()), ", "));
}

// The rows of a tensor of float32, one after another.
io::GgufTensorToWrite tensor_of(const std::string& name, GgufType type,
                                const ParameterStore::FileTensor& t, int64_t paired_by) {
  const auto write = [name, type, w = t.w,
                      paired_by](const std::function<void(std::span<const std::byte>)>& put) {
    // Of a vector in another order, the numbers are rows.
    const bool is_vector = w.rank == 1;
    const int64_t columns = is_vector && paired_by > 0 ? 1 : w.cols(), rows = w.size() / columns;
    const io::GgufTypeInfo& info = io::gguf_type_info(type);
    std::vector<std::byte> bytes(static_cast<size_t>(columns / info.numbers) * info.bytes);
    std::vector<float> again(static_cast<size_t>(columns));
    for (int64_t row = 0; row < rows; ++row) {
      const int64_t from = paired_by > 0 ? unpaired_row(row, paired_by) : row;
      quantise(type, {w.data + from * columns, static_cast<size_t>(columns)}, bytes);
      // Halves have an end, and scales are halves.
      dequantise(type, bytes, again);
      for (int64_t i = 0; i < columns; ++i)
        if (!std::isfinite(again[static_cast<size_t>(i)]) ||
            !std::isfinite(w.data[from * columns + i]))
          throw_error("{}: expected finite weights that {} can hold, found {}", name, info.name,
                      w.data[from * columns + i]);
      put(bytes);
    }
  };
  return {name, type, t.shape, write};
}

// The type of one tensor in a file of `type`.
GgufType type_of(const ParameterStore::FileTensor& t, const std::string& name, bool is_output,
                 GgufType type, const Notes& notes) {
  if (t.shape.size() != 2) return GgufType::kF32;
  if (type == GgufType::kQ4_0 && is_output) type = GgufType::kQ8_0;
  const io::GgufTypeInfo& info = io::gguf_type_info(type);
  if (t.shape[1] % info.numbers == 0) return type;
  add_note(notes, "{}: F32, since its rows of {} numbers are no multiple of {}", name, t.shape[1],
           info.numbers);
  return GgufType::kF32;
}

}  // namespace

void require_gguf_model(const ModelConfig& config) {
  const std::optional<io::Json> json = family_of(config).write(config);
  if (!json || !gguf_keys_of(*json))
    throw_error(
        "expected a model that llama.cpp computes (of the shape of a Llama, a Qwen2 or a Qwen3), "
        "found {}",
        reason_of(config, json));
}

void save_gguf(const std::string& path, const LanguageModel& model, const SpecialTokens& special,
               const GgufOptions& options, const Notes& notes) {
  const ModelConfig& config = model.config();
  require_gguf_model(config);
  const io::Json json = *family_of(config).write(config);
  io::GgufKeys keys = *gguf_keys_of(json);
  const std::string architecture = std::get<std::string>(keys.front().second);
  keys.emplace_back("general.file_type", file_type(options.type));
  keys.emplace_back("general.quantization_version", int64_t{2});
  keys.insert(keys.end(), options.tokenizer.begin(), options.tokenizer.end());
  put_special(special, notes, keys);

  std::vector<io::GgufTensorToWrite> tensors;
  for (const ParameterStore::FileTensor& t : model.parameters().file_tensors()) {
    const std::string name = gguf_name(t.name);
    REFRAIN_CHECK(!name.empty() && t.w.data != nullptr);
    const bool is_output =
        name == "output.weight" || (name == "token_embd.weight" && config.tie_embeddings);
    const int64_t paired_by = has_paired_rows(architecture, name) ? config.head_dim : 0;
    tensors.push_back(
        tensor_of(name, type_of(t, name, is_output, options.type, notes), t, paired_by));
  }
  if (const std::vector<float> table = rope_table_of(json); !table.empty())
    tensors.push_back(
        {"rope_freqs.weight", GgufType::kF32, {std::ssize(table)}, [table](const auto& put) {
           put(std::as_bytes(std::span(table)));
         }});
  io::write_gguf(path, keys, tensors);
}

}  // namespace refrain
