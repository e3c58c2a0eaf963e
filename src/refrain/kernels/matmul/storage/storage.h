// How the numbers of a weight matrix w [N, K] are stored, and the one layout in which all products
// read them: panels of 32 rows of w, cut into groups of 32 of its columns (the reduced index), zero
// beyond N and K.
//
//   f32    [N/32][K]{[32 rows] float}                   K as it is, not rounded up to groups
//   bf16   [N/32][K/32]{[2][16 pairs][16 rows][2]}      pair i: columns i and 16 + i of the group,
//   f16    the same                                     half h: rows 16 h to 16 h + 15
//   q8_0   [N/32][K/32]{d [32] f16, [8][32 rows][4] u8}         w = d (q - 128)
//   q4     [N/32][K/32]{d [32] f16, m [32] f16,                 w = d q + m, q in 0 .. 15
//                       [4][32 rows][4] u8}             vector j: columns 4 j to 4 j + 3 of the
//                                                       group in the low halves of its bytes, and
//                                                       16 after them in the high halves
//
// q8_0 has the blocks of GGML's type of that name (32 numbers of a row, one scale), q4 those of its
// Q4_1 (a scale and a minimum), regrouped by panels; numbers of q8_0 stand 128 higher, as units for
// products of bytes want one operand without a sign. Every group is a multiple of 64 bytes.
//
// What is multiplied with them (docs/decisions/0018-storage-types.md):
//
//   f32, f16     x as it is: one chain of fused multiply-adds in ascending k, as every product
//   bf16         x rounded to bfloat16: the sums of format_bf16.h
//   q8_0, q4     x by blocks of 32 as q8_0: s q with s = max |x| / 127. The sum of a block's
//                integer products is exact; blocks follow one another as a chain of fused
//                multiply-adds. So no bit depends on the instruction set either
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "refrain/base/tensor.h"

namespace refrain {

enum class Storage : uint8_t { kFloat32, kBf16, kFloat16, kQ8_0, kQ4 };

namespace kernels {

inline constexpr std::array<std::string_view, 5> kStorageNames = {"f32", "bf16", "f16", "q8_0",
                                                                  "q4"};
constexpr std::string_view name_of(Storage type) {
  return kStorageNames[static_cast<size_t>(type)];
}
constexpr std::optional<Storage> storage_named(std::string_view name) {
  for (size_t i = 0; i < kStorageNames.size(); ++i)
    if (kStorageNames[i] == name) return static_cast<Storage>(i);
  return std::nullopt;
}

inline constexpr int64_t kWeightPanel = 32;  // rows of w
inline constexpr int64_t kWeightGroup = 32;  // columns of w

constexpr int64_t weight_groups(int64_t K) { return (K + kWeightGroup - 1) / kWeightGroup; }
constexpr int64_t weight_panels(int64_t N) { return (N + kWeightPanel - 1) / kWeightPanel; }

// Bytes of a panel's group; of f32, of as many columns.
constexpr size_t group_bytes(Storage type) {
  constexpr size_t kNumbers = size_t{kWeightPanel} * kWeightGroup, kScales = 2 * kWeightPanel;
  switch (type) {
    case Storage::kFloat32:
      return 4 * kNumbers;
    case Storage::kBf16:
    case Storage::kFloat16:
      return 2 * kNumbers;
    case Storage::kQ8_0:
      return kNumbers + kScales;
    case Storage::kQ4:
      return kNumbers / 2 + 2 * kScales;
  }
  return 0;
}
constexpr size_t panel_bytes(Storage type, int64_t K) {
  if (type == Storage::kFloat32) return size_t{kWeightPanel} * static_cast<size_t>(K) * 4;
  return static_cast<size_t>(weight_groups(K)) * group_bytes(type);
}
constexpr size_t packed_bytes(Storage type, int64_t N, int64_t K) {
  return static_cast<size_t>(weight_panels(N)) * panel_bytes(type, K);
}

// A matrix in that layout, 64-byte aligned; its sizes are known from elsewhere.
struct PackedWeights {
  Storage type = Storage::kFloat32;
  const std::byte* data = nullptr;

  PackedWeights() = default;
  PackedWeights(Storage type_, const std::byte* data_) : type(type_), data(data_) {}
  PackedWeights(const float* floats) : data(reinterpret_cast<const std::byte*>(floats)) {}
  explicit operator bool() const { return data != nullptr; }
  const float* floats() const {  // null of another type
    return type == Storage::kFloat32 ? reinterpret_cast<const float*>(data) : nullptr;
  }
  // From `panel` on, of a matrix with K columns.
  PackedWeights panels_from(int64_t panel, int64_t K) const {
    if (!data) return *this;
    return {type, data + static_cast<size_t>(panel) * panel_bytes(type, K)};
  }
};

// Rows of a matrix, from the first of a panel on, as many as end with a panel or with the matrix.
void pack(Storage type, ConstTensor rows, std::byte* to);
// Row `row` of a matrix of K columns as it was stored, as float32.
void unpack_row(PackedWeights, int64_t row, int64_t K, float* to);
void unpack_rows(PackedWeights, std::span<const int32_t> rows, Tensor to);  // to [rows, K]
// The rows of `to` from the first of a panel on.
void unpack(PackedWeights, Tensor to);

}  // namespace kernels
}  // namespace refrain
