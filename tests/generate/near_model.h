// A draft that guesses right now and then: a TinyModel with its weights changed a little.
#pragma once
#include "generate/tiny_model.h"

namespace refrain {

class NearModel : public TinyModel {
 public:
  // Each weight is multiplied by 1 + N(0, change²).
  NearModel(const std::string& pattern, double change, const SettingMap& settings = {})
      : TinyModel(2, 1, pattern, settings) {
    Random random(5);
    for (float& w : parameters().weights()) w *= static_cast<float>(1 + change * random.normal());
  }
};

}  // namespace refrain
