// A model directory is a Hugging Face directory: config.json, generation_config.json,
// model.safetensors (the tokenizer's files are data/tokenizer.h's). A Llama goes both ways between
// here and `transformers`; see config_json.h for what is one. Weights in several files
// (model.safetensors.index.json) load too.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "refrain/model/config_json.h"
#include "refrain/model/language_model.h"

namespace refrain {

// The weights as files name them (parts of fused tensors one by one): visit(name, tensor).
void visit_file_tensors(LanguageModel& model,
                        const std::function<void(const std::string&, Tensor)>& visit);

// Writes the three files into a directory that exists, each atomically, the weights last.
// The same model gives the same bytes.
void save_model(const std::string& directory, LanguageModel& model, const SpecialTokens& special);
void save_config(const std::string& directory, const LanguageModel& model,
                 const SpecialTokens& special);  // all but the weights
void save_weights(const std::string& path, LanguageModel& model);

// Memory is taken only for a model that the directory's files can fill. `notes` hears of settings
// that are left aside.
std::unique_ptr<LanguageModel> load_model(const std::string& directory,
                                          SpecialTokens* special = nullptr,
                                          const Notes& notes = {});

// Every tensor of the model must be there with its shape, as F32, BF16, F16 or F64, and no other,
// save those that say nothing new: rotary frequencies, and a tied model's lm_head.weight if it
// equals the embedding. Names and shapes are checked before the model changes.
void load_weights(const std::string& directory, LanguageModel& model);

}  // namespace refrain
