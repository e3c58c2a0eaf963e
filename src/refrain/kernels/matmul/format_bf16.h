// Products of operands rounded to bfloat16, summed in float32, on the units that some processors
// have for them: AMX tiles, or AVX-512's dot products of pairs.
//
// The reduced index is cut into groups of up to 32: a group is what one tile instruction reduces,
// and its sum is rounded on its own. So that no result depends on how the work is cut, groups are
// fixed: from 0 on for features, and from the start of each chunk where rows are reduced.
#pragma once
#include <span>

#include "refrain/kernels/matmul/driver.h"

namespace refrain::kernels {

inline constexpr int64_t kReductionGroup = 32;  // of the reduced index
inline constexpr int64_t kBf16Block = 32;  // rows and columns of C that a kernel works at a time
inline constexpr int64_t kStripRows = 8;
inline constexpr int64_t kGroupPairs = kBf16Block * kReductionGroup / 2;

// C [32, 32] (+)= A B over `groups` groups. Operands are pairs of numbers of a group, the
// first in the lower half of a float's bits, the same two of either operand, per group and half of
// the 32 rows or columns:
//   a  [group][half][16 rows][16 pairs]       b  [group][half][16 pairs][16 columns]
struct Microkernel {
  using Block = void(const float* a, const float* b, int64_t groups, float* c, int64_t c_row,
                     bool add);
  const char* name;
  Block* block;
  void (*begin)();  // before the first block of a task, and after the last one; or null
  void (*end)();
  // The same of a [group][half][16 pairs][16 rows], as rows that the reduced index goes through
  // are packed without being transposed; or null.
  Block* block_of_columns = nullptr;
  // The first rows alone, so many of them, or null.
  Block* strip = nullptr;
  // C [rows, 32] (+)= A B of few rows, at most kMostRowsAtOnce, or null. A: [rows][group][16
  // pairs].
  using Rows = void(const float* a, int64_t rows, const float* b, int64_t groups, float* c,
                    bool add);
  Rows* few_rows = nullptr;
};
inline constexpr int64_t kMostRowsAtOnce = 8;

// The best that this machine has, the system allows and that passes a check of its sums; null when
// there is none. Found out once.
const Microkernel* microkernel();
// All of these that the machine has: for tests.
std::span<const Microkernel> microkernels();

// As the format does, by this kernel: for tests.
void multiply_bf16(const Product&, const Microkernel&, Arena& scratch);

}  // namespace refrain::kernels
