// config.json and generation_config.json: what a model is, apart from its weights.
//
// Its spellings are told apart by "model_type": "llama" is Hugging Face's LlamaForCausalLM, read as
// versions 4 and 5 of `transformers` write it, and "mistral" the same with a window; "refrain" has
// our own names, mixers' settings in an object named after their kind. docs/formats.md lists what
// is read, what makes no difference and what is refused.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "refrain/base/notes.h"
#include "refrain/base/setting_map.h"
#include "refrain/io/json.h"
#include "refrain/model/config.h"

namespace refrain {

// Ids that both files carry; -1 = none.
struct SpecialTokens {
  int32_t bos = -1, eos = -1, pad = -1;
  std::vector<int32_t> more_eos{};  // other ids that end a text as well

  bool operator==(const SpecialTokens&) const = default;
};

struct ModelDescription {
  ModelConfig config;  // resolved
  SettingMap
      mixer_settings;  // every setting of the mixers in the pattern: "attention.rope_theta", ...
  SpecialTokens special;
};

// True if `transformers` computes the same from a Llama directory: attention blocks only, every
// setting of theirs but rope_theta at its default. A window alone makes it a Mistral.
bool is_llama(const ModelConfig& config, const SettingMap& mixer_settings, bool or_mistral = false);

// config.json: a Llama's or a Mistral's if it is one.
io::Json to_json(const ModelDescription& description);
// generation_config.json
io::Json to_json(const SpecialTokens& special);

// `name` is what errors call the file. A setting that cannot be honoured is an Error; so is an
// unknown one of ours, while `notes` hears of those that a Llama's file has.
ModelDescription parse_model_config(const io::Json& json, const std::string& name,
                                    const Notes& notes = {});

// Ids in generation_config.json, if there is one, come before those in config.json. What else it
// says (sampling) is for other programs.
ModelDescription read_model_config(const std::string& directory, const Notes& notes = {});

}  // namespace refrain
