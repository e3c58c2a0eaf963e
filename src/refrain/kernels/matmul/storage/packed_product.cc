// Products with weights in the layout of storage.h: which of the ways to multiply them there are
// for a type, a number of rows and this machine. Any number of rows gives the same bits.
#include <algorithm>

#include "refrain/base/error.h"
#include "refrain/kernels/matmul/driver.h"
#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/skinny_matmul.h"
#include "refrain/kernels/matmul/storage/panels.h"
#include "refrain/kernels/matmul/storage/quantised.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/storage/packed_product.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/bf16_pairs-inl.h"
#include "refrain/kernels/matmul/storage/halves-inl.h"
#include "refrain/kernels/matmul/tile-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

// Row `row` of x as few_rows() and block() of a Microkernel read it: groups `step` floats apart.
void pack_row(MatrixView<const float> x, int64_t row, int64_t step, float* to) {
  const float* from = x.row(row);
  for (int64_t k = 0; k < x.cols; k += kReductionGroup, to += step) {
    const int64_t n = std::min(kReductionGroup, x.cols - k);
    pack_pairs(from + k, n, from + k + kHalf, n - kHalf, to);
  }
}

void round_row(MatrixView<const float> x, int64_t row, float* to) {
  each(x.cols, [&](auto at, int64_t k)
                   HWY_ATTR { at.store(rounded_to_bf16(at.load(x.row(row) + k)), to + k); });
}

// Rows of x that meet a panel at a time: their sums stay in registers.
constexpr int kRowsByHalves = HWY_TARGET <= HWY_AVX3 ? 4 : HWY_TARGET <= HWY_AVX2 ? 2 : 1;

