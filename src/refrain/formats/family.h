// Families of models, told apart by "model_type" in config.json. Each has a file of its own.
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "refrain/base/notes.h"
#include "refrain/io/json.h"
#include "refrain/model/config.h"

namespace refrain {

struct Family {
  std::string_view model_type;
  // All of config.json but the ids of special tokens -> a resolved config. `name` is what errors
  // call the file. A setting that cannot be honoured is an Error.
  ModelConfig (*parse)(const io::Json&, const std::string& name, const Notes&);
  // The other way, of a resolved config; nothing when the family does not compute this.
  std::optional<io::Json> (*write)(const ModelConfig&);
  // What a tensor is called in its files; null: as it is here (model/tensor_names.h).
  std::string (*tensor_name)(std::string_view ours) = nullptr;
};

// In the order in which they are asked to write: the last, our own, writes everything.
std::span<const Family> families();

// The family whose files a model is written as.
const Family& family_of(const ModelConfig&);

}  // namespace refrain
