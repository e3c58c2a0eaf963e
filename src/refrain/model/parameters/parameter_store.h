// The learned tensors of a model, laid out once, in the order in which the model visits them. Every
// tensor is on a 64-byte boundary, with zeros in the gaps. Anything a layer has beside its matrix
// (a bias, later an adapter) is one more tensor that it visits, trainable or not.
//
// Gradients and the optimiser's moments have the same layout without the frozen tensors. For a
// model that is trained whole the layouts are equal.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/layers/param.h"
#include "refrain/model/parameters/initialisation.h"

namespace refrain {

class ParameterStore {
 public:
  struct Entry {
    ParamSpec spec;
    Param* param;
    size_t offset = 0;           // floats, in the weights
    size_t gradient_offset = 0;  // in the gradients, if it is trainable
  };

  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  // Lays out the tensors that `visit` visits: shapes only, enough to plan with. The tensors belong
  // to a model, which must not move.
  void declare(const std::function<void(const ParamVisitor&)>& visit);
  // Memory for the weights: zeros until they are initialised or loaded.
  void allocate();

  // Selects the tensors that are trained; at first all. The others are frozen: they have no
  // gradients, and no step changes them. Call it before gradients are allocated.
  void set_trainable(const std::function<bool(const ParamSpec&)>& trainable);

  // Drawn from (seed, llama_name(name of the tensor)) alone: the names of the first files.
  void initialize(uint64_t seed, const InitScheme& = {});

  // Allocates gradients of trainable tensors, and drops packed copies, because steps do not update
  // them.
  void allocate_gradients();
  void clear_gradients();

  // Makes a second copy of the matrices that `is_factor` selects, in the form that products read.
  void pack(const std::function<bool(const Param&)>& is_factor);

  std::span<const Entry> entries() const { return entries_; }
  void visit(const ParamVisitor& v) const {
    for (const Entry& entry : entries_) v(entry.spec, *entry.param);
  }
  std::span<float> weights() { return weights_.span(); }
  std::span<float> gradients() { return gradients_.span(); }
  int64_t count() const { return count_; }                   // of weights
  size_t gradient_floats() const { return gradient_size_; }  // allocated or not
  // Of weights, gradients and so many moments; AdamW has two.
  size_t training_bytes(int moments = 2) const;

  // The tensors as files contain them: whole under one name, or part by part (ParamSpec::parts).
  struct FileTensor {
    std::string name;
    std::vector<int64_t> shape;
    Tensor w, g;
  };
  std::vector<FileTensor> file_tensors() const;

  // Safetensors in that order, under our names or those that `name_of` makes of them. To be loaded,
  // every tensor must be there with its shape, and no other; names and shapes are checked before
  // anything changes, and before memory is allocated, if none was yet.
  void save(const std::string& path, const std::map<std::string, std::string>& metadata = {},
            std::string (*name_of)(std::string_view ours) = nullptr) const;
  void load(const std::string& path);

 private:
  void lay_out_gradients();

  std::vector<Entry> entries_;
  int64_t count_ = 0;
  size_t size_ = 0, gradient_size_ = 0;  // floats, with what fills tensors up to the boundaries
  Buffer<float> weights_, gradients_, packed_;
};

}  // namespace refrain
