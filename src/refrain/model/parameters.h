// The learned tensors of a model that is not a stack of blocks: one allocation in visiting order,
// every tensor on a 64-byte boundary, gradients of the same layout.
#pragma once
#include <functional>
#include <map>
#include <span>
#include <string>

#include "refrain/base/buffer.h"
#include "refrain/layers/param.h"

namespace refrain {

class Parameters {
 public:
  using Visit = std::function<void(const ParamVisitor&)>;

  // What `visit` visits. It belongs to the model, which must stay where it is.
  void declare(Visit visit);
  // For all of it; zero until it is filled.
  void take_memory();

  // Drawn from (seed, name of the tensor) alone, by the scheme `normal`.
  void initialise(uint64_t seed);
  void allocate_gradients();
  void clear_gradients();

  void visit(const ParamVisitor& v) const { visit_(v); }
  std::span<float> weights() { return weights_.span(); }
  std::span<float> gradients() { return gradients_.span(); }
  int64_t count() const { return count_; }

  // As safetensors under their names, parts one by one. Every tensor must be there with its shape,
  // and no other; names and shapes are checked before anything changes, and before memory is taken,
  // if none was yet.
  void save(const std::string& path, const std::map<std::string, std::string>& metadata = {}) const;
  void load(const std::string& path);

 private:
  Visit visit_;
  int64_t count_ = 0;
  Buffer<float> weights_, gradients_;
};

}  // namespace refrain
