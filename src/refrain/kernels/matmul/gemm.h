// The three matrix products of a linear map y = x wᵀ, with w [N, K] stored as files store it.
//
//   linear_forward           y[M, N]  = x wᵀ       reduces over K
//   linear_backward_input    dx[M, K] = dy w       reduces over N
//   linear_backward_weight   dw[N, K] += dyᵀ x     reduces over the M rows; dw may be null
//
// Every element is one chain of fused multiply-adds in ascending order of the reduced index. So no
// result depends on blocking, threads, or how many rows go in one call, and a weight gradient is
// the same to the bit when its rows come in several calls (micro-batches).
#pragma once
#include <span>
#include <type_traits>
#include <utility>

#include "refrain/base/arena.h"
#include "refrain/base/matrix_view.h"
#include "refrain/base/tensor.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/storage/storage.h"

namespace refrain::kernels {

// How operands enter a product. It comes out as float32 in any case.
enum class ComputeType : uint8_t {
  kFloat32,
  // Rounded to bfloat16, and multiplied by the units there are for that
  // (kernels/matmul/format_bf16.h), or as float32 where there are none: slower than those, and not
  // the same to the last bit.
  kBf16,
  // Rounded to 16-bit integers with scales that many numbers share (kernels/matmul/format_int16.h).
  kInt16,
};

// What rounds operands reduces rows in groups that are cut from the start of each chunk. A chunk
// may be given in several calls that are cut at multiples of so many rows.
inline constexpr int64_t kReductionGroupRows = 64;

struct MatmulOptions {
  ComputeType compute_type = ComputeType::kFloat32;
  // Where rows are reduced: offsets of the chunks they are of, from 0 to K. Empty: features are.
  std::span<const int32_t> cu_seqlens{};
  bool add = false;  // to what the product's place holds
};

// A matrix that enters a product: of float32, or of bfloat16 where products are of that type and
// the machine has units for it. What was rounded already gives the same numbers as what is rounded
// on its way into the product.
class Operand {
 public:
  template <class... Args>
  requires std::is_constructible_v<MatrixView<const float>, Args...> Operand(Args&&... args)
      : f32_(std::forward<Args>(args)...) {}
  template <class T>
  requires std::is_constructible_v<MatrixView<const BFloat16>, T> Operand(const T& x)
      : bf16_(x), is_bf16_(true) {}

  bool is_bf16() const { return is_bf16_; }
  MatrixView<const BFloat16> bf16() const { return bf16_; }
  // Of bfloat16, its sizes and strides without a place.
  MatrixView<const float> f32() const {
    if (!is_bf16_) return f32_;
    return {nullptr, bf16_.rows, bf16_.cols, bf16_.row_stride, bf16_.col_stride};
  }
  Operand transposed() const { return is_bf16_ ? Operand(bf16_.transposed()) : f32_.transposed(); }

 private:
  MatrixView<const float> f32_;
  MatrixView<const BFloat16> bf16_;
  bool is_bf16_ = false;
};

// There are units for products of bfloat16, and they may be used.
bool has_bf16_units();

// C [M, N] = A [M, K] B [K, N], or C + A B. Takes a packing buffer from `scratch`; does nothing
// else when scratch only counts. `packed`: Bᵀ in the layout of storage.h, or none; of float32 it
// gives the same numbers: packing B anew for every call costs more than the product itself when A
// has few rows. Where it is given, and operands enter as float32, B itself is not read: its sizes
// suffice. One of A's strides is 1, and so is C's from column to column.
void gemm(const Operand& a, const Operand& b, MatrixView<float> c, Arena& scratch,
          PackedWeights packed = {}, const MatmulOptions& = {});

void linear_forward(const Operand& x, MatrixView<const float> w, MatrixView<float> y,
                    Arena& scratch, PackedWeights packed = {}, const MatmulOptions& = {});
void linear_backward_input(const Operand& dy, MatrixView<const float> w, MatrixView<float> dx,
                           Arena& scratch, const MatmulOptions& = {});
// Adds in any case.
void linear_backward_weight(const Operand& dy, const Operand& x, MatrixView<float> dw,
                            Arena& scratch, const MatmulOptions& = {});

// Of w [N, K] in float32: storage.h's layout of that type.
inline int64_t packed_size(int64_t N, int64_t K) {
  return (N + kWeightPanel - 1) / kWeightPanel * kWeightPanel * K;
}
void pack_weight(ConstTensor w, float* to);

}  // namespace refrain::kernels
