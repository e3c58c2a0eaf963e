// The instruction set that the kernels use: the best of this machine, or a lesser one (REFRAIN_ISA;
// to test what another machine would do, or to avoid a faulty unit).
#pragma once
#include <optional>
#include <string>
#include <string_view>

namespace refrain::kernels {

// Those of a processor, from the least to the best.
enum class Isa { kScalar, kSse4, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx, kNeon };

// scalar, sse4, avx2, avx512, avx512-vnni, avx512-bf16 or amx; on ARM, neon. Nothing for other
// names.
std::optional<Isa> isa_named(std::string_view name);
// All that it knows: "scalar, sse4 or avx2".
std::string isa_names();

// Nothing beyond `most` is used from now on. Call it before the first kernel.
void limit_isa(Isa most);
Isa isa_limit();

// The instruction set of float32 kernels here: scalar, sse4, avx2, avx512 or neon. Each has its own
// order of sums.
std::string_view float_isa();

}  // namespace refrain::kernels
