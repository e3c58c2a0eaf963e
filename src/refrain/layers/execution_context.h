// What every forward and backward pass receives beside its tensors.
#pragma once
#include <algorithm>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "refrain/base/arena.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/layers/ragged_batch.h"

namespace refrain {

class AdapterSet;

// Dropout of this step; rate 0 = none. A mask is a function of (key, site, row_id, column).
struct Dropout {
  float rate = 0;            // on the embedding and on what each half of a block adds
  float attention_rate = 0;  // on the probabilities of softmax attention
  uint64_t key = 0;          // of (seed, step)
};

struct ExecutionContext {
  Arena& scratch;  // taken within a call, given back before it returns
  Dropout dropout{};
  // K-step recomputation. With K > 0 a mixer saves its state every K rows, or less often, instead
  // of its activations. Backward computes the rest again from the mixer's input, with the same
  // bits. With 0 it saves what is fastest. Mixers whose state grows with the rows ignore this.
  int64_t checkpoint_interval = 0;
  // Parts of mixers (RecomputePart) that backward computes again instead of reading saved
  // activations.
  std::span<const std::string> recompute{};
  // Of products. With kBf16, part of what is saved for backward is rounded too.
  kernels::ComputeType compute_type = kernels::ComputeType::kFloat32;
  // Of the rows that backward is given (RaggedBatch::offset): products over rows are cut between
  // them.
  std::span<const int32_t> cu_seqlens{};
  // Backward follows: packed weights (Param::packed), which are frozen then, enter products as the
  // numbers that they stand for, in compute_type; not in the arithmetic that inference has for
  // them.
  bool training = false;
  // What is added to linear maps, or null; in training, what their dropout is a function of:
  // RaggedBatch::row_id of the rows.
  const AdapterSet* adapters = nullptr;
  std::span<const uint64_t> row_ids{};

  kernels::MatmulOptions over_features(bool add = false) const { return {compute_type, {}, add}; }
  kernels::MatmulOptions over_rows() const { return {compute_type, cu_seqlens}; }
  // The same call with products in float32, or over the rows of other chunks.
  ExecutionContext in_float32() const {
    ExecutionContext ctx = *this;
    ctx.compute_type = kernels::ComputeType::kFloat32;
    return ctx;
  }
  ExecutionContext over(std::span<const int32_t> rows) const {
    ExecutionContext ctx = *this;
    ctx.cu_seqlens = rows;
    return ctx;
  }
  bool recomputes(std::string_view part) const {
    return std::ranges::find(recompute, part) != recompute.end();
  }
  bool bf16() const { return compute_type == kernels::ComputeType::kBf16; }

  // A dry run lays out memory and computes nothing. Plans are made this way.
  bool planning() const { return scratch.planning(); }
};

}  // namespace refrain
