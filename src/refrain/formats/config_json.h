// config.json and generation_config.json: what a model is, apart from its weights. "model_type"
// tells which of the families (family.h) a file is of.
#pragma once
#include <string>

#include "refrain/base/notes.h"
#include "refrain/formats/special_tokens.h"
#include "refrain/io/json.h"
#include "refrain/model/config.h"

namespace refrain {

struct ModelDescription {
  ModelConfig config;  // resolved
  SpecialTokens special;
};

// config.json: of the first family that computes the same.
io::Json to_json(const ModelDescription& description);
// generation_config.json
io::Json to_json(const SpecialTokens& special);

// `name` is what errors call the file. A setting that cannot be honoured is an Error; so is an
// unknown one of ours, while `notes` hears of those that another family's file has.
ModelDescription parse_model_config(const io::Json& json, const std::string& name,
                                    const Notes& notes = {});

// Ids in generation_config.json, if there is one, come before those in config.json. What else it
// says (sampling) is for other programs.
ModelDescription read_model_config(const std::string& directory, const Notes& notes = {});

}  // namespace refrain
