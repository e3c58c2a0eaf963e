// Products inside a loop over time: few rows (the sequences that still run) with the same matrices
// again and again, kept packed.
//
//   y = f(x wᵀ + b)         x [n, K], w [N, K]
//
// linear_forward() goes through all panels of w for one tile of rows after another, which is right
// when rows are many; here a panel meets all rows while it is in the cache. Every element is the
// same chain of fused multiply-adds, the bias added after it: the numbers are linear_forward()'s
// and add_row()'s, to the bit.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/matrix_view.h"

namespace refrain::kernels {

// Floats from a row to the next that keep rows out of the same few cache sets.
inline int64_t spaced(int64_t width) { return (width + 15) / 16 * 16 + 16; }

struct SkinnyWeights {
  const float* packed;  // w by pack_weight() (gemm.h), or wᵀ's by pack_columns()
  int64_t N, K;
  const float* bias = nullptr;  // [N]
  // Rows of a panel in `packed`, of which K are used: a part of the columns of w. 0: K.
  int64_t panel_depth = 0;
};

struct SkinnyOutput {
  MatrixView<float> y{};           // [n, N], or null
  std::span<float* const> also{};  // where row i goes besides, or empty
  bool relu = false;               // f = max(0, .)
  bool add = false;                // to what y holds, which continues its chains: y += x wᵀ
  // Of a gradient by relu's input: elements count where these rows are above zero; or empty.
  std::span<const float* const> where_positive{};
};

void skinny_matmul(const SkinnyWeights&, MatrixView<const float> x, const SkinnyOutput&);

// w [N, K] -> what pack_weight() makes of its transpose, of packed_size(K, N) floats: for y = x w.
void pack_columns(ConstTensor w, float* to);

}  // namespace refrain::kernels
