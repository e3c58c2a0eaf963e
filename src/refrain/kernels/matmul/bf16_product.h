// A product of operands in bfloat16 with its buffers (format_bf16.h).
#pragma once
#include <algorithm>

#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/reduction_groups.h"

namespace refrain::kernels {

// Blocking: of B [512, 768] in L2, or as much of it with fewer rows; 32 rows of A, and 32 columns
// of B, of that depth each take 32 KiB. Where A is packed ahead of the tasks, 2,048 rows at a time.
inline constexpr int64_t kKBlocks = 16, kBlocksInL2 = kKBlocks * 24, kMBlocks = 64;

// Panels of `width` blocks of B that are packed at a time, `k_blocks` deep.
inline int64_t panels_at_a_time(int64_t panels, int64_t width, int64_t k_blocks) {
  const int64_t most = std::max<int64_t>(1, kBlocksInL2 / std::max<int64_t>(1, k_blocks * width));
  return blocks_of(panels, std::max<int64_t>(1, blocks_of(panels, most)));
}

struct Bf16Product : Product {
  const Microkernel& kernel;
  const int32_t* edges;  // group g is [edges[g], edges[g + 1])
  int64_t groups;
  float* packed_b;  // [panels of a block][width][groups][kGroupPairs]; unused where B is stored so
  float* packed_a;  // [tiles of a block][groups][kGroupPairs]; null where tasks pack A themselves

  // Of panels of `width` blocks. Buffers are from `scratch`, and live as long as its frame.
  Bf16Product(const Product& product, const Microkernel& unit, int64_t panels, int64_t width,
              Arena& scratch)
      : Product(product), kernel(unit) {
    if (packed.type != Storage::kBf16) packed = {};
    const auto cut = make_reduction_groups(a.cols, cu_seqlens, kReductionGroup, scratch);
    edges = cut.data;
    groups = cut.size() - 1;
    const int64_t k_blocks = std::min(groups, kKBlocks);
    const int64_t b_panels = packed ? 0 : panels_at_a_time(panels, width, k_blocks) * width;
    packed_b = scratch.take({b_panels, k_blocks, kGroupPairs}).data;
    // Rows of A that lie along the reduced index are packed where they are used.
    const bool ahead = a.col_stride != 1;
    const int64_t m_blocks = ahead ? std::min(kMBlocks, blocks_of(a.rows, kBf16Block)) : 0;
    const Tensor buffer = scratch.take({m_blocks, k_blocks, kGroupPairs});
    packed_a = ahead ? buffer.data : nullptr;
  }
};

}  // namespace refrain::kernels
