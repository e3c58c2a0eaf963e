// Blocks of 32 numbers of a row that are quantised already, as other programs store them.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "refrain/base/float16.h"
#include "refrain/kernels/matmul/storage/storage.h"

namespace refrain::kernels {

// d q; what is quantised here has q in -127 .. 127.
struct Q8Block {
  Float16 d;
  std::array<int8_t, kWeightGroup> q;
};

// d q + m, q in 0 .. 15.
struct Q4Block {
  Float16 d, m;
  std::array<uint8_t, kWeightGroup> q;
};

// Rows of K numbers, a multiple of 32, of which `blocks` are [rows][K / 32], as q8_0 and as q4:
// from the first row of a panel on, as many as end with a panel or with the matrix. They stay what
// they are.
void pack_blocks(std::span<const Q8Block> blocks, int64_t K, std::byte* to);
void pack_blocks(std::span<const Q4Block> blocks, int64_t K, std::byte* to);

}  // namespace refrain::kernels
