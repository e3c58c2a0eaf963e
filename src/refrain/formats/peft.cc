#include "refrain/formats/peft.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "refrain/base/error.h"
#include "refrain/formats/family.h"
#include "refrain/formats/tensor_layout.h"
#include "refrain/io/file.h"
#include "refrain/io/safetensors.h"
#include "refrain/model/parameters/tensor_names.h"

namespace refrain {
namespace {

using io::Json;

constexpr const char* kConfig = "/adapter_config.json";
constexpr const char* kWeights = "/adapter_model.safetensors";
constexpr std::string_view kPrefix = "base_model.model.";
constexpr const char *kA = ".lora_A.weight", *kB = ".lora_B.weight";

// What PEFT calls a tensor of an adapter, whose base has our names in its files, or Llamas'.
std::string our_name(std::string_view ours) { return std::string(kPrefix).append(ours); }
std::string name_of_llama(std::string_view ours) { return std::string(kPrefix) + llama_name(ours); }
auto names_for(const LanguageModel& base) {
  return family_of(base.config()).tensors == &kLlamaTensors ? name_of_llama : our_name;
}

std::vector<LinearModule> modules_of(const LanguageModel& model) {
  return linear_modules(model.parameters(),
                        [&](size_t block) { return model.mixer(block).traits().linear_maps; });
}

bool ends_as(std::string_view name, std::string_view target) {
  if (!name.ends_with(target)) return false;
  return name.size() == target.size() || name[name.size() - target.size() - 1] == '.';
}
bool is_target(const std::string& module, const std::string& target) {
  return ends_as(module, target) || ends_as(llama_name(module), target);
}

// A key of rank_pattern: a name, how names end, or a regular expression of that of which `^`, `$`,
// `.*` and `\.` are understood.
bool is_in_pattern(const std::string& module, const std::string& key, const std::string& where) {
  if (key.find_first_of("[](){}|+?") != key.npos)
    throw_error("{}: {}: expected a name, or an expression with ^ $ .* \\. alone", where,
                io::quote(key));
  const bool from_start = key.starts_with("^");
  std::string glob;
  for (size_t i = from_start ? 1 : 0; i < key.size(); ++i) {
    if (key.compare(i, 2, "\\.") == 0 || key.compare(i, 2, ".*") == 0)
      glob += key[i++] == '.' ? '*' : '.';
    else if (key[i] != '$' || i + 1 < key.size())
      glob += key[i];
  }
  for (const std::string& name : {module, llama_name(module)})
    if (matches(glob, name) || (!from_start && matches("*." + glob, name))) return true;
  return false;
}

template <class T>
T pattern_value(const std::map<std::string, T>& pattern, const std::string& module, T otherwise,
                const std::string& where) {
  for (const auto& [key, value] : pattern)
    if (is_in_pattern(module, key, where)) return value;
  return otherwise;
}

// What may stand in the file without changing what the adapter computes here.
void check_settings(const Json& json, const std::string& path, const Notes& notes) {
  static const std::set<std::string> known = {"peft_type",
                                              "task_type",
                                              "r",
                                              "lora_alpha",
                                              "lora_dropout",
                                              "target_modules",
                                              "use_rslora",
                                              "rank_pattern",
                                              "alpha_pattern",
                                              "base_model_name_or_path"};
  static const std::set<std::string> harmless = {
      "inference_mode", "init_lora_weights", "revision",          "auto_mapping",
      "peft_version",   "loftq_config",      "corda_config",      "eva_config",
      "runtime_config", "megatron_config",   "megatron_core",     "layers_to_transform",
      "layers_pattern", "exclude_modules",   "qalora_group_size", "lora_ga_config",
      "velora_config",  "monteclora_config"};
  const auto is_off = [](const Json& value) {
    return value.is_null() || value == Json(false) || (value.is_string() && value == "none") ||
           ((value.is_array() || value.is_object()) && value.empty());
  };
  std::vector<std::string> others;
  for (const auto& [name, value] : json.items()) {
    if (known.contains(name) || harmless.contains(name) || is_off(value)) continue;
    const bool changes = name == "bias" || name.starts_with("use_") || name == "modules_to_save" ||
                         name == "fan_in_fan_out" || name == "lora_bias" ||
                         name == "layer_replication" || name == "trainable_token_indices" ||
                         name == "target_parameters" || name == "alora_invocation_tokens" ||
                         name == "arrow_config" || name == "ensure_weight_tying";
    if (changes)
      throw_error("{}: {}: expected none, which alone is supported, found {}", path, name,
                  io::describe(value));
    others.push_back(name);
  }
  if (!others.empty()) add_note(notes, "{}: ignored: {}", path, fmt::join(others, ", "));
}

LoraConfig read_config(const std::string& directory, const Notes& notes) {
  const std::string path = directory + kConfig;
  const Json json = io::read_json(path);
  if (!json.is_object()) throw_error("{}: expected an object, found {}", path, io::describe(json));
  const std::string type = io::get_string(json, "peft_type", path);
  if (type != "LORA")
    throw_error("{}: peft_type: expected \"LORA\", found {}", path, io::quote(type));
  check_settings(json, path, notes);
  LoraConfig config;
  config.rank = io::get_int(json, "r", path, 1, kMostLoraRank);
  const auto number = [&](const Json& value, const std::string& name) {
    if (!value.is_number() || !std::isfinite(value.get<double>()))
      throw_error("{}: {}: expected a number, found {}", path, name, io::describe(value));
    return value.get<double>();
  };
  config.alpha = number(io::member(json, "lora_alpha", path), "lora_alpha");
  if (const Json* rslora = io::find(json, "use_rslora")) config.rslora = *rslora == Json(true);
  const auto each = [&](const char* name, auto&& f) {
    const Json* pattern = io::find(json, name);
    if (!pattern || pattern->is_null()) return;
    if (!pattern->is_object())
      throw_error("{}: {}: expected an object, found {}", path, name, io::describe(*pattern));
    for (const auto& [key, value] : pattern->items()) f(key, value);
  };
  each("rank_pattern", [&](const std::string& key, const Json& value) {
    if (!value.is_number_integer() || value < Json(1) || value > Json(kMostLoraRank))
      throw_error("{}: rank_pattern: {}: expected 1 to {}, found {}", path, io::quote(key),
                  kMostLoraRank, io::describe(value));
    config.rank_pattern[key] = value.get<int64_t>();
  });
  each("alpha_pattern", [&](const std::string& key, const Json& value) {
    config.alpha_pattern[key] = number(value, "alpha_pattern");
  });
  if (const Json* base = io::find(json, "base_model_name_or_path"); base && base->is_string())
    config.base = base->get<std::string>();
  return config;
}

std::string text_of(const std::vector<int64_t>& shape) {
  return fmt::format("[{}]", fmt::join(shape, ", "));
}

// The modules that a file has adapters of. Every tensor must be theirs.
std::vector<LoraModule> modules_in(const io::Safetensors& file, const LanguageModel& base,
                                   const LoraConfig& config, const std::string& where) {
  const auto name_of = names_for(base);
  std::vector<LoraModule> modules;
  std::set<const io::TensorInfo*> used;
  for (const LinearModule& module : modules_of(base)) {
    const io::TensorInfo *a = file.find(name_of(module.name + kA)),
                         *b = file.find(name_of(module.name + kB));
    if (!a && !b) continue;
    if (!a || !b)
      throw_error("{}: {}: missing beside {}", file.path(),
                  io::quote(name_of(module.name + (a ? kB : kA))), a ? "lora_A" : "lora_B");
    const int64_t rank =
        pattern_value(config.rank_pattern, module.name, config.rank, where + ": rank_pattern");
    const auto check = [&](const io::TensorInfo& info, const std::vector<int64_t>& shape) {
      if (info.shape != shape)
        throw_error(
            "{}: {}: expected shape {}, as the base and {} have it, found {}: an adapter of "
            "another base?",
            file.path(), io::quote(info.name), text_of(shape), where, text_of(info.shape));
      if (info.dtype != "F32" && info.dtype != "BF16" && info.dtype != "F16" && info.dtype != "F64")
        throw_error("{}: {}: expected F32, BF16, F16 or F64, found {}", file.path(),
                    io::quote(info.name), info.dtype);
    };
    check(*a, {rank, module.inputs});
    check(*b, {module.outputs, rank});
    used.insert({a, b});
    const double alpha =
        pattern_value(config.alpha_pattern, module.name, config.alpha, where + ": alpha_pattern");
    modules.push_back({module.name, rank, config.scale(rank, alpha)});
  }
  for (const io::TensorInfo& info : file.tensors())
    if (!used.contains(&info))
      throw_error("{}: {}: the base has no map of this name: an adapter of another base?",
                  file.path(), io::quote(info.name));
  if (modules.empty()) throw_error("{}: expected adapters, found none", file.path());
  return modules;
}

void read_weights(const io::Safetensors& file, Lora& lora, const LanguageModel& base) {
  const auto name_of = names_for(base);
  for (const auto& [name, shape, w, g] : lora.parameters().file_tensors()) {
    const io::TensorInfo* info = file.find(name_of(name));
    if (!info || info->shape != shape)
      throw_error("{}: {}: expected a tensor of shape {}", file.path(), io::quote(name_of(name)),
                  text_of(shape));
    file.read(*info, {w.data, static_cast<size_t>(w.size())});
  }
}

}  // namespace

float LoraConfig::scale(int64_t r, double its_alpha) const {
  const auto n = static_cast<double>(r);
  return static_cast<float>(its_alpha / (rslora ? std::sqrt(n) : n));
}

std::vector<LoraModule> select_modules(const LanguageModel& model, const LoraConfig& config) {
  if (config.rank < 1 || config.rank > kMostLoraRank)
    throw_error("lora_rank: expected 1 to {}, found {}", kMostLoraRank, config.rank);
  const std::vector<LinearModule> all = modules_of(model);
  std::set<std::string> chosen;
  for (const std::string& target : config.targets) {
    size_t matched = 0;
    for (const LinearModule& module : all)
      if (target == "all-linear" || is_target(module.name, target)) {
        chosen.insert(module.name);
        ++matched;
      }
    if (matched > 0) continue;
    std::set<std::string> ends;
    for (const LinearModule& module : all)
      ends.insert(module.name.substr(module.name.rfind('.') + 1));
    throw_error("lora_targets: {}: matches no linear map of a block; expected all-linear or {}",
                io::quote(target), fmt::join(ends, ", "));
  }
  std::vector<LoraModule> modules;
  for (const LinearModule& module : all) {
    if (!chosen.contains(module.name)) continue;
    const int64_t rank =
        pattern_value(config.rank_pattern, module.name, config.rank, "rank_pattern");
    const double alpha =
        pattern_value(config.alpha_pattern, module.name, config.alpha, "alpha_pattern");
    modules.push_back({module.name, rank, config.scale(rank, alpha)});
  }
  return modules;
}

void save_adapter_config(const std::string& directory, const LoraConfig& config, const Lora& lora,
                         const LanguageModel& base) {
  // PEFT wants the modules that there are, by how their names end.
  const auto name_of = names_for(base);
  std::set<std::string> targets;
  for (const auto& tensor : lora.parameters().file_tensors()) {
    if (!tensor.name.ends_with(kA)) continue;
    const std::string module =
        tensor.name.substr(0, tensor.name.size() - std::string_view(kA).size());
    const bool is_all = std::ranges::any_of(config.targets, [&](const std::string& target) {
      return target == "all-linear" || target.find('.') == target.npos;
    });
    const std::string theirs = name_of(module).substr(kPrefix.size());
    targets.insert(is_all ? theirs.substr(theirs.rfind('.') + 1) : theirs);
  }
  Json json = {{"peft_type", "LORA"},
               {"task_type", "CAUSAL_LM"},
               {"base_model_name_or_path", config.base},
               {"r", config.rank},
               {"lora_alpha", config.alpha},
               {"lora_dropout", config.dropout},
               {"target_modules", targets},
               {"bias", "none"},
               {"fan_in_fan_out", false},
               {"init_lora_weights", true},
               {"inference_mode", true},
               {"modules_to_save", nullptr},
               {"use_rslora", config.rslora},
               {"rank_pattern", config.rank_pattern},
               {"alpha_pattern", config.alpha_pattern}};
  io::write_file(directory + kConfig, io::to_text(json));
}

void save_adapter_weights(const std::string& path, const Lora& lora, const LanguageModel& base) {
  const auto name_of = names_for(base);
  std::vector<io::TensorToWrite> tensors;
  for (const auto& t : lora.parameters().file_tensors())
    tensors.push_back({name_of(t.name), t.shape, t.w.data});
  io::write_safetensors(path, tensors, {{"format", "pt"}});
}

bool is_adapter(const std::string& directory) { return io::exists(directory + kConfig); }

LoadedAdapter load_adapter(const std::string& directory, const LanguageModel& base,
                           const Notes& notes) {
  if (!is_adapter(directory))
    throw_error("{}: expected a directory with an adapter (adapter_config.json), found none",
                directory);
  LoadedAdapter loaded{read_config(directory, notes), nullptr};
  const io::Safetensors file(directory + kWeights);
  const std::vector<LoraModule> modules =
      modules_in(file, base, loaded.config, directory + kConfig);
  loaded.lora = std::make_unique<Lora>(base.parameters(), modules, 0.0f);
  loaded.lora->parameters().allocate();
  read_weights(file, *loaded.lora, base);
  return loaded;
}

void load_adapter_weights(const std::string& directory, Lora& lora, const LanguageModel& base) {
  const io::Safetensors file(directory + kWeights);
  if (file.tensors().size() != lora.parameters().file_tensors().size())
    throw_error("{}: expected {} tensors, found {}", file.path(),
                lora.parameters().file_tensors().size(), file.tensors().size());
  if (lora.parameters().weights().empty()) lora.parameters().allocate();
  read_weights(file, lora, base);
}

}  // namespace refrain
