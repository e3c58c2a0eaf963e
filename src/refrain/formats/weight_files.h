// The weights of a model directory: model.safetensors, or several files and the index that says
// which tensor is in which (model.safetensors.index.json). Both ways.
#pragma once
#include <deque>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/formats/tensor_layout.h"
#include "refrain/io/safetensors.h"

namespace refrain {

class WeightFiles {
 public:
  struct Entry {
    const io::Safetensors* file = nullptr;
    const io::TensorInfo* info = nullptr;
  };

  // Opens the files. Every tensor is where the index says, and the files have no other.
  explicit WeightFiles(const std::string& directory);

  const std::string& path() const { return path_; }  // of the one file, or of the index
  const TensorLayout& layout() const { return *layout_; }

  // `transformers` leaves out the layout's `stack` where it saves the stack alone. `info` is null
  // when it is absent.
  Entry find(const std::string& name) const;

  template <class F>
  void each(F&& f) const {
    for (const io::Safetensors& file : files_)
      for (const io::TensorInfo& info : file.tensors()) f(Entry{&file, &info});
  }

  // The file, if its weights are packed.
  const io::Safetensors* packed() const;
  // The numbers that can be weights; of packed ones, as many as their bytes could be at most.
  int64_t weights() const;

 private:
  const io::Safetensors& add(const std::string& path) { return files_.emplace_back(path); }
  void read_index(const std::string& directory);

  std::string path_;
  std::deque<io::Safetensors> files_;  // entries point into them
  const TensorLayout* layout_;
  bool is_stack_ = true;  // no name begins with the layout's `stack`
};

// Of the types that a model's weights may have in a file.
bool is_readable(std::string_view dtype);

// Writes model.safetensors, or if that would have more than `largest_file` bytes of tensors, files
// of at most so many (a larger tensor has a file of its own) and then their index. A
// model.safetensors that was there is removed at the end, because it would count.
void write_weight_files(const std::string& directory, std::span<const io::TensorToWrite> tensors,
                        int64_t largest_file);

}  // namespace refrain
