// The model's dimensions, as each of its mixers needs them, and the functions that it computes.
#pragma once
#include <cstdint>

#include "refrain/kernels/attention/kv_cache.h"
#include "refrain/kernels/elementwise/activation.h"

namespace refrain {

struct MixerDims {
  int64_t d_model;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t context;    // tokens it is trained on; more is allowed
  int64_t blocks;     // in the stack: the output projection starts smaller in a deep one
  int64_t index = 0;  // of its block in the stack: keys its dropout masks
  kernels::ActivationPrecision activation_precision = kernels::ActivationPrecision::kAccurate;
  kernels::CacheType cache_type = kernels::CacheType::kFloat32;  // Mixer::set_cache_type
  double norm_eps = 1e-5;                                        // of norms within a mixer
};

}  // namespace refrain
