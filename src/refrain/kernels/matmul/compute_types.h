// Compute types by name, and which of them this machine has units for.
#pragma once
#include <optional>
#include <string_view>

#include "refrain/kernels/matmul/gemm.h"

namespace refrain::kernels {

// "f32", "bf16" or "int16".
std::optional<ComputeType> compute_type_named(std::string_view);
const char* name_of(ComputeType);

// The one with the fastest products here: bfloat16 where it has units (AVX512-BF16, AMX), else
// 16-bit integers where they have (AVX512-VNNI), else float32.
ComputeType fastest_compute_type();

}  // namespace refrain::kernels
