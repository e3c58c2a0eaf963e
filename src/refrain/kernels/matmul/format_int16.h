// Products of operands rounded to 16-bit integers with shared scales, summed exactly in 32 bits and
// added up in float32: twice the rate of float32 products on processors whose vector units multiply
// pairs of 16-bit integers (AVX512-VNNI) and that have nothing for bfloat16.
//
// The reduced index is cut into groups. Of every row of A and every column of B, the numbers of a
// group share a scale, their largest magnitude over `largest`, and are rounded to multiples of it:
//
//   C[i, j] (+)= sum_g  sA[i, g] sB[j, g]  sum_{k in g} qA[i, k] qB[k, j]
//
// The inner sum is exact, whatever its order; the outer one is a chain of fused multiply-adds in
// ascending order. So an element's bits depend on its row, its column and the groups alone, and are
// the same on all instruction sets that fuse. An infinite or undefined operand gives undefined
// elements.
#pragma once
#include <cstdint>

namespace refrain::kernels {

// Numbers of a group at most: of features, cut from 0 on, and of rows, cut from the start of each
// chunk. Shorter groups round better, longer ones are converted less often.
inline constexpr int64_t kInt16Features = 128, kInt16Rows = 64;

// The largest integer whose products still fit 31 bits when n of them are added up.
constexpr int32_t int16_largest(int64_t n) {
  int32_t largest = 1;
  while (n * (largest + 1) * (largest + 1) < (int64_t{1} << 31)) ++largest;
  return largest;
}

// Whether this machine multiplies pairs of 16-bit integers at twice the rate of float32.
bool int16_is_fast();

}  // namespace refrain::kernels
