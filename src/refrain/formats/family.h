// Families of checkpoints, selected by "model_type" in config.json. Each has a file in families/,
// or is ours (native.h).
#pragma once
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "refrain/base/notes.h"
#include "refrain/formats/tensor_layout.h"
#include "refrain/io/json.h"
#include "refrain/model/config.h"

namespace refrain {

struct Family {
  std::string_view model_type;
  // Parses config.json, except the ids of special tokens, into a resolved config. `name` is the
  // file's name in errors. A setting that is not supported is an Error.
  ModelConfig (*parse)(const io::Json&, const std::string& name, const Notes&);
  // Writes a resolved config; nothing if the family does not compute the same.
  std::optional<io::Json> (*write)(const ModelConfig&);
  const TensorLayout* tensors;
};

// All families, in the order in which they are asked to write. The last, our own, writes every
// model.
std::span<const Family> families();

// The family whose files a model is written as.
const Family& family_of(const ModelConfig&);

}  // namespace refrain
