#include "cli/verbs/train/fine_tuning.h"

#include <algorithm>
#include <filesystem>
#include <set>

#include "cli/effect.h"
#include "cli/inputs.h"
#include "cli/output.h"
#include "refrain/base/random.h"
#include "refrain/io/file.h"
#include "refrain/io/gguf/gguf.h"
#include "refrain/io/json.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain::cli {
namespace {

// Settings of a model that its weights leave open.
bool may_differ(std::string_view name) { return name == "context"; }

// Under its name here, in files of Llamas, or those of its parts.
bool names(const std::string& pattern, std::string_view name) {
  return matches(pattern, name) || matches(pattern, llama_name(name));
}

bool is_frozen(const std::string& pattern, const ParamSpec& spec) {
  if (names(pattern, spec.name)) return true;
  const auto named = std::ranges::count_if(
      spec.parts, [&](const ParamPart& part) { return names(pattern, part.name); });
  if (named == 0) return false;
  for (const ParamPart& part : spec.parts)
    if (!names(pattern, part.name))
      throw_error(
          "--freeze {}: is a part of {}, which is one tensor here: expected a pattern that "
          "has {} too",
          pattern, spec.name, part.name);
  return true;
}

}  // namespace

uint64_t fingerprint_of_model(const std::string& path) {
  if (io::is_gguf(path)) return mix_key(0, "model", io::hash_file(path));
  std::set<std::string> files;
  for (const auto& entry : std::filesystem::directory_iterator(path))
    if (entry.path().extension() == ".safetensors") files.insert(entry.path().string());
  uint64_t hash = 0;
  for (const std::string& file : files) hash = mix_key(hash, "model", io::hash_file(file));
  return hash;
}

void FineTuning::take_model(const CommandLine& line, ModelConfig& model, SettingMap& mixers,
                            std::string& tokenizer) const {
  require_language_model(init);
  refuse_given(line, "tokenizer", fmt::format("expected it or --init, found --init {} too", init));
  for (const char* name : {"mixer", "initialisation", "init_std"})
    refuse_given(line, name, fmt::format("has no meaning with --init {}", init));
  ModelConfig its = read_model_config(init, note).config;
  its.pattern = its.full_pattern();
  SettingMap recorded;
  recorded.put("", its);
  const auto take = [&](const std::string& name, auto& field, const std::string& value) {
    if (line.given(name) && may_differ(name)) return;
    if (line.given(name) && SettingMap::text(field) != value)
      throw_error("{}: expected {}, as --init {} has it, found {}", flag_of(name), value, init,
                  SettingMap::text(field));
    SettingMap::parse(name, value, field);
  };
  model.visit([&](const char* name, auto& field, const char*) {
    take(name, field, recorded.values().at(name));
  });
  const SettingMap of_mixers = its.mixer_settings();
  for (const auto& [name, value] : of_mixers.values()) {
    std::string field = value;
    if (const auto given = mixers.values().find(name);
        given != mixers.values().end() && line.given(name))
      field = given->second;
    take(name, field, value);
    mixers.set(name, field);
  }
  tokenizer = init;
}

LoraConfig FineTuning::lora_config() const {
  LoraConfig config{.rank = lora_rank, .alpha = lora_alpha, .dropout = lora_dropout};
  config.rslora = lora_rslora;
  config.base = init;
  config.targets.clear();
  for (const std::string& given : lora_targets)
    for (size_t begin = 0, end; begin <= given.size(); begin = end + 1) {
      end = std::min(given.find(',', begin), given.size());
      std::string target = given.substr(begin, end - begin);
      if (const size_t colon = target.find(':'); colon != target.npos) {
        int64_t rank = 0;
        SettingMap::parse("lora_targets: " + target, target.substr(colon + 1), rank);
        target.resize(colon);
        config.rank_pattern[target] = rank;
        if (rank < 1 || rank > kMostLoraRank || target == "all-linear")
          throw_error("--lora-targets: {}: expected a name and 1 to {}", given, kMostLoraRank);
      }
      if (target.empty()) throw_error("--lora-targets: expected names, found {}", io::quote(given));
      config.targets.push_back(target);
    }
  return config;
}

