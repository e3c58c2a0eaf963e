// The model's dimensions, as each of its mixers needs them.
#pragma once
#include <cstdint>

namespace refrain {

struct MixerDims {
  int64_t d_model;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t context;    // tokens it is trained on; more is allowed
  int64_t blocks;     // in the stack: the output projection starts smaller in a deep one
  int64_t index = 0;  // of its block in the stack: keys its dropout masks
};

}  // namespace refrain
