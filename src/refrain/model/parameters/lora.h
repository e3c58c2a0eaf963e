// A model's adapters with their weights, and which of its maps they are for. The model's own
// weights stay as they are, in any type of storage. Adapters have a store of their own: gradients,
// moments and files are theirs alone.
#pragma once
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "refrain/layers/adapter.h"
#include "refrain/model/parameters/parameter_store.h"

namespace refrain {

// A linear map that has a name in files: "layers.0.mixer.q_proj".
struct LinearModule {
  std::string name;
  int64_t outputs, inputs;
};
// Of a model's parameters, those that an adapter may stand beside. `adapts`: whether the mixer of a
// block lets it (MixerTraits::linear_maps).
std::vector<LinearModule> linear_modules(const ParameterStore&,
                                         const std::function<bool(size_t block)>& adapts);

struct LoraModule {
  std::string name;
  int64_t rank;
  float scale;
};

class Lora {
 public:
  // Of these modules of a model. Shapes only until parameters().allocate().
  Lora(const ParameterStore& base, std::span<const LoraModule>, float dropout);
  Lora(const Lora&) = delete;
  Lora& operator=(const Lora&) = delete;

  // A uniform as PyTorch's, B zero: at first it adds nothing.
  void initialize(uint64_t seed);

  ParameterStore& parameters() { return parameters_; }
  const ParameterStore& parameters() const { return parameters_; }
  const AdapterSet& adapters() const { return adapters_; }

  // w += s B A in the base, which has rows of float32. For inference without adapters.
  void merge_into(ParameterStore& base) const;

 private:
  AdapterSet adapters_;
  ParameterStore parameters_;
};

}  // namespace refrain
