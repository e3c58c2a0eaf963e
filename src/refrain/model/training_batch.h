// What a language model is trained on, and how.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/kernels/matmul/gemm.h"
#include "refrain/mixers/mixer.h"
#include "refrain/model/recompute.h"

namespace refrain {
namespace io {
class ScratchFile;
}

// Of the rows of a RaggedBatch. `states`: per block, read and advanced, no gradient goes beyond
// them (truncated backpropagation); or empty: whole sequences.
struct TrainingBatch {
  std::span<const int32_t> tokens{};   // [R]
  std::span<const int32_t> targets{};  // [R], negative: not supervised
  std::span<const State> states{};
};

struct TrainingOptions {
  static constexpr int64_t kChunkLength = 4096;

  float scale = 1;  // of the loss
  float label_smoothing = 0;
  kernels::ComputeType compute_type = kernels::ComputeType::kFloat32;
  // In a stack whose states do not grow, a longer sequence is trained alone and in chunks, cut at
  // multiples of so many tokens: forward from the first to the last with the states carried,
  // backward from the last to the first with their gradients. It is exact, and the order in which
  // rows are summed into the gradients, which is why it does not depend on memory.
  int64_t chunk_length = kChunkLength;

  // These change time and memory only.
  Recompute recompute{};
  // Whose logits exist at a time, kReductionGroupRows or more; 0 = what is fast.
  int64_t head_rows = 0;
  io::ScratchFile* offload = nullptr;  // where recompute.chunks keeps states; null: in memory
};

}  // namespace refrain
