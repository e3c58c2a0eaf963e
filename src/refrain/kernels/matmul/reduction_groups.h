// How the reduced index of a product of rounded operands is cut: into groups, whose sums are made
// on their own. They are fixed, so that no result depends on how the work is cut otherwise
// (docs/decisions/0009-bfloat16.md, 0011-int16.md).
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"
#include "refrain/base/error.h"
#include "refrain/base/tensor.h"

namespace refrain::kernels {

// Edges of groups of at most `most`, cut from the start of each chunk of [0, K): group g is
// [edges[g], edges[g + 1]). `cu_seqlens`: offsets from 0 to K, or empty for one chunk. Only taken,
// not filled, when `scratch` only counts.
inline TensorOf<int32_t> make_reduction_groups(int64_t K, std::span<const int32_t> cu_seqlens,
                                               int64_t most, Arena& scratch) {
  const int32_t one_chunk[2] = {0, static_cast<int32_t>(K)};
  if (cu_seqlens.empty()) cu_seqlens = one_chunk;
  REFRAIN_CHECK(cu_seqlens.front() == 0 && cu_seqlens.back() == K);
  int64_t groups = 0;
  for (size_t p = 0; p + 1 < cu_seqlens.size(); ++p)
    groups += (cu_seqlens[p + 1] - cu_seqlens[p] + most - 1) / most;
  const auto edges = scratch.take<int32_t>({groups + 1});
  if (scratch.planning()) return edges;
  int32_t* edge = edges.data;
  for (size_t p = 0; p + 1 < cu_seqlens.size(); ++p)
    for (int64_t k = cu_seqlens[p]; k < cu_seqlens[p + 1]; k += most)
      *edge++ = static_cast<int32_t>(k);
  *edge = cu_seqlens.back();
  return edges;
}

}  // namespace refrain::kernels
