#include "refrain/kernels/matmul/storage/storage.h"

#include <algorithm>
#include <cstring>

#include "refrain/base/error.h"
#include "refrain/base/float16.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/kernels/matmul/storage/storage_ref.h"

namespace refrain::kernels {
namespace {

constexpr int64_t kPairs = kWeightGroup / 2;

// Of a group's row and column, the place of a number of 16 bits.
constexpr int64_t place_of_half(int64_t row, int64_t column) {
  return (row / 16 * kPairs + column % kPairs) * 32 + row % 16 * 2 + column / kPairs;
}

template <class Half>
void pack_halves(int64_t row, const float* x, int64_t n, std::byte* group) {
  auto* to = reinterpret_cast<Half*>(group);
  for (int64_t k = 0; k < n; ++k) to[place_of_half(row, k)] = Half::of(x[k]);
}
template <class Half>
void unpack_halves(int64_t row, const std::byte* group, int64_t n, float* to) {
  const auto* from = reinterpret_cast<const Half*>(group);
  for (int64_t k = 0; k < n; ++k) to[k] = static_cast<float>(from[place_of_half(row, k)]);
}

void put_block(int64_t row, const Q8Block& block, std::byte* group) {
  reinterpret_cast<Float16*>(group)[row] = block.d;
  auto* q = reinterpret_cast<uint8_t*>(group + 2 * kWeightPanel) + row * 4;
  for (size_t i = 0; i < kWeightGroup; ++i)
    q[i / 4 * 4 * kWeightPanel + i % 4] = static_cast<uint8_t>(block.q[i] + 128);
}
void unpack_q8_0(int64_t row, const std::byte* group, int64_t n, float* to) {
  const auto d = static_cast<float>(reinterpret_cast<const Float16*>(group)[row]);
  const auto* q = reinterpret_cast<const uint8_t*>(group + 2 * kWeightPanel) + row * 4;
  for (int64_t i = 0; i < n; ++i)
    to[i] = d * static_cast<float>(q[i / 4 * 4 * kWeightPanel + i % 4] - 128);
}

void put_block(int64_t row, const Q4Block& block, std::byte* group) {
  auto* scales = reinterpret_cast<Float16*>(group);
  scales[row] = block.d;
  scales[kWeightPanel + row] = block.m;
  auto* q = reinterpret_cast<uint8_t*>(group + 4 * kWeightPanel) + row * 4;
  for (size_t i = 0; i < 16; ++i)
    q[i / 4 * 4 * kWeightPanel + i % 4] = static_cast<uint8_t>(block.q[i] | block.q[i + 16] << 4);
}
void unpack_q4(int64_t row, const std::byte* group, int64_t n, float* to) {
  const auto* scales = reinterpret_cast<const Float16*>(group);
  const auto d = static_cast<float>(scales[row]),
             m = static_cast<float>(scales[kWeightPanel + row]);
  const auto* q = reinterpret_cast<const uint8_t*>(group + 4 * kWeightPanel) + row * 4;
  for (int64_t i = 0; i < n; ++i) {
    const uint8_t both = q[i % 16 / 4 * 4 * kWeightPanel + i % 4];
    to[i] = d * static_cast<float>(i < 16 ? both & 15 : both >> 4) + m;
  }
}

// Some of a row, which fill a group or end it.
void pack_group(Storage type, int64_t row, const float* x, int64_t n, std::byte* group) {
  if (type == Storage::kBf16) return pack_halves<BFloat16>(row, x, n, group);
  if (type == Storage::kFloat16) return pack_halves<Float16>(row, x, n, group);
  std::array<float, kWeightGroup> block{};
  std::copy_n(x, n, block.data());
  // Of q4, zeros would move the minimum of those that are there.
  if (type == Storage::kQ4) std::fill(block.begin() + n, block.end(), x[0]);
  type == Storage::kQ8_0 ? put_block(row, quantise_q8_0(block), group)
                         : put_block(row, quantise_q4(block), group);
}
void unpack_group(Storage type, int64_t row, const std::byte* group, int64_t n, float* to) {
  switch (type) {
    case Storage::kFloat32:
      for (int64_t k = 0; k < n; ++k)
        to[k] = reinterpret_cast<const float*>(group)[k * kWeightPanel + row];
      return;
    case Storage::kBf16:
      return unpack_halves<BFloat16>(row, group, n, to);
    case Storage::kFloat16:
      return unpack_halves<Float16>(row, group, n, to);
    case Storage::kQ8_0:
      return unpack_q8_0(row, group, n, to);
    case Storage::kQ4:
      return unpack_q4(row, group, n, to);
  }
}

// Rows [N, K] into panels; put_group(row, k, group) puts those of a row from k on.
template <class F>
void fill_panels(Storage type, int64_t N, int64_t K, std::byte* to, F&& put_group) {
  const size_t bytes = panel_bytes(type, K);
  constexpr int64_t kCost = 64;  // operations that a number takes
  parallel_for(
      weight_panels(N),
      [&](int64_t p) {
        std::byte* panel = to + static_cast<size_t>(p) * bytes;
        std::memset(panel, 0, bytes);
        const int64_t first = p * kWeightPanel, n = std::min(kWeightPanel, N - first);
        for (int64_t k = 0; k < K; k += kWeightGroup, panel += group_bytes(type))
          for (int64_t row = 0; row < n; ++row) put_group(first + row, k, panel);
      },
      kCost * N * K);
}

template <class Block>
void fill_with_blocks(Storage type, std::span<const Block> blocks, int64_t K, std::byte* to) {
  const int64_t groups = K / kWeightGroup;
  REFRAIN_CHECK(K % kWeightGroup == 0 && std::ssize(blocks) % groups == 0);
  fill_panels(type, std::ssize(blocks) / groups, K, to,
              [&](int64_t row, int64_t k, std::byte* group) {
                put_block(row % kWeightPanel,
                          blocks[static_cast<size_t>(row * groups + k / kWeightGroup)], group);
              });
}

}  // namespace

void pack(Storage type, ConstTensor rows, std::byte* to) {
  if (type == Storage::kFloat32) return pack_weight(rows, reinterpret_cast<float*>(to));
  const int64_t K = rows.cols();
  fill_panels(type, rows.rows(), K, to, [&](int64_t row, int64_t k, std::byte* group) {
    pack_group(type, row % kWeightPanel, rows.row(row) + k, std::min(kWeightGroup, K - k), group);
  });
}

void pack_blocks(std::span<const Q8Block> blocks, int64_t K, std::byte* to) {
  fill_with_blocks(Storage::kQ8_0, blocks, K, to);
}
void pack_blocks(std::span<const Q4Block> blocks, int64_t K, std::byte* to) {
  fill_with_blocks(Storage::kQ4, blocks, K, to);
}

void unpack_row(PackedWeights w, int64_t row, int64_t K, float* to) {
  const std::byte* group = w.panels_from(row / kWeightPanel, K).data;
  for (int64_t k = 0; k < K; k += kWeightGroup, group += group_bytes(w.type))
    unpack_group(w.type, row % kWeightPanel, group, std::min(kWeightGroup, K - k), to + k);
}

void unpack_rows(PackedWeights w, std::span<const int32_t> rows, Tensor to) {
  constexpr int64_t kCost = 16;
  parallel_for(
      std::ssize(rows),
      [&](int64_t i) { unpack_row(w, rows[static_cast<size_t>(i)], to.cols(), to.row(i)); },
      kCost * to.size());
}

void unpack(PackedWeights w, Tensor to) {
  parallel_ranges(to.rows(), kWeightPanel, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) unpack_row(w, row, to.cols(), to.row(row));
  });
}

}  // namespace refrain::kernels
