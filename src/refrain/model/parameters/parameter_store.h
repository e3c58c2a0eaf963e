// The learned tensors of a model, laid out once, in the order in which the model visits them. Every
// tensor is on a 64-byte boundary, with zeros in the gaps. Anything a layer has beside its matrix
// (a bias, later an adapter) is one more tensor that it visits, trainable or not.
//
// Gradients and the optimiser's moments have the same layout without the frozen tensors. For a
// model that is trained whole the layouts are equal.
//
// For inference, matrices may stand in the layout that products read instead, in any type of
// storage (kernels/matmul/storage/storage.h): once, without rows of float32 beside them. Such a
// model is not trained; adapters beside it may be (lora.h).
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/io/safetensors.h"
#include "refrain/layers/param.h"
#include "refrain/model/parameters/initialisation.h"

namespace refrain {

class ParameterStore {
 public:
  struct Entry {
    ParamSpec spec;
    Param* param;
    size_t offset = 0;           // floats, in the weights; of a packed one, bytes in the packed
    size_t gradient_offset = 0;  // in the gradients, if it is trainable

    bool is_packed() const { return static_cast<bool>(param->packed); }
    size_t bytes() const;  // as it is stored
  };

  ParameterStore() = default;
  ParameterStore(const ParameterStore&) = delete;
  ParameterStore& operator=(const ParameterStore&) = delete;

  // Lays out the tensors that `visit` visits: shapes only, enough to plan with. The tensors belong
  // to a model, which must not move.
  void declare(const std::function<void(const ParamVisitor&)>& visit);
  // Memory for the weights as they are declared: zeros until they are initialised or loaded.
  void allocate();
  // The same for inference. Matrices that products read get panels: of `type`, or of float32 where
  // that is what it is, or where a matrix is small. Use set_rows() for them. With `type_of`, a
  // tensor may have another type than most have.
  using TypeOf = std::function<Storage(const ParamSpec&)>;
  void allocate_packed(Storage type, const TypeOf& type_of = {});
  // The layout of that, enough to plan with, until allocate(). In training beside adapters what
  // would have panels of float32 stays as rows.
  enum class Use : uint8_t { kInference, kTraining };
  void declare_packed(Storage type, Use, const TypeOf& type_of = {});

  // Selects the tensors that are trained; at first all. The others are frozen: they have no
  // gradients, and no step changes them. Call it before gradients are allocated.
  void set_trainable(const std::function<bool(const ParamSpec&)>& trainable);

  // Drawn from (seed, llama_name(name of the tensor)) alone: the names of the first files.
  void initialize(uint64_t seed, const InitScheme& = {});

  void allocate_gradients();
  void clear_gradients();

  // From allocate() to allocate_packed(), with the weights.
  void pack(Storage type);
  bool is_packed() const { return packed_bytes_ > 0; }
  // Of the matrices that are packed, or of most; of a store that is not, float32.
  Storage storage() const { return storage_; }
  // Rows of a tensor from `first` on, as float32, to where it is stored. Of a packed one, `first`
  // begins a panel, and the rows end with a panel or with the tensor.
  void set_rows(const Entry&, int64_t first, ConstTensor rows);
  // Where the panel stands that begins with a row of a packed tensor, for rows that are in its
  // storage type already (kernels/matmul/storage/blocks.h).
  std::byte* panels_from(const Entry&, int64_t row);
  // The tensor as it is stored, as float32, to [rows, cols].
  void read_rows(const Entry&, Tensor to) const;

  std::span<const Entry> entries() const { return entries_; }
  void visit(const ParamVisitor& v) const {
    for (const Entry& entry : entries_) v(entry.spec, *entry.param);
  }
  std::span<float> weights() { return weights_.span(); }  // without those that are packed
  std::span<float> gradients() { return gradients_.span(); }
  std::span<std::byte> packed() { return packed_.span(); }
  int64_t count() const { return count_; }                   // of weights
  size_t bytes() const;                                      // of them, as they are stored
  size_t gradient_floats() const { return gradient_size_; }  // allocated or not
  // Of weights as they are stored, gradients and so many moments; AdamW has two.
  size_t training_bytes(int moments = 2) const;

  // The tensors as files contain them: whole under one name, or part by part (ParamSpec::parts).
  // Those that are packed are not in memory as such: their shapes alone.
  struct FileTensor {
    std::string name;
    std::vector<int64_t> shape;
    Tensor w, g;
  };
  std::vector<FileTensor> file_tensors() const;

  // Safetensors in that order, under our names. To be loaded,
  // every tensor must be there with its shape, and no other; names and shapes are checked before
  // anything changes, and before memory is allocated, if none was yet.
  void save(const std::string& path, const std::map<std::string, std::string>& metadata = {}) const;
  void load(const std::string& path);

  // The same of a packed store, as it stands in memory: safetensors whose metadata name the storage
  // type. A matrix is a tensor of its bytes, under the name of the whole.
  void save_packed(const std::string& path) const;
  // Memory is allocated once the file is known to have the whole model.
  void load_packed(const io::Safetensors& file);

 private:
  void lay_out_gradients();

  std::vector<Entry> entries_;
  int64_t count_ = 0;
  size_t size_ = 0, gradient_size_ = 0;  // floats, with what fills tensors up to the boundaries
  size_t packed_bytes_ = 0;
  Storage storage_ = Storage::kFloat32;
  Buffer<float> weights_, gradients_;
  Buffer<std::byte> packed_;
};

// The type that the metadata of a file of save_packed() name; nothing of another file.
std::optional<Storage> packed_storage_of(const io::Safetensors& file);

}  // namespace refrain
