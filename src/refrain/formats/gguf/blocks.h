// The numbers in the blocks of a GGUF file's tensors, as GGML defines them. d, m: float16 scale and
// minimum; q: integers.
//
//   F32, F16, BF16   1 number
//   Q8_0             32: d, q[32] i8                                      d q
//   Q4_0, Q5_0       32: d, (Q5_0: fifth bits u32,) q[32] of 4 bits       d (q - 8), d (q - 16)
//   Q4_1, Q5_1       32: d, m, the same                                   d q + m
//   Q4_K, Q5_K       256, in 8 parts of 32: d, m, 12 bytes with 6 bits of a scale s and a minimum t
//                    for each part, (Q5_K: fifth bits,) q[256] of 4 bits  (d s) q - (m t)
//   Q6_K             256, in 16 parts of 16: q[256] of 4 bits, and of 2 bits above them, s[16] i8,
//   d
//                                                                         (d s) (q - 32)
//
// Of 4 bits, the low halves of 16 bytes are the first 16 numbers of a block of 32, the high halves
// the last; in the blocks of 256, 32 bytes likewise are 64 numbers.
#pragma once
#include <cstddef>
#include <span>

#include "refrain/io/gguf/gguf.h"
#include "refrain/kernels/matmul/storage/blocks.h"

namespace refrain {

// Whether dequantise() knows a type.
bool is_readable(io::GgufType);
// Whole blocks, to as many float32 numbers.
void dequantise(io::GgufType, std::span<const std::byte> blocks, std::span<float> to);

// Q8_0 as q8_0, Q4_0 and Q4_1 as q4: the same numbers. A scale of Q4_0 whose minimum float16 cannot
// hold gives an infinite one.
void read_blocks(io::GgufType, std::span<const std::byte> from, std::span<kernels::Q8Block> to);
void read_blocks(io::GgufType, std::span<const std::byte> from, std::span<kernels::Q4Block> to);

// Rows of numbers as F32, F16, BF16, Q8_0 or Q4_0, rounded as GGML rounds them.
void quantise(io::GgufType, std::span<const float> from, std::span<std::byte> to);

}  // namespace refrain
