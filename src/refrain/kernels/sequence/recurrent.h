// The time loops of the classical recurrent cells, with the equations, the order of gates and the
// weights of PyTorch's nn.RNN (tanh), nn.LSTM and nn.GRU. What depends on the input alone, a = x
// W_ihᵀ + b_ih, is computed before, for all rows at once. The loop adds the part of the previous
// step, p = h[t-1] W_hhᵀ + b_hh:
//
//   rnn              h = tanh(a + p)                                          Elman, 1990
//   lstm  i f g o    i, f, o = σ(a + p),  g = tanh(a + p)                     Hochreiter and
//                    c = f ⊙ c[t-1] + i ⊙ g,  h = o ⊙ tanh(c)                 Schmidhuber, 1997
//   gru   r z n      r, z = σ(a + p),  n = tanh(a + r ⊙ p)                    Cho et al., 2014
//                    h = (1 - z) ⊙ n + z ⊙ h[t-1]
//
// There are G gates and a state of S vectors per unit. Chunks of many lengths run side by side, the
// longest first. So those that still run are the first ones, and no step computes padding. Every
// product is one chain in ascending order (tile-inl.h), so no bit depends on threads or on the rest
// of the batch.
#pragma once
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "refrain/base/arena.h"
#include "refrain/base/tensor.h"
#include "refrain/kernels/elementwise/activation.h"
#include "refrain/kernels/matmul/gemm.h"

namespace refrain::kernels {

enum class Cell { kRnn, kLstm, kGru };
inline constexpr std::array<std::string_view, 3> kCellNames = {"rnn", "lstm", "gru"};
constexpr std::string_view name_of(Cell cell) { return kCellNames[static_cast<size_t>(cell)]; }
constexpr std::optional<Cell> cell_named(std::string_view name) {
  for (const Cell cell : {Cell::kRnn, Cell::kLstm, Cell::kGru})
    if (name_of(cell) == name) return cell;
  return std::nullopt;
}

// G: rnn 1, lstm 4, gru 3
constexpr int64_t gates_of(Cell cell) {
  return cell == Cell::kLstm ? 4 : cell == Cell::kGru ? 3 : 1;
}
// S: h, and an lstm's c
constexpr int64_t states_of(Cell cell) { return cell == Cell::kLstm ? 2 : 1; }

// A chunk of a sequence: rows first .. first + length of every [R, ...] tensor.
struct RecurrentChunk {
  int64_t first, length;
  const float* initial_state;  // [S H]: the state before it, h first
};

// One row for every step of every chunk.
struct RecurrentRows {
  Tensor gates;    // [R, G H]: forward finds a, leaves the gates; backward leaves da
  Tensor h;        // [R, H]; for an rnn it may be `gates`
  Tensor extra{};  // [R, H]: lstm: c, gru: p of n; backward leaves it
};

struct RecurrentWeights {
  Cell cell;
  ConstTensor w_hh, b_hh;  // [G H, H], [G H]
  // w_hh as it is stored (storage.h), or none: forward packs it anew, which is longer than a step.
  // Of another type than float32, w_hh is not read: its sizes suffice; for forward alone.
  PackedWeights packed{};
  // w_hh by pack_columns() (skinny_matmul.h), or null, likewise for backward.
  const float* packed_columns = nullptr;
  ActivationPrecision precision = ActivationPrecision::kAccurate;  // of σ and tanh
};

struct RecurrentGradients {
  ConstTensor dh;  // [R, H]: from what reads h
  // Per chunk [S H], or none: in, of the final state; out, of the initial state.
  std::span<float* const> dstate{};
  Tensor dp{};  // [R, G H], gru only: of p. The others' is da.
};

// Like products, these take their buffers from `scratch` and do nothing else when it only counts.
// With ComputeType::kInt16, the operands of the product with w_hh are rounded (format_int16.h);
// with kBf16 they are where there are units for it (format_bf16.h). Only the operands: the states
// that go from step to step stay float32.
void recurrent_forward(std::span<const RecurrentChunk>, const RecurrentWeights&,
                       const RecurrentRows&, Arena& scratch, ComputeType = ComputeType::kFloat32);
// `rows` as forward wrote them. Gradients of w_hh and b_hh are not computed here: they are dpᵀ
// h[t-1] and the sum of dp, products over all rows.
void recurrent_backward(std::span<const RecurrentChunk>, const RecurrentWeights&,
                        const RecurrentRows& rows, const RecurrentGradients&, Arena& scratch,
                        ComputeType = ComputeType::kFloat32);

}  // namespace refrain::kernels
