// How the tensors of a model lie in the files of a family: names, shapes, and what is one tensor
// there and several here.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/layers/param.h"

namespace refrain {

struct FileTensor {
  std::string name;
  std::vector<int64_t> shape;
  bool transposed = false;  // a matrix [in, out]
};

struct TensorLayout {
  // The tensors that hold the rows of a parameter, one after another.
  std::vector<FileTensor> (*tensors_of)(const ParamSpec&);
  // What names begin with, which files of the stack alone leave out; empty: nothing.
  std::string_view stack = "";
  // A tensor that says nothing new: it may be there.
  bool (*is_redundant)(std::string_view name) = [](std::string_view) { return false; };
};

// Our own: the names of ParamSpec, parts by themselves (model/parameters/tensor_names.h).
extern const TensorLayout kOurTensors;
// The same with the names of Llamas.
extern const TensorLayout kLlamaTensors;
// transformer.h.N.attn.c_attn.weight [D, 3 D] is q, k and v.
extern const TensorLayout kGpt2Tensors;

// The layout of files that have these names: ours, a GPT-2's or, otherwise, a Llama's. Files of our
// own of former versions have the names of Llamas.
const TensorLayout& layout_of(std::span<const std::string_view> names);

}  // namespace refrain
