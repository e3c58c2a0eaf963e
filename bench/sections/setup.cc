#include "bench/sections/setup.h"

#include "refrain/base/parallel.h"
#include "refrain/base/random.h"

namespace refrain::bench {

Buffer<float> uniform(int64_t n, uint64_t key) {
  Buffer<float> values(static_cast<size_t>(n));
  parallel_ranges(n, 1 << 16, [&](int64_t begin, int64_t end) {
    Random random(key, static_cast<uint64_t>(begin));
    for (int64_t i = begin; i < end; ++i)
      values[static_cast<size_t>(i)] = 2 * to_unit(static_cast<uint32_t>(random.bits())) - 1;
  });
  return values;
}

std::vector<int32_t> random_tokens(int64_t n, int64_t vocabulary, uint64_t key) {
  Random random(key);
  std::vector<int32_t> tokens(static_cast<size_t>(n));
  for (int32_t& token : tokens)
    token = static_cast<int32_t>(random.below(static_cast<uint64_t>(vocabulary)));
  return tokens;
}

std::optional<double> utilisation(double operations, double seconds, double ceiling) {
  if (ceiling <= 0) return {};
  return operations / seconds / ceiling;
}

double mebibytes(size_t bytes) { return static_cast<double>(bytes) / (1 << 20); }

std::string name_of(kernels::ComputeType compute_type) {
  if (compute_type == kernels::ComputeType::kBf16) return "bfloat16";
  return compute_type == kernels::ComputeType::kInt16 ? "int16" : "float32";
}

std::string in_compute_type(kernels::ComputeType compute_type) {
  return compute_type == kernels::ComputeType::kFloat32 ? "" : ", " + name_of(compute_type);
}

}  // namespace refrain::bench
