#include "refrain/kernels/isa.h"

#include <algorithm>
#include <iterator>

#include "hwy/highway.h"
#include "refrain/base/error.h"

namespace refrain::kernels {
namespace {

struct Known {
  std::string_view name;
  Isa isa;
  int64_t target;  // Highway's, which kernels of float32 take
};

#if HWY_ARCH_X86
constexpr Known kKnown[] = {{"scalar", Isa::kScalar, HWY_SCALAR},
                            {"sse4", Isa::kSse4, HWY_SSE4},
                            {"avx2", Isa::kAvx2, HWY_AVX2},
                            {"avx512", Isa::kAvx512, HWY_AVX3},
                            {"avx512-vnni", Isa::kAvx512Vnni, HWY_AVX3},
                            {"avx512-bf16", Isa::kAvx512Bf16, HWY_AVX3},
                            {"amx", Isa::kAmx, HWY_AVX3}};
#elif HWY_ARCH_ARM
constexpr Known kKnown[] = {{"neon", Isa::kNeon, HWY_NEON}};
#else
constexpr Known kKnown[] = {{"scalar", Isa::kScalar, HWY_SCALAR}};
#endif

Isa limit = std::rbegin(kKnown)->isa;

}  // namespace

std::optional<Isa> isa_named(std::string_view name) {
  const auto* known = std::ranges::find(kKnown, name, &Known::name);
  return known == std::end(kKnown) ? std::nullopt : std::optional(known->isa);
}

std::string isa_names() {
  std::string all;
  for (const Known& known : kKnown) {
    if (!all.empty()) all += &known == &*std::rbegin(kKnown) ? " or " : ", ";
    all += known.name;
  }
  return all;
}

void limit_isa(Isa most) {
  const auto* known = std::ranges::find(kKnown, most, &Known::isa);
  REFRAIN_CHECK(known != std::end(kKnown) && "this processor's");
  limit = most;
  hwy::DisableTargets(known->target - 1);  // a better one has a lower bit
}

Isa isa_limit() { return limit; }

std::string_view float_isa() {
  const int64_t targets = hwy::SupportedTargets();
  // Asking makes Highway choose among all that the machine has, whatever was disabled.
  hwy::GetChosenTarget().Update(targets);
  const Known* best = kKnown;
  for (const Known& known : kKnown)
    if (known.target < best->target && (targets & ((known.target << 1) - 1)) != 0) best = &known;
  return best->name;
}

}  // namespace refrain::kernels
