// Rotary position embedding, RoPE (Su et al., 2021, arXiv 2104.09864): pair i of a head at position
// m is rotated by the angle m rope_theta^(-2i/d),
//
//   (a, b) -> (a cos - b sin, a sin + b cos)
//
// rope_theta is the base of RoPE (AttentionConfig). The gradient is the inverse rotation.
//
// Models that were trained further on longer texts turn by a scaled frequency f of each pair:
//
//   linear   f / factor (Chen et al., 2023)
//   llama3   by the wavelength 2π / f (Llama 3.1): f / factor where it is more than
//            original_context / low_freq_factor, f where it is less than original_context /
//            high_freq_factor, between them a mean of both, linear in original_context / wavelength
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "refrain/base/matrix_view.h"

namespace refrain::kernels {

// The elements of a head of width d that make pair i.
enum class RopePairing {
  kHalf,      // (i, i + d/2): Hugging Face's Llama
  kAdjacent,  // (2i, 2i + 1): the paper, llama2.c
};

struct RopeScaling {
  enum class Kind { kNone, kLinear, kLlama3 } kind = Kind::kNone;
  double factor = 1;
  double low_freq_factor = 1, high_freq_factor = 4, original_context = 8192;  // of llama3
};
// Radians per position of each pair of a head, [head_dim / 2].
std::vector<double> rope_frequencies(double rope_theta, int64_t head_dim, const RopeScaling& = {});

// Cosines and sines of positions 0 .. P-1, each [P, d/2]. Those of later positions are computed
// when they are needed, by the same formula.
struct RopeTable {
  ConstTensor cos, sin;
  std::span<const double> frequencies;  // [d/2]
};
// Fills the table; angles are computed in double precision and rounded once.
void rope_table(std::span<const double> frequencies, Tensor cos, Tensor sin);

// Rotates every head of row r of x by positions[r] >= 0, in place; with `inverse`, backwards. A row
// is heads side by side, as wide as the table is for.
void rope_apply(MatrixView<float> x, std::span<const int32_t> positions, const RopeTable& table,
                RopePairing pairing, bool inverse);

}  // namespace refrain::kernels
