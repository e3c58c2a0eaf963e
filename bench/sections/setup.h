// What all sections of a benchmark share: settings that were checked, the machine's ceilings, and
// made inputs.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "bench/checks/planted.h"
#include "bench/checks/timing.h"
#include "refrain/base/buffer.h"
#include "refrain/base/setting_map.h"
#include "refrain/model/config.h"
#include "refrain/train/config.h"

namespace refrain::bench {

// Operations and bytes per second; 0 where a measurement was refused.
struct Ceilings {
  double multiply_adds = 0;  // chains in registers
  // The fastest of a few large products, by the compute type of their operands.
  std::array<double, 3> products{};
  double streaming = 0;  // copies and sums of arrays beyond the caches

  double& product(kernels::ComputeType p) { return products[static_cast<size_t>(p)]; }
  // What MFU is over: the faster of a product in float32 and in what the work is done in.
  double fastest(kernels::ComputeType p = kernels::ComputeType::kFloat32) const {
    return std::max(products[0], products[static_cast<size_t>(p)]);
  }
};

inline constexpr kernels::ComputeType kComputeTypes[] = {
    kernels::ComputeType::kFloat32, kernels::ComputeType::kBf16, kernels::ComputeType::kInt16};
std::string name_of(kernels::ComputeType);
// For the name of what runs in it: nothing for float32.
std::string in_compute_type(kernels::ComputeType);

struct Setup {
  Repetitions repetitions;
  std::vector<int64_t> lengths;       // tokens of a sequence
  std::vector<std::string> mixers;    // kinds, each alone
  std::vector<std::string> patterns;  // of stacks: the kinds, or the one pattern that was given
  int64_t batch_tokens;               // rows of a training step and of products
  int64_t new_tokens;                 // generated one by one
  int64_t product_size;               // rows and columns of the products of the ceiling
  int64_t stream_floats;              // of the arrays that memory is timed over
  Recompute checkpointing;
  kernels::ComputeType compute_type;
  std::vector<Storage> storage = {Storage::kFloat32};            // of weights in generation
  kernels::CacheType cache_type = kernels::CacheType::kFloat32;  // and of its keys and values
  ModelConfig model;                                             // but its pattern and context
  SettingMap mixer_settings;
  Ceilings ceilings{};
  Planted planted{};  // by tests

  int64_t sequences(int64_t length) const { return std::max<int64_t>(1, batch_tokens / length); }
  ModelConfig model_of(const std::string& pattern, int64_t length) const {
    ModelConfig config = model;
    config.pattern = pattern;
    config.context = length;
    config.mixers = parse_pattern(pattern, config.layers, mixer_settings);
    return config;
  }
};

// In [-1, 1), and tokens below `vocabulary`; functions of the key.
Buffer<float> uniform(int64_t n, uint64_t key);
std::vector<int32_t> random_tokens(int64_t n, int64_t vocabulary, uint64_t key);

// operations / seconds / ceiling; nothing without a ceiling.
std::optional<double> utilisation(double operations, double seconds, double ceiling);
double mebibytes(size_t bytes);

}  // namespace refrain::bench
