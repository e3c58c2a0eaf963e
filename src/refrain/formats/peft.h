// Adapters in the files of PEFT: adapter_config.json and adapter_model.safetensors, with the names
// base_model.model.<module>.lora_A.weight and .lora_B.weight, where <module> is the name that the
// base has in files of its family. ΔW = s B A with s = alpha / r, or alpha / √r with rslora.
// Modules may have a rank and an alpha of their own (rank_pattern, alpha_pattern).
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/io/json.h"
#include "refrain/model/language_model.h"
#include "refrain/model/parameters/lora.h"

namespace refrain {

inline constexpr int64_t kMostLoraRank = 4096;

struct LoraConfig {
  int64_t rank = 8;
  double alpha = 16;
  double dropout = 0;
  std::vector<std::string> targets = {"all-linear"};
  bool rslora = false;
  std::map<std::string, int64_t> rank_pattern{};
  std::map<std::string, double> alpha_pattern{};
  std::string base{};  // base_model_name_or_path

  float scale(int64_t r, double its_alpha) const;
};

// The modules of a model that `targets` name: "all-linear", or names or how they end ("q_proj",
// "mixer.q_proj"), here or in files of the model's family. An Error for a target that matches none,
// and a rank out of range.
std::vector<LoraModule> select_modules(const LanguageModel&, const LoraConfig&);

// Both files in a directory that exists. The weights alone: `path`.
void save_adapter_config(const std::string& directory, const LoraConfig&, const Lora&,
                         const LanguageModel& base);
void save_adapter_weights(const std::string& path, const Lora&, const LanguageModel& base);

struct LoadedAdapter {
  LoraConfig config;
  std::unique_ptr<Lora> lora;
};
bool is_adapter(const std::string& directory);
// Checked against the base before memory is taken: every tensor is one of a module of the base,
// with its shape. An Error for what changes the function and is not supported.
LoadedAdapter load_adapter(const std::string& directory, const LanguageModel& base,
                           const Notes& notes = {});
// The weights alone, into adapters that have the same modules.
void load_adapter_weights(const std::string& directory, Lora&, const LanguageModel& base);

}  // namespace refrain
