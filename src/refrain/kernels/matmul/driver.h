// The frame that all products C = A B share. A format says how operands enter a product: it packs
// blocks of them and has a microkernel that multiplies what is packed. Which blocks there are, in
// what order, and which task does what is here (cf. BLIS: Van Zee and van de Geijn, 2015):
//
//   for each block of B's columns
//     for each part of the reduced index
//       pack B's block                    by all threads; it stays in the second-level cache
//       for each block of A's rows
//         pack A's block                  by all threads, where tasks do not pack their own rows
//         multiply                        a task: some tiles of A against some panels of B
//
// A tile is the rows of A, a panel the columns of B, that a microkernel takes at a time. A format
// is one file that defines a BlockedProduct, and one line in the table of driver.cc.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/arena.h"
#include "refrain/base/matrix_view.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/storage/storage.h"

namespace refrain::kernels {

// What gemm() was asked for.
struct Product {
  MatrixView<const float> a, b;  // of bfloat16, their sizes and strides alone
  MatrixView<float> c;
  PackedWeights packed;  // bᵀ, or none
  std::span<const int32_t> cu_seqlens;
  bool add;
  MatrixView<const BFloat16> a16{}, b16{};
  // Or bᵀ, and with `stored_is_b` b itself, as numbers in any storage that packing b unpacks.
  PackedWeights stored{};
  bool stored_is_b = false;

  bool is_empty() const { return a.rows == 0 || b.cols == 0 || a.cols == 0; }
};

// Tiles and panels of the whole product, and as many of them as make a block; parts of the reduced
// index.
struct Blocking {
  int64_t tiles, panels, m_block, n_block, k_parts;
};

// Tiles [tile, tile + tiles) against panels [panel, panel + panels), over a part of the reduced
// index.
struct Block {
  int64_t tile, tiles, panel, panels, part;
};

// Tasks that may run at the same time, and what they take together in floating-point operations.
struct TaskCount {
  int64_t tasks, operations;
};

// Within a block.
struct TaskRange {
  int64_t first_tile, last_tile, first_panel, last_panel;
};

class BlockedProduct {
 public:
  virtual TaskCount packing_b(const Block&) const = 0;
  virtual void pack_b(const Block&, int64_t task) const = 0;
  virtual TaskCount packing_a(const Block&) const { return {0, 0}; }
  virtual void pack_a(const Block&, int64_t) const {}
  virtual int64_t operations(const Block&) const = 0;
  virtual void multiply(const Block&, const TaskRange&, int worker) const = 0;

 protected:
  ~BlockedProduct() = default;
};

void run_blocks(const Blocking&, const BlockedProduct&);

inline int64_t blocks_of(int64_t n, int64_t size) { return (n + size - 1) / size; }

// The formats. Each takes its buffers from `scratch`, and does nothing else when it only counts.
void multiply_float32(const Product&, Arena& scratch);
void multiply_bf16(const Product&, Arena& scratch);
void multiply_int16(const Product&, Arena& scratch);
// Operands are rounded to bfloat16 and multiplied as float32.
void multiply_rounded(const Product&, Arena& scratch);
// With weights as they are stored; of float32, few rows alone.
void multiply_packed(const Product&, Arena& scratch);
inline constexpr int64_t kFewRows = 8;

}  // namespace refrain::kernels
