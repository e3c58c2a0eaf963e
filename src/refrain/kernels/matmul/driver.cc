#include "refrain/kernels/matmul/driver.h"

#include <algorithm>
#include <array>

#include "refrain/base/error.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain::kernels {
namespace {

// By ComputeType.
constexpr std::array kFormats = {multiply_float32, multiply_bf16, multiply_int16};

}  // namespace

void run_blocks(const Blocking& blocking, const BlockedProduct& product) {
  const auto& [tiles, panels, m_block, n_block, k_parts] = blocking;
  for (int64_t n0 = 0; n0 < panels; n0 += n_block)
    for (int64_t part = 0; part < k_parts; ++part) {
      Block block{0, tiles, n0, std::min(n_block, panels - n0), part};
      if (const auto [tasks, operations] = product.packing_b(block); tasks > 0)
        parallel_for(
            tasks, [&](int64_t task) { product.pack_b(block, task); }, operations);
      for (int64_t m0 = 0; m0 < tiles; m0 += m_block) {
        block.tile = m0;
        block.tiles = std::min(m_block, tiles - m0);
        if (const auto [tasks, operations] = product.packing_a(block); tasks > 0)
          parallel_for(
              tasks, [&](int64_t task) { product.pack_a(block, task); }, operations);
        // A task is a few tiles against a run of panels: enough tasks to share, few enough to keep
        // a tile of A near for long.
        const int64_t want = 4 * threads(), m_tasks = std::min(block.tiles, want);
        const int64_t n_tasks = std::clamp<int64_t>(want / m_tasks, 1, block.panels);
        parallel_for(
            m_tasks * n_tasks,
            [&](int64_t task, int worker) {
              const int64_t i = task / n_tasks, j = task % n_tasks;
              product.multiply(block,
                               {block.tiles * i / m_tasks, block.tiles * (i + 1) / m_tasks,
                                block.panels * j / n_tasks, block.panels * (j + 1) / n_tasks},
                               worker);
            },
            product.operations(block));
      }
    }
}

void gemm(const Operand& a, const Operand& b, MatrixView<float> c, Arena& scratch,
          PackedWeights packed, const MatmulOptions& options) {
  const MatrixView<const float> left = a.f32(), right = b.f32();
  REFRAIN_CHECK(right.rows == left.cols && c.rows == left.rows && c.cols == right.cols &&
                c.col_stride == 1);
  REFRAIN_CHECK(options.cu_seqlens.empty() || options.cu_seqlens.back() == left.cols);
  const bool is_rounded = a.is_bf16() || b.is_bf16();
  REFRAIN_CHECK(!is_rounded || (options.compute_type == ComputeType::kBf16 && has_bf16_units()));
  const Product product{left,        right,    c,       packed, options.cu_seqlens,
                        options.add, a.bf16(), b.bf16()};
  const bool is_few = left.rows <= kFewRows && left.col_stride == 1 &&
                      options.compute_type == ComputeType::kFloat32;
  if (packed && (packed.type != Storage::kFloat32 || is_few))
    return multiply_packed(product, scratch);
  kFormats[static_cast<size_t>(options.compute_type)](product, scratch);
}

void linear_forward(const Operand& x, MatrixView<const float> w, MatrixView<float> y,
                    Arena& scratch, PackedWeights packed, const MatmulOptions& options) {
  gemm(x, w.transposed(), y, scratch, packed, options);
}
void linear_backward_input(const Operand& dy, MatrixView<const float> w, MatrixView<float> dx,
                           Arena& scratch, const MatmulOptions& options) {
  gemm(dy, w, dx, scratch, {}, options);
}
void linear_backward_weight(const Operand& dy, const Operand& x, MatrixView<float> dw,
                            Arena& scratch, const MatmulOptions& options) {
  if (!dw) return;
  MatmulOptions adding = options;
  adding.add = true;
  gemm(dy.transposed(), x, dw, scratch, {}, adding);
}

}  // namespace refrain::kernels
