#include "refrain/kernels/isa.h"

#include "hwy/highway.h"

namespace refrain::kernels {
namespace {

Isa limit = Isa::kAmx;

// Highway's targets beyond the limit. A better one has a lower bit.
int64_t targets_beyond(Isa most) {
  switch (most) {
    case Isa::kScalar:
      return (HWY_SSE4 << 1) - 1;
    case Isa::kSse4:
      return (HWY_AVX2 << 1) - 1;
    case Isa::kAvx2:
      return (HWY_AVX3 << 1) - 1;
    default:
      return 0;
  }
}

}  // namespace

std::optional<Isa> isa_named(std::string_view name) {
  if (name == "scalar") return Isa::kScalar;
  if (name == "sse4") return Isa::kSse4;
  if (name == "avx2") return Isa::kAvx2;
  if (name == "avx512") return Isa::kAvx512;
  if (name == "avx512-vnni") return Isa::kAvx512Vnni;
  if (name == "avx512-bf16") return Isa::kAvx512Bf16;
  if (name == "amx") return Isa::kAmx;
  return std::nullopt;
}

void limit_isa(Isa most) {
  limit = most;
  hwy::DisableTargets(targets_beyond(most));
}

Isa isa_limit() { return limit; }

std::string_view float_isa() {
  const int64_t targets = hwy::SupportedTargets();
  // Asking makes Highway choose among all that the machine has, whatever was disabled.
  hwy::GetChosenTarget().Update(targets);
  const auto has = [&](int64_t target) { return (targets & ((target << 1) - 1)) != 0; };
  return has(HWY_AVX3) ? "avx512" : has(HWY_AVX2) ? "avx2" : has(HWY_SSE4) ? "sse4" : "scalar";
}

}  // namespace refrain::kernels
