#include "refrain/generate/state_file.h"

#include <algorithm>
#include <cstring>
#include <string_view>

#include "refrain/base/random.h"
#include "refrain/base/setting_map.h"
#include "refrain/io/file.h"
#include "refrain/io/input_file.h"
#include "refrain/mixers/registry.h"

namespace refrain {
namespace {

struct Header {
  char magic[8];
  uint32_t version, cache_type;
  uint64_t model;
  uint64_t tokens, forgotten, begin, position;
  uint64_t draws, low_confidence_streak;
};
static_assert(sizeof(Header) == 72);

using kernels::CacheType;

constexpr std::string_view kMagic = "refrain\n";
constexpr uint32_t kVersion = 2;

uint64_t checksum(std::string_view bytes) { return mix_key(kVersion, bytes); }

// Optimisation moves every weight: a few thousand of them tell checkpoints apart, and a few
// thousand of its adapters.
uint64_t fingerprint(LanguageModel& model) {
  ModelConfig config = model.config();
  config.pattern = config.full_pattern();
  SettingMap settings = config.mixer_settings();
  settings.put("", config);
  std::string text;
  for (const auto& [name, value] : settings.values()) text += name + "=" + value + "\n";
  const auto weights = model.parameters().weights();
  const size_t stride = weights.size() / 4096 + 1;
  for (size_t i = 0; i < weights.size(); i += stride)
    text.append(reinterpret_cast<const char*>(&weights[i]), sizeof(float));
  const auto packed = model.parameters().packed();
  text += kernels::name_of(model.parameters().storage());
  const size_t step = packed.size() / 16384 + 1;
  for (size_t i = 0; i < packed.size(); i += step) text += static_cast<char>(packed[i]);
  if (Lora* lora = model.lora()) {
    for (const ParameterStore::Entry& entry : lora->parameters().entries())
      text += entry.spec.name + "\n";
    lora->adapters().each_part([&](const Adapter::Part& part) {
      text.append(reinterpret_cast<const char*>(&part.scale), sizeof(float));
    });
    const auto adapters = lora->parameters().weights();
    const size_t skip = adapters.size() / 4096 + 1;
    for (size_t i = 0; i < adapters.size(); i += skip)
      text.append(reinterpret_cast<const char*>(&adapters[i]), sizeof(float));
  }
  return mix_key(static_cast<uint64_t>(model.parameters().count()), text);
}

}  // namespace

std::string state_to_bytes(LanguageModel& model, Sequence& sequence) {
  SequenceState& state = sequence.state();
  REFRAIN_CHECK(sequence.begin() + state.position() < sequence.size());
  Header header{{},
                kVersion,
                static_cast<uint32_t>(model.cache_type()),
                fingerprint(model),
                static_cast<uint64_t>(sequence.size()),
                static_cast<uint64_t>(sequence.forgotten()),
                static_cast<uint64_t>(sequence.begin()),
                static_cast<uint64_t>(state.position()),
                sequence.progress.draws,
                static_cast<uint64_t>(sequence.progress.low_confidence_streak)};
  kMagic.copy(header.magic, kMagic.size());
  std::string bytes;
  const auto put = [&](const void* from, size_t n) {
    bytes.append(static_cast<const char*>(from), n);
  };
  put(&header, sizeof(header));
  put(sequence.tokens().data(), sequence.tokens().size_bytes());
  for (int64_t l = 0; l < model.config().layers; ++l)
    put(state.row(static_cast<size_t>(l)), model.state_bytes(l, state.position()));
  const uint64_t sum = checksum(bytes);
  put(&sum, sizeof(sum));
  return bytes;
}

void write_state(const std::string& path, LanguageModel& model, Sequence& sequence) {
  io::write_file(path, state_to_bytes(model, sequence));
}

Sequence read_state(const std::string& path, LanguageModel& model) {
  const io::InputFile file(path);
  std::string content(file.size(), '\0');
  file.read(0, std::as_writable_bytes(std::span(content)));
  return state_from_bytes(content, path, model);
}

Sequence state_from_bytes(std::string_view bytes, const std::string& name, LanguageModel& model) {
  if (!bytes.starts_with(kMagic)) throw_error("{}: not a state file", name);
  Header header;
  uint64_t sum;
  const auto damaged = [&](const char* what) { throw_error("{}: damaged: {}", name, what); };
  if (bytes.size() < sizeof(header) + sizeof(sum)) damaged("it is too short");
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.version != kVersion)
    throw_error("{}: expected version {} of state files, found {}", name, kVersion, header.version);
  std::memcpy(&sum, bytes.end() - sizeof(sum), sizeof(sum));
  bytes.remove_suffix(sizeof(sum));
  if (sum != checksum(bytes)) damaged("its checksum is wrong");
  if (header.model != fingerprint(model))
    throw_error("{}: the state of another model, or of another checkpoint of this one", name);
  if (header.cache_type > static_cast<uint32_t>(CacheType::kQ8_0))
    damaged("the type of its cache cannot be");
  if (const auto type = static_cast<CacheType>(header.cache_type); type != model.cache_type())
    throw_error("{}: expected a state with a cache in {}, found one in {} (cache_type)", name,
                kernels::name_of(model.cache_type()), kernels::name_of(type));

  bytes.remove_prefix(sizeof(header));
  const uint64_t n = header.tokens, forgotten = header.forgotten, begin = header.begin;
  if (n > kMaxTokens || forgotten >= n || n - forgotten > bytes.size() / sizeof(int32_t) ||
      begin >= n || header.position >= n - begin || begin + header.position < forgotten)
    damaged("its numbers of tokens cannot be");
  if (header.draws >= n || header.low_confidence_streak > header.draws)
    damaged("its numbers of draws cannot be");
  std::vector<int32_t> tokens(n - forgotten);
  std::memcpy(tokens.data(), bytes.data(), tokens.size() * sizeof(int32_t));
  bytes.remove_prefix(tokens.size() * sizeof(int32_t));
  for (const int32_t token : tokens)
    if (token < 0 || token >= model.config().vocab_size) damaged("its tokens are not the model's");
  const auto position = static_cast<int64_t>(header.position);
  size_t expected = 0;
  for (int64_t l = 0; l < model.config().layers; ++l) expected += model.state_bytes(l, position);
  if (bytes.size() != expected) damaged("its length is wrong");

  // A state that grows is read anew from its tokens when it is full: they must all be there.
  if (begin < forgotten && context_limit(model, 0) < kMaxTokens)
    damaged("tokens that the state may have to read again are missing");
  Sequence sequence(
      model, {.tokens = std::move(tokens),
              .forgotten = static_cast<int64_t>(forgotten),
              .begin = static_cast<int64_t>(begin),
              .position = position,
              .sampler = {header.draws, static_cast<int64_t>(header.low_confidence_streak)}});
  for (int64_t l = 0; l < model.config().layers; ++l) {
    const size_t size = model.state_bytes(l, position);
    bytes.copy(reinterpret_cast<char*>(sequence.state().row(static_cast<size_t>(l))), size);
    bytes.remove_prefix(size);
  }
  return sequence;
}

}  // namespace refrain
