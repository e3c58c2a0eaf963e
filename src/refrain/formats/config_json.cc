#include "refrain/formats/config_json.h"

#include <vector>

#include "refrain/base/error.h"
#include "refrain/formats/families/gpt2.h"
#include "refrain/formats/families/llama.h"
#include "refrain/formats/family.h"
#include "refrain/formats/gguf/gguf.h"
#include "refrain/formats/native.h"
#include "refrain/io/file.h"
#include "refrain/io/gguf/gguf.h"

namespace refrain {

using io::Json;

namespace {

// `transformers` refuses a model whose method it does not know.
constexpr const char *kQuantisationKey = "quantization_config", *kMethodKey = "quant_method";
constexpr const char* kOurMethod = "refrain";

}  // namespace

std::span<const Family> families() {
  // A new family adds one line here.
  static const std::vector<Family> all = [] {
    std::vector<Family> list(llama_families().begin(), llama_families().end());
    list.push_back(kGpt2Family);
    list.push_back(kNativeFamily);
    return list;
  }();
  return all;
}

const Family& family_of(const ModelConfig& config) {
  for (const Family& family : families())
    if (family.write(config)) return family;
  REFRAIN_CHECK(false && "our own family writes everything");
  return families().back();
}

Json to_json(const ModelDescription& description) {
  ModelConfig config = description.config;
  config.resolve();
  Json json = *family_of(config).write(config);
  put_special_tokens(description.special, json);
  return json;
}

Json with_storage(Json config, Storage storage) {
  config[kQuantisationKey] = {{kMethodKey, kOurMethod},
                              {"storage", std::string(kernels::name_of(storage))}};
  return config;
}

Json to_json(const SpecialTokens& special) {
  Json json;
  put_special_tokens(special, json);
  return json;
}

ModelDescription parse_model_config(const Json& json, const std::string& name, const Notes& notes) {
  const std::string type = io::get_string(json, "model_type", name);
  std::string known;
  for (const Family& family : families()) {
    if (family.model_type == type) {
      ModelDescription d{family.parse(json, name, notes), {}};
      read_special_tokens(json, name, d.config.vocab_size, d.special);
      return d;
    }
    const bool last = &family == &families().back();
    known += (known.empty() ? "" : last ? " or " : ", ") + std::string(family.model_type);
  }
  throw_error("{}: model_type: expected {}, found {}", name, known, io::quote(type));
}

ModelDescription read_model_config(const std::string& directory, const Notes& notes) {
  if (io::is_gguf(directory)) return read_gguf_config(io::Gguf(directory), notes);
  const std::string path = directory + "/config.json";
  Json json = io::read_json(path);
  // Our own: what its weights are stored as, their file says.
  if (json.is_object()) {
    const Json* found = io::find(json, kQuantisationKey);
    const Json* method = found && found->is_object() ? io::find(*found, kMethodKey) : nullptr;
    if (method && *method == Json(kOurMethod)) json.erase(kQuantisationKey);
  }
  ModelDescription d = parse_model_config(json, path, notes);
  const std::string generation = directory + "/generation_config.json";
  if (!io::exists(generation)) return d;
  const Json ids = io::read_json(generation);
  if (!ids.is_object())
    throw_error("{}: expected an object, found {}", generation, io::describe(ids));
  read_special_tokens(ids, generation, d.config.vocab_size, d.special);
  return d;
}

}  // namespace refrain