// Some rows of x against a panel. y [M, 32] (+)=, which continues chains.
template <Storage type, int M>
HWY_NOINLINE void rows_by_halves(MatrixView<const float> x, const std::byte* panel,
                                 MatrixView<float> y, bool add) {
  const FloatTag d;
  constexpr int kLanes = static_cast<int>(hn::MaxLanes(d)), kVectors = kWeightPanel / kLanes;
  constexpr int kOfHalf = kVectors / 2;
  FloatVec sums[M][kVectors];
  REFRAIN_UNROLL
  for (int m = 0; m < M; ++m) REFRAIN_UNROLL
  for (int v = 0; v < kVectors; ++v)
    sums[m][v] = add ? hn::LoadU(d, y.row(m) + v * kLanes) : hn::Zero(d);
  // As the panel lies in memory, or prefetchers do not follow.
  each_half<type>(panel, x.cols,
                  [&](auto half, int64_t k, const std::byte* pairs, auto second) HWY_ATTR {
                    FloatVec w[kOfHalf];
                    REFRAIN_UNROLL
                    for (int v = 0; v < kOfHalf; ++v)
                      w[v] = half_of<type, second>(pairs + v * kLanes * sizeof(uint32_t));
                    REFRAIN_UNROLL
                    for (int m = 0; m < M; ++m) {
                      const FloatVec xk = hn::Set(d, x.row(m)[k]);
                      REFRAIN_UNROLL
                      for (int v = 0; v < kOfHalf; ++v) {
                        FloatVec& sum = sums[m][half * kOfHalf + v];
                        sum = hn::MulAdd(xk, w[v], sum);
                      }
                    }
                  });
  REFRAIN_UNROLL
  for (int m = 0; m < M; ++m) REFRAIN_UNROLL
  for (int v = 0; v < kVectors; ++v) hn::StoreU(sums[m][v], d, y.row(m) + v * kLanes);
}
template <Storage type, int M = kRowsByHalves>
void few_rows_by_halves(MatrixView<const float> x, const std::byte* panel, MatrixView<float> y,
                        bool add) {
  if (x.rows == M) return rows_by_halves<type, M>(x, panel, y, add);
  if constexpr (M > 1) few_rows_by_halves<type, M - 1>(x, panel, y, add);
}
// y [x.rows, 32]: whole lines.
void halves_panel(MatrixView<const float> x, PackedWeights panel, MatrixView<float> y, bool add) {
  for (int64_t m = 0; m < x.rows; m += kRowsByHalves) {
    const int64_t n = std::min<int64_t>(kRowsByHalves, x.rows - m);
    const auto rows = x.row_range(m, n);
    if (panel.type == Storage::kBf16)
      few_rows_by_halves<Storage::kBf16>(rows, panel.data, y.row_range(m, n), add);
    else
      few_rows_by_halves<Storage::kFloat16>(rows, panel.data, y.row_range(m, n), add);
  }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(pack_row);
HWY_EXPORT(round_row);
HWY_EXPORT(halves_panel);

namespace {

void multiply_few_float32(const Product& x) {
  skinny_matmul({x.packed.floats(), x.c.cols, x.a.cols}, x.a, {.y = x.c, .add = x.add});
}

void multiply_few_bf16(const Product& x, const Microkernel& kernel, Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t M = x.a.rows, groups = weight_groups(x.a.cols);
  // By rows, or as the 32 of a block, the others zero.
  const bool by_rows = kernel.few_rows;
  const int64_t step = by_rows ? 16 : kGroupPairs, row = by_rows ? groups * 16 : 16;
  const Tensor a = scratch.take({by_rows ? M * row : groups * kGroupPairs});
  if (scratch.planning() || x.is_empty()) return;
  if (!by_rows) std::fill(a.begin(), a.end(), 0.0f);
  for (int64_t m = 0; m < M; ++m) HWY_DYNAMIC_DISPATCH(pack_row)(x.a, m, step, a.data + m * row);
  each_panel(x.packed, x.a.cols, x.c, [&](PackedWeights panel, MatrixView<float> y) {
    alignas(64) float part[kBf16Block * kBf16Block] = {};
    const auto* b = reinterpret_cast<const float*>(panel.data);
    if (x.add) read_panel(y, part);
    if (by_rows) {
      kernel.few_rows(a.data, M, b, groups, part, x.add);
    } else {
      if (kernel.begin) kernel.begin();
      kernel.block(a.data, b, groups, part, kBf16Block, x.add);
      if (kernel.end) kernel.end();
    }
    write_panel(part, y, false);
  });
}

void multiply_few_halves(const Product& product, Arena& scratch) {
  Arena::Frame frame(scratch);
  Product x = product;
  if (x.packed.type == Storage::kBf16) {
    const Tensor rounded = scratch.take({x.a.rows, x.a.cols});
    for (int64_t m = 0; m < x.a.rows && !scratch.planning(); ++m)
      HWY_DYNAMIC_DISPATCH(round_row)(x.a, m, rounded.row(m));
    x.a = rounded;
  }
  if (scratch.planning() || x.is_empty()) return;
  each_panel(x.packed, x.a.cols, x.c, [&](PackedWeights panel, MatrixView<float> y) {
    alignas(64) float part[kFewRows * kWeightPanel] = {};
    if (x.add) read_panel(y, part);
    HWY_DYNAMIC_DISPATCH(halves_panel)(x.a, panel, {part, y.rows, kWeightPanel}, x.add);
    write_panel(part, y, false);
  });
}

}  // namespace

void multiply_packed(const Product& x, Arena& scratch) {
  REFRAIN_CHECK(x.a.col_stride == 1 && x.c.col_stride == 1 && !x.a16);
  const bool is_few = x.a.rows <= kFewRows;
  const Microkernel* kernel = microkernel();
  switch (x.packed.type) {
    case Storage::kFloat32:
      REFRAIN_CHECK(is_few);
      if (!scratch.planning() && !x.is_empty()) multiply_few_float32(x);
      return;
    case Storage::kBf16:
      if (kernel)
        return is_few ? multiply_few_bf16(x, *kernel, scratch) : multiply_bf16(x, *kernel, scratch);
      return is_few ? multiply_few_halves(x, scratch) : multiply_rounded(x, scratch);
    case Storage::kFloat16:
      return is_few ? multiply_few_halves(x, scratch) : multiply_float32(x, scratch);
    case Storage::kQ8_0:
    case Storage::kQ4:
      return multiply_quantised(x.a, x.packed, x.c, x.add, scratch);
  }
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
