// Which instruction sets the kernels use: the best this machine has, or less (to try what another
// machine would do, or to avoid a faulty unit).
#pragma once
#include <optional>
#include <string_view>

namespace refrain::kernels {

enum class Isa { kScalar, kSse4, kAvx2, kAvx512, kAvx512Vnni, kAvx512Bf16, kAmx };

// scalar, sse4, avx2, avx512, avx512-vnni, avx512-bf16 or amx; nothing for other names.
std::optional<Isa> isa_named(std::string_view name);

// From here on nothing beyond `most` is used: to be called before the first kernel.
void limit_isa(Isa most);
Isa isa_limit();

// What kernels of float32 take here: scalar, sse4, avx2 or avx512, each with its own order of sums.
std::string_view float_isa();

}  // namespace refrain::kernels
