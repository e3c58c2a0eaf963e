#include "refrain/kernels/matmul/storage/stored_product.h"

#include "refrain/base/error.h"
#include "refrain/kernels/matmul/driver.h"

namespace refrain::kernels {
namespace {

void multiply_stored(Product product, const MatmulOptions& options, Arena& scratch) {
  REFRAIN_CHECK(product.stored.type != Storage::kFloat32 && options.cu_seqlens.empty());
  REFRAIN_CHECK(options.compute_type != ComputeType::kInt16);
  REFRAIN_CHECK(product.a.cols == product.b.rows && product.c.cols == product.b.cols);
  if (options.compute_type == ComputeType::kFloat32) return multiply_float32(product, scratch);
  // As these units read it already.
  if (has_bf16_units() && product.stored.type == Storage::kBf16 && !product.stored_is_b) {
    product.packed = product.stored;
    product.stored = {};
  }
  multiply_bf16(product, scratch);
}

}  // namespace

void stored_linear_forward(const Operand& x, const StoredMatrix& w, MatrixView<float> y,
                           Arena& scratch, const MatmulOptions& options) {
  const MatrixView<const float> b(nullptr, w.K, w.N, 1, w.K);
  multiply_stored({.a = x.f32(),
                   .b = b,
                   .c = y,
                   .packed = {},
                   .cu_seqlens = {},
                   .add = options.add,
                   .a16 = x.bf16(),
                   .stored = w.w},
                  options, scratch);
}
void stored_linear_backward_input(const Operand& dy, const StoredMatrix& w, MatrixView<float> dx,
                                  Arena& scratch, const MatmulOptions& options) {
  const MatrixView<const float> b(nullptr, w.N, w.K, w.K, 1);
  multiply_stored({.a = dy.f32(),
                   .b = b,
                   .c = dx,
                   .packed = {},
                   .cu_seqlens = {},
                   .add = options.add,
                   .a16 = dy.bf16(),
                   .stored = w.w,
                   .stored_is_b = true},
                  options, scratch);
}

}  // namespace refrain::kernels
