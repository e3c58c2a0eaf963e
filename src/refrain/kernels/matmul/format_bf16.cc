#include "refrain/kernels/matmul/format_bf16.h"

#include "refrain/kernels/matmul/bf16_product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/format_bf16.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/bf16_blocks-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// The product as it is.
struct ProductSink {
  static constexpr int64_t kWidth = 1;
  static constexpr bool kKeeps = true;
  int64_t columns;

  int64_t column(int64_t panel, int64_t) const { return panel * kBf16Block; }
  int64_t panels() const { return blocks_of(columns, kBf16Block); }
};

void multiply(const Bf16Product& x) {
  const Bf16Blocks<ProductSink> blocks(x, {x.c.cols});
  run_blocks(blocks.blocking(), blocks);
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(multiply);

void multiply_bf16(const Product& product, const Microkernel& kernel, Arena& scratch) {
  Arena::Frame frame(scratch);
  const Bf16Product x(product, kernel, blocks_of(product.c.cols, kBf16Block), 1, scratch);
  if (!scratch.planning() && !product.is_empty()) HWY_DYNAMIC_DISPATCH(multiply)(x);
}

void multiply_bf16(const Product& product, Arena& scratch) {
  if (const Microkernel* kernel = microkernel()) return multiply_bf16(product, *kernel, scratch);
  multiply_rounded(product, scratch);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
