// Learned tensors, declared once and visited by everything that treats them alike: allocation,
// initialisation, loading, saving, counting, optimisation.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "refrain/base/arena.h"
#include "refrain/base/tensor.h"

namespace refrain {

// A learned tensor and the gradient that backward adds to, which has no memory in inference.
struct Param {
  Tensor w, g;
  const float* packed = nullptr;  // w once more, as products read it (kernels/gemm.h); or none
};

// How a tensor starts: one number, everywhere or at the elements [first, end) with zeros elsewhere;
// or normal with a standard deviation and a mean.
struct Init {
  enum Kind { kConstant, kNormal } kind;
  float value;
  int64_t first = 0, end = INT64_MAX;
  float mean = 0;
  static Init constant(float c) { return {kConstant, c}; }
  static Init constant_at(float c, int64_t first, int64_t end) {
    return {kConstant, c, first, end, 0};
  }
  static Init normal(float std, float mean = 0) { return {kNormal, std, 0, INT64_MAX, mean}; }
};

// Rows of a tensor that files know under a name of their own.
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

  int64_t size() const {
    int64_t n = 1;
    for (int64_t d : shape) n *= d;
    return n;
  }
};

// The shapes alone, as dry runs want them; memory comes later.
inline void shape_param(const ParamSpec& spec, Param& param) {
  param.w = Tensor(nowhere(), {});
  param.w.rank = static_cast<int>(spec.shape.size());
  std::copy(spec.shape.begin(), spec.shape.end(), param.w.dim.begin());
  param.g = param.w;
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
