// Products with weights of type q8_0 and q4 (storage.h): integers, block by block.
#pragma once
#include <cstddef>
#include <cstdint>

#include "refrain/base/arena.h"
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/matmul/storage/storage.h"

namespace refrain::kernels {

// Rows of x by blocks of 32: x ~ s q.
struct QuantisedRows {
  int64_t rows = 0, groups = 0;
  int8_t* q = nullptr;        // [rows][groups][32], zero beyond x's columns
  float* s = nullptr;         // [rows][groups]
  int32_t* offset = nullptr;  // q8_0: -128 times the sum of q, for weights stand 128 higher
  float* sum = nullptr;       // q4: s times the sum of q, which the minimum is multiplied with
};

struct RowRange {
  int64_t first, count;
};
// y [count][32] = some rows, at most kMostRows, times a panel.
using QuantisedPanel = void(const QuantisedRows&, RowRange, PackedWeights panel, float* y);
inline constexpr int64_t kMostRows = 6;

// The panel on AVX-512's units for products of bytes, null where there are none.
QuantisedPanel* vnni_panel();

// y (+)= x wᵀ, y [M, N].
void multiply_quantised(MatrixView<const float> x, PackedWeights, MatrixView<float> y, bool add,
                        Arena& scratch);

}  // namespace refrain::kernels
