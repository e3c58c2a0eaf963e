// config.json and generation_config.json: a model apart from its weights. "model_type" selects the
// family (family.h) of a file.
#pragma once
#include <string>

#include "refrain/base/notes.h"
#include "refrain/formats/special_tokens.h"
#include "refrain/io/json.h"
#include "refrain/kernels/matmul/storage/storage.h"
#include "refrain/model/config.h"

namespace refrain {

struct ModelDescription {
  ModelConfig config;  // resolved
  SpecialTokens special;
};

// config.json in the form of the first family that computes the same.
io::Json to_json(const ModelDescription& description);
// The same of a model whose weights are packed: with a "quantization_config" that other programs
// refuse by name. Here it says nothing that the file of the weights does not.
io::Json with_storage(io::Json config, Storage storage);
// generation_config.json
io::Json to_json(const SpecialTokens& special);

// `name` is the file's name in errors. A setting that is not supported is an Error. An unknown
// setting is an Error in a file of ours; in other families' files `notes` gets it.
ModelDescription parse_model_config(const io::Json& json, const std::string& name,
                                    const Notes& notes = {});

// Ids in generation_config.json, if there is one, have priority over those in config.json. Its
// other settings (sampling) are for other programs.
ModelDescription read_model_config(const std::string& directory, const Notes& notes = {});

}  // namespace refrain
