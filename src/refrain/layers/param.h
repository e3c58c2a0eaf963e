// Learned tensors. A layer declares each once, in visit(). Everything that treats them alike is a
// visitor: allocation, initialisation, loading, saving, counting, optimisation.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/base/arena.h"
#include "refrain/base/tensor.h"
#include "refrain/kernels/matmul/storage/storage.h"

namespace refrain {

// A learned tensor and the gradient that backward adds to, which has no memory in inference.
struct Param {
  Tensor w, g;
  // A matrix as products read it, in any type of storage; or none. In inference it stands in the
  // place of w, which has its shape alone then.
  kernels::PackedWeights packed{};
  bool trainable = true;  // or frozen: no step changes it, and g is null
  int32_t index = -1;     // among those of its model, in visiting order
};

// What reads a tensor in inference, and so, how it may be stored there.
enum class ReadBy : uint8_t {
  kRows,      // kernels of its layer: float32, row by row
  kProducts,  // products alone (Linear), and lookups of rows: in panels, of any type
  kEither,    // in float32 as kRows, of another type as kProducts
};

// The initial values of a tensor: `mean` in the elements [first, end) and 0 in the others, with
// noise around it. Either the tensor gives the size of the noise, or it gives its role, and the
// scheme of the model decides the size (model/parameters/initialisation.h).
struct Init {
  enum Role {
    kGiven,      // normal noise of deviation `std`, which may be 0, under every scheme
    kEmbedding,  // rows that are looked up
    kMatrix,     // of a product over `in` numbers
    kOutput,     // a matrix whose product goes to the residual stream of `blocks` blocks
    kBias,       // beside a product over `in` numbers
    kGateBias,   // of forget gates: what is given where blocks norm and add, a bias where they do
                 // not
    kCell,       // a matrix of a recurrent cell of `in` units
    kCellBias,   // and a bias of one, whose mean is for blocks that norm and add
  } role = kGiven;
  float std = 0, mean = 0;
  int64_t in = 0, blocks = 0;
  float reads = 1;  // of kOutput: how large what it reads is, where the mixer's input is 1
  int64_t first = 0, end = INT64_MAX;

  static Init constant(float c) { return {.mean = c}; }
  static Init normal(float std, float mean = 0) { return {.std = std, .mean = mean}; }
  static Init embedding() { return {.role = kEmbedding}; }
  static Init matrix(int64_t in) { return {.role = kMatrix, .in = in}; }
  static Init output(int64_t in, int64_t blocks, float reads = 1) {
    return {.role = kOutput, .in = in, .blocks = blocks, .reads = reads};
  }
  static Init bias(int64_t in) { return {.role = kBias, .in = in}; }
  static Init gate_bias(int64_t in, float std, float mean) {
    return {.role = kGateBias, .std = std, .mean = mean, .in = in};
  }
  static Init cell(int64_t units) { return {.role = kCell, .in = units}; }
  static Init cell_bias(int64_t units) { return {.role = kCellBias, .in = units}; }
  Init with_mean(float c, int64_t from, int64_t to) const {
    Init init = *this;
    init.mean = c;
    init.first = from;
    init.end = to;
    return init;
  }
};

// Rows of a tensor that have a name of their own in files.
struct ParamPart {
  std::string name;
  int64_t rows;
};

struct ParamSpec {
  std::string name;
  std::vector<int64_t> shape;
  Init init;
  bool decay;                      // takes part in weight decay
  std::vector<ParamPart> parts{};  // not empty: one tensor in memory, several in a file
  ReadBy read_by = ReadBy::kRows;

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// Sets the shape only, which is enough for dry runs; memory comes later.
inline void shape_param(const ParamSpec& spec, Param& param) {
  param.w = Tensor(nowhere(), {});
  param.w.rank = static_cast<int>(spec.shape.size());
  std::copy(spec.shape.begin(), spec.shape.end(), param.w.dim.begin());
  param.g = param.trainable ? param.w : Tensor();
}

using ParamVisitor = std::function<void(const ParamSpec&, Param&)>;

// A visitor that puts `prefix` before every name.
inline ParamVisitor prefixed(const ParamVisitor& visit, const std::string& prefix) {
  return [&visit, prefix](const ParamSpec& spec, Param& param) {
    ParamSpec named = spec;
    named.name = prefix + spec.name;
    for (ParamPart& part : named.parts) part.name = prefix + part.name;
    visit(named, param);
  };
}

}  // namespace refrain
