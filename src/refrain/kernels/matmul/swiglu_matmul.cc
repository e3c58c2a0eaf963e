#include "refrain/kernels/matmul/swiglu_matmul.h"

#include "refrain/base/error.h"
#include "refrain/kernels/matmul/bf16_product.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/swiglu_matmul.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/elementwise/swiglu-inl.h"
#include "refrain/kernels/matmul/bf16_blocks-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// A panel is a block of gates and the block of values that they are for.
template <class F>
struct ForwardSink {
  static constexpr int64_t kWidth = 2;
  static constexpr bool kKeeps = false;
  SwigluRows to;
  int64_t features;

  int64_t column(int64_t panel, int64_t i) const { return panel * kBf16Block + i * features; }
  int64_t panels() const { return features / kBf16Block; }
  void finish(int64_t row, int64_t rows, int64_t column, const float* const* blocks,
              int64_t stride) const {
    for (int64_t r = 0; r < rows; ++r) {
      const float *gate = blocks[0] + r * stride, *up = blocks[1] + r * stride;
      BFloat16 *to_gate = to.gate_up.row(row + r) + column, *to_up = to_gate + features;
      BFloat16* to_a = to.a.data ? to.a.row(row + r) + column : nullptr;
      each(kBf16Block, [&](auto at, int64_t j) HWY_ATTR {
        const FloatVec g = rounded_to_bf16(at.load(gate + j)), u = rounded_to_bf16(at.load(up + j));
        at.store(g, to_gate + j);
        at.store(u, to_up + j);
        if (to_a) at.store(rounded_to_bf16(swiglu<F>(g, u)), to_a + j);
      });
    }
  }
};

// Blocks are of the gradient of a.
template <class F>
struct BackwardSink {
  static constexpr int64_t kWidth = 1;
  static constexpr bool kKeeps = false;
  SwigluRows at;
  int64_t features;

  int64_t column(int64_t panel, int64_t) const { return panel * kBf16Block; }
  int64_t panels() const { return features / kBf16Block; }
  void finish(int64_t row, int64_t rows, int64_t column, const float* const* blocks,
              int64_t stride) const {
    for (int64_t r = 0; r < rows; ++r) {
      const float* da = blocks[0] + r * stride;
      BFloat16 *gate = at.gate_up.row(row + r) + column, *up = gate + features;
      BFloat16* a = at.a.row(row + r) + column;
      each(kBf16Block, [&](auto part, int64_t j) HWY_ATTR {
        const FloatVec g = part.load(gate + j), u = part.load(up + j);
        const SwigluSlopes d = swiglu_slopes<F>(g, u, part.load(da + j));
        part.store(rounded_to_bf16(swiglu<F>(g, u)), a + j);
        part.store(rounded_to_bf16(d.gate), gate + j);
        part.store(rounded_to_bf16(d.up), up + j);
      });
    }
  }
};

template <class Sink>
void run(const Bf16Product& x, const Sink& sink) {
  const Bf16Blocks<Sink> blocks(x, sink);
  run_blocks(blocks.blocking(), blocks);
}

void forward(const Bf16Product& x, const SwigluRows& to) {
  with_precision(to.precision, [&](auto f) HWY_ATTR {
    run(x, ForwardSink<decltype(f)>{to, to.gate_up.cols() / 2});
  });
}
void backward(const Bf16Product& x, const SwigluRows& rows) {
  with_precision(rows.precision, [&](auto f) HWY_ATTR {
    run(x, BackwardSink<decltype(f)>{rows, rows.a.cols()});
  });
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
namespace {

HWY_EXPORT(forward);
HWY_EXPORT(backward);

// Where the reduced index has several parts, the sums so far.
Tensor partial_sums(const Product& product, Arena& scratch) {
  const bool has_parts = product.a.cols > kKBlocks * kReductionGroup;
  return scratch.take({has_parts ? product.a.rows : 0, product.b.cols});
}

}  // namespace

bool can_fuse_swiglu(int64_t features) {
  return microkernel() != nullptr && features % kBf16Block == 0;
}

void swiglu_linear_forward(MatrixView<const float> x, const SwigluWeights& weights,
                           const SwigluRows& to, const Microkernel& kernel, Arena& scratch) {
  const MatrixView<const float>& w = weights.rows;
  const int64_t features = w.rows / 2;
  REFRAIN_CHECK(x.cols == w.cols && w.col_stride == 1 && features % kBf16Block == 0);
  REFRAIN_CHECK(to.gate_up.cols() == w.rows && to.gate_up.rows() == x.rows);
  Arena::Frame frame(scratch);
  Product product{x, w.transposed(), {}, nullptr, {}, false};
  product.stored = weights.stored;
  product.c = partial_sums(product, scratch);
  const Bf16Product bf16(product, kernel, features / kBf16Block, 2, scratch);
  if (!scratch.planning() && !product.is_empty()) HWY_DYNAMIC_DISPATCH(forward)(bf16, to);
}

void swiglu_linear_backward(MatrixView<const float> dy, const SwigluWeights& weights,
                            const SwigluRows& rows, const Microkernel& kernel, Arena& scratch) {
  const MatrixView<const float>& w = weights.rows;
  const int64_t features = w.cols;
  REFRAIN_CHECK(dy.cols == w.rows && features % kBf16Block == 0);
  REFRAIN_CHECK(rows.gate_up.cols() == 2 * features && rows.a.cols() == features);
  REFRAIN_CHECK(rows.gate_up.rows() == dy.rows && rows.a.rows() == dy.rows);
  Arena::Frame frame(scratch);
  Product product{dy, w, {}, nullptr, {}, false};
  product.stored = weights.stored;
  product.stored_is_b = true;
  product.c = partial_sums(product, scratch);
  const Bf16Product bf16(product, kernel, features / kBf16Block, 1, scratch);
  if (!scratch.planning() && !product.is_empty()) HWY_DYNAMIC_DISPATCH(backward)(bf16, rows);
}

void swiglu_linear_forward(MatrixView<const float> x, const SwigluWeights& weights,
                           const SwigluRows& to, Arena& scratch) {
  swiglu_linear_forward(x, weights, to, *microkernel(), scratch);
}
void swiglu_linear_backward(MatrixView<const float> dy, const SwigluWeights& weights,
                            const SwigluRows& rows, Arena& scratch) {
  swiglu_linear_backward(dy, weights, rows, *microkernel(), scratch);
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