void FineTuning::check(const CommandLine& line, const TrainConfig& training) const {
  if (line.find("task").values[0] == "chat" && !starts_from_model())
    throw_error("--task: expected --init with chat, a model with its chat template");
  const bool asks = line.given("lora_rank");
  if (asks && (lora_rank < 1 || lora_rank > kMostLoraRank))
    throw_error("--lora-rank: expected 1 to {}, found {}", kMostLoraRank, lora_rank);
  if (!starts_from_model())
    for (const char* name : {"lora_rank", "freeze"})
      refuse_given(line, name, "expected --init with it, the model to start from");
  if (!has_adapters()) {
    for (const char* name :
         {"lora_alpha", "lora_targets", "lora_dropout", "lora_rslora", "base_type"})
      refuse_given(line, name, "expected --lora-rank with it");
    return;
  }
  lora_config();
  if (!freeze.empty())
    throw_error("--freeze: has no meaning with --lora-rank, beside which adapters alone learn");
  if (!(lora_alpha > 0 && lora_alpha <= 1e6))
    throw_error("--lora-alpha: expected above 0, at most 1000000, found {}", lora_alpha);
  if (!(lora_dropout >= 0 && lora_dropout < 1))
    throw_error("--lora-dropout: expected 0 or more and below 1, found {}", lora_dropout);
  if (base_type != "f32" && base_type != "bf16" && base_type != "q8_0")
    throw_error("--base-type: expected f32, bf16 or q8_0, found {}", io::quote(base_type));
  if (base_type != "f32" && training.matmul_type() == kernels::ComputeType::kInt16)
    throw_error("--base-type: expected f32 with --compute-type int16, found {}", base_type);
}

std::unique_ptr<Lora> FineTuning::make_adapters(LanguageModel& model) const {
  if (!has_adapters()) return nullptr;
  const std::vector<LoraModule> modules = select_modules(model, lora_config());
  auto lora = std::make_unique<Lora>(model.parameters(), modules, static_cast<float>(lora_dropout));
  const Storage type = *kernels::storage_named(base_type);
  if (type != Storage::kFloat32) {
    for (int64_t l = 0; l < model.config().layers; ++l)
      if (!model.mixer(static_cast<size_t>(l)).traits().linear_maps)
        throw_error(
            "--base-type: expected f32, which alone the mixer {} can be trained beside, "
            "found {}",
            model.config().mixers[static_cast<size_t>(l)].kind(), base_type);
    model.parameters().declare_packed(type, ParameterStore::Use::kTraining);
  }
  model.adapt(lora.get());
  return lora;
}

void FineTuning::load(LanguageModel& model, bool goes_on, uint64_t seed) const {
  model.parameters().allocate();
  if (has_adapters() || !goes_on) load_weights(init, model);
  if (!has_adapters()) return;
  model.lora()->parameters().allocate();
  model.lora()->initialize(seed);
}

void FineTuning::take_folder(std::vector<std::string>& data, std::vector<std::string>& valid) {
  if (data.size() != 1 || !std::filesystem::is_directory(data[0])) return;
  const std::string folder = data[0];
  data[0] = folder + "/train.jsonl";
  if (!io::exists(data[0]))
    throw_error("--data: {}: expected train.jsonl in it, found none", folder);
  if (valid.empty() && io::exists(folder + "/valid.jsonl")) valid = {folder + "/valid.jsonl"};
}

text::ChatFormat FineTuning::chat_format(const std::string& directory) const {
  text::ChatFormat format = text::ChatFormat::read(directory);
  format.mask_prompt = mask_prompt;
  return format;
}

void FineTuning::freeze_parameters(LanguageModel& model) const {
  if (freeze.empty()) return;
  for (const std::string& pattern : freeze) {
    const auto entries = model.parameters().entries();
    if (std::ranges::none_of(entries,
                             [&](const auto& entry) { return is_frozen(pattern, entry.spec); }))
      throw_error("--freeze {}: matches no tensor; one is called {}", io::quote(pattern),
                  entries.front().spec.name);
  }
  int64_t learning = 0;
  model.parameters().set_trainable([&](const ParamSpec& spec) {
    const bool learns = std::ranges::none_of(
        freeze, [&](const std::string& pattern) { return is_frozen(pattern, spec); });
    if (learns) learning += spec.size();
    return learns;
  });
  if (learning == 0) throw_error("--freeze: expected a tensor that learns, found none");
}

}  // namespace refrain::cli
