#include "refrain/kernels/matmul/compute_types.h"

#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/format_int16.h"

namespace refrain::kernels {

std::optional<ComputeType> compute_type_named(std::string_view name) {
  for (const ComputeType type : {ComputeType::kFloat32, ComputeType::kBf16, ComputeType::kInt16})
    if (name == name_of(type)) return type;
  return {};
}

const char* name_of(ComputeType type) {
  if (type == ComputeType::kBf16) return "bf16";
  return type == ComputeType::kInt16 ? "int16" : "f32";
}

ComputeType fastest_compute_type() {
  if (microkernel()) return ComputeType::kBf16;
  return int16_is_fast() ? ComputeType::kInt16 : ComputeType::kFloat32;
}

}  // namespace refrain::kernels
