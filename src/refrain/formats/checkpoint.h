// A model directory is a Hugging Face directory: config.json, generation_config.json,
// model.safetensors (the tokenizer's files are text/tokenizer.h's). Models of some families
// (formats/families) go both ways between here and `transformers`. Large ones have their weights in
// several files (model.safetensors.index.json).
#pragma once
#include <memory>
#include <string>

#include "refrain/formats/config_json.h"
#include "refrain/model/language_model.h"

namespace refrain {

// What a model of this config has of weights, nearly all. Takes no memory for them.
int64_t count_weights(const ModelConfig&);

struct WeightFormat {
  std::string type = "f32";              // of the weights: f32, bf16 or f16
  int64_t largest_file = 5'000'000'000;  // bytes of weights in a file; more are several files
};

// Writes the three files into a directory that exists, each atomically, the weights last.
// The same model gives the same bytes.
void save_model(const std::string& directory, const LanguageModel& model,
                const SpecialTokens& special, const WeightFormat& format = {});
void save_config(const std::string& directory, const LanguageModel& model,
                 const SpecialTokens& special);  // all but the weights
void save_weights(const std::string& path, const LanguageModel& model);
// Of a packed model, as it stands in memory: a directory that load_model() opens, and no other
// program.
void save_packed_model(const std::string& directory, const LanguageModel& model,
                       const SpecialTokens& special);

// A directory, or a GGUF file (gguf/gguf.h). Memory is allocated only if the files contain the
// whole model. `notes` gets the settings that are ignored. A model whose file says that it is
// packed (save_packed) is loaded so; what a GGUF file has in blocks becomes rows of float32.
std::unique_ptr<LanguageModel> load_model(const std::string& directory,
                                          SpecialTokens* special = nullptr,
                                          const Notes& notes = {});
// For inference: packed as of LanguageModel::pack_weights(), in the type of its file, or in `type`
// if that has float32 rows. Each number takes memory once. A GGUF file is packed in its own types
// if `type` is float32, and otherwise in that.
std::unique_ptr<LanguageModel> load_packed_model(const std::string& directory,
                                                 SpecialTokens* special = nullptr,
                                                 const Notes& notes = {},
                                                 Storage type = Storage::kFloat32);

// Every tensor of the model must be there with its shape, as F32, BF16, F16 or F64, and no other,
// save those that say nothing new: rotary frequencies. A tied model's lm_head.weight may stand for
// its embedding, or beside it if the two are equal. If no name begins with "model.", all lack it.
// Names and shapes are checked before the model changes. Packed weights are an Error.
void load_weights(const std::string& directory, LanguageModel& model);

}  // namespace refrain
