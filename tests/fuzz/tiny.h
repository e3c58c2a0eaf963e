// A model of a few hundred weights, and the files of its directory.
#pragma once
#include <memory>
#include <string>

#include "refrain/model/language_model.h"

namespace refrain::fuzz {

inline std::unique_ptr<LanguageModel> tiny_model(const std::string& pattern) {
  ModelConfig config;
  config.vocab_size = 8;
  config.d_model = 8;
  config.layers = 2;
  config.heads = 2;
  config.kv_heads = 1;
  config.d_ff = 8;
  config.context = 16;
  config.pattern = pattern;
  auto model = std::make_unique<LanguageModel>(config);
  model->initialise(1);
  return model;
}

}  // namespace refrain::fuzz
