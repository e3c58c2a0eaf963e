// Rotary position embedding, RoPE (Su et al., 2021, arXiv 2104.09864): pair i of a head at position
// m is rotated by the angle m rope_theta^(-2i/d),
//
//   (a, b) -> (a cos - b sin, a sin + b cos)
//
// rope_theta is the base of RoPE (AttentionConfig). The gradient is the inverse rotation.
#pragma once
#include <cstdint>
#include <span>

#include "refrain/base/matrix_view.h"

namespace refrain::kernels {

// The elements of a head of width d that make pair i.
enum class RopePairing {
  kHalf,      // (i, i + d/2): Hugging Face's Llama
  kAdjacent,  // (2i, 2i + 1): the paper, llama2.c
};

// Cosines and sines of positions 0 .. P-1, each [P, d/2]. Those of later positions are computed
// when they are needed, by the same formula.
struct RopeTable {
  ConstTensor cos, sin;
  double rope_theta;
};
// Fills the table; angles are computed in double precision and rounded once.
void rope_table(double rope_theta, Tensor cos, Tensor sin);

// Rotates every head of row r of x by positions[r] >= 0, in place; with `inverse`, backwards. A row
// is heads side by side, as wide as the table is for.
void rope_apply(MatrixView<float> x, std::span<const int32_t> positions, const RopeTable& table,
                RopePairing pairing, bool inverse);

}  // namespace refrain::kernels
