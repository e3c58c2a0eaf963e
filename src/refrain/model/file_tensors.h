// A parameter as files know it: whole under its name, or its parts one by one.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "refrain/base/error.h"
#include "refrain/layers/param.h"

namespace refrain {

// f(name, shape, first row) of each. Memory need not have been taken.
template <class F>
void each_file_tensor(const ParamSpec& spec, F&& f) {
  if (spec.parts.empty()) return f(spec.name, spec.shape, int64_t{0});
  int64_t row = 0;
  std::vector<int64_t> shape = spec.shape;
  for (const ParamPart& part : spec.parts) {
    shape[0] = part.rows;
    f(part.name, shape, row);
    row += part.rows;
  }
  REFRAIN_CHECK(row == spec.shape[0]);
}

// The part of `whole` that begins at that row and has that shape.
inline Tensor part_of(Tensor whole, const std::vector<int64_t>& shape, int64_t first_row) {
  return whole.rank == 0 ? whole : whole.slice(first_row, shape[0]);
}

}  // namespace refrain
