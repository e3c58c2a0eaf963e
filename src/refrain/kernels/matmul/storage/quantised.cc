#include "refrain/kernels/matmul/storage/quantised.h"

#include <algorithm>

#include "refrain/base/float16.h"
#include "refrain/base/parallel.h"
#include "refrain/kernels/matmul/storage/panels.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "refrain/kernels/matmul/storage/quantised.cc"
#include "hwy/foreach_target.h"  // IWYU pragma: keep
#include "hwy/highway.h"
#include "refrain/kernels/matmul/int16-inl.h"
#include "refrain/kernels/simd-inl.h"

HWY_BEFORE_NAMESPACE();
namespace refrain::kernels::HWY_NAMESPACE {

using IntTag = hn::RebindToSigned<FloatTag>;
using IntVec = hn::Vec<IntTag>;

// storage_ref.h's quantise_activations(), of each block of rows [first, last).
void quantise_rows(MatrixView<const float> x, const QuantisedRows& to, int64_t first,
                   int64_t last) {
  const FloatTag d;
  const IntTag di;
  const hn::Rebind<int8_t, FloatTag> d8;
  const int64_t N = float_lanes();
  constexpr float kTooSmall = 0x1p-100f;
  for (int64_t row = first; row < last; ++row) {
    for (int64_t g = 0; g < to.groups; ++g) {
      const int64_t at = row * to.groups + g, n = std::min(kWeightGroup, x.cols - g * kWeightGroup);
      const float* from = x.row(row) + g * kWeightGroup;
      FloatVec most = hn::Zero(d), bad = hn::Zero(d);
      each(n, [&](auto part, int64_t i) HWY_ATTR {
        const auto v = part.load(from + i);
        most = hn::Max(most, hn::Abs(v));
        bad = hn::MulAdd(v, hn::Zero(d), bad);
      });
      float largest = hn::GetLane(hn::MaxOfLanes(d, most));
      if (largest < kTooSmall) largest = 0;
      const float not_finite = hn::GetLane(hn::SumOfLanes(d, bad));
      if (!(not_finite == 0)) largest = not_finite;
      const auto inverse = hn::Set(d, largest > 0 ? 127 / largest : 0);
      int8_t* q = to.q + at * kWeightGroup;
      std::fill(q + n / N * N, q + kWeightGroup, int8_t{0});
      IntVec sums = hn::Zero(di);
      each(n, [&](auto part, int64_t i) HWY_ATTR {
        auto v = hn::NearestInt(hn::Mul(part.load(from + i), inverse));
        v = hn::Min(hn::Max(v, hn::Set(di, -127)), hn::Set(di, 127));
        sums = hn::Add(sums, v);
        hn::StoreU(hn::DemoteTo(d8, v), d8, q + i);
      });
      const int32_t sum = hn::GetLane(hn::SumOfLanes(di, sums));
      to.s[at] = largest / 127;
      if (to.offset) to.offset[at] = -128 * sum;
      if (to.sum) to.sum[at] = to.s[at] * static_cast<float>(sum);
    }
  }
}

// Bytes of 32-bit lanes as pairs of 16-bit numbers: the even and the odd ones of each lane. Of w
// without, of x with a sign.
struct EvenOdd {
  IntVec even, odd;
};
HWY_INLINE EvenOdd unsigned_bytes(IntVec v) {
  const IntTag d;
  const hn::RebindToUnsigned<IntTag> du;
  const auto mask = hn::Set(d, 0x00ff00ff);
  const auto shifted = hn::BitCast(d, hn::ShiftRight<8>(hn::BitCast(du, v)));
  return {hn::And(v, mask), hn::And(shifted, mask)};
}
HWY_INLINE EvenOdd signed_bytes(const int8_t* four) {
  const auto pair = [](int32_t low, int32_t high) {
    return hn::Set(IntTag(), static_cast<int32_t>((static_cast<uint32_t>(high) << 16) |
                                                  (static_cast<uint32_t>(low) & 0xffffu)));
  };
  return {pair(four[0], four[2]), pair(four[1], four[3])};
}
HWY_INLINE IntVec dot(IntVec acc, const EvenOdd& w, const int8_t* four) {
  const EvenOdd x = signed_bytes(four);
  return MultiplyAdd::add(MultiplyAdd::add(acc, w.even, x.even), w.odd, x.odd);
}

HWY_INLINE FloatVec float16s(const std::byte* from) {
  const hn::Rebind<hwy::float16_t, FloatTag> d16;
  const hn::Rebind<uint16_t, FloatTag> bits;
  return hn::PromoteTo(FloatTag(),
                       hn::BitCast(d16, hn::LoadU(bits, reinterpret_cast<const uint16_t*>(from))));
}

// N columns of a panel, from column `column` on, against one row.
template <Storage type>
HWY_INLINE FloatVec row_by_columns(const QuantisedRows& x, int64_t row, const std::byte* w,
                                   int64_t column) {
  constexpr bool kQ4 = type == Storage::kQ4;
  const FloatTag d;
  const IntTag di;
  const auto low = hn::Set(di, 0x0f0f0f0f);
  const auto scale_at = [&](int64_t which) { return w + (which * kWeightPanel + column) * 2; };
  FloatVec acc = hn::Zero(d);
  for (int64_t g = 0; g < x.groups; ++g, w += group_bytes(type)) {
    const int64_t at = row * x.groups + g;
    const int8_t* q = x.q + at * kWeightGroup;
    const std::byte* bytes = w + (kQ4 ? 4 : 2) * kWeightPanel + column * 4;
    IntVec sum = kQ4 ? hn::Zero(di) : hn::Set(di, x.offset[at]);
    for (int64_t j = 0; j < (kQ4 ? 4 : 8); ++j, bytes += 4 * kWeightPanel) {
      const auto v = hn::LoadU(di, reinterpret_cast<const int32_t*>(bytes));
      if constexpr (kQ4) {
        const hn::RebindToUnsigned<IntTag> du;
        const auto high = hn::BitCast(di, hn::ShiftRight<4>(hn::BitCast(du, v)));
        sum = dot(sum, unsigned_bytes(hn::And(v, low)), q + 4 * j);
        sum = dot(sum, unsigned_bytes(hn::And(high, low)), q + 16 + 4 * j);
      } else {
        sum = dot(sum, unsigned_bytes(v), q + 4 * j);
      }
    }
    const auto scale = hn::Mul(float16s(scale_at(0)), hn::Set(d, x.s[at]));
    acc = hn::MulAdd(hn::ConvertTo(d, sum), scale, acc);
    if constexpr (kQ4) acc = hn::MulAdd(float16s(scale_at(1)), hn::Set(d, x.sum[at]), acc);
  }
  return acc;
}

void panel(const QuantisedRows& x, RowRange rows, PackedWeights w, float* y) {
  for (int64_t column = 0; column < kWeightPanel; column += float_lanes())
    for (int64_t m = 0; m < rows.count; ++m) {
      const FloatVec v = w.type == Storage::kQ4
                             ? row_by_columns<Storage::kQ4>(x, rows.first + m, w.data, column)
                             : row_by_columns<Storage::kQ8_0>(x, rows.first + m, w.data, column);
      hn::StoreU(v, FloatTag(), y + m * kWeightPanel + column);
    }
}

}  // namespace refrain::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace refrain::kernels {
HWY_EXPORT(quantise_rows);
HWY_EXPORT(panel);
namespace {

QuantisedRows take_rows(Storage type, int64_t M, int64_t K, Arena& scratch) {
  const int64_t groups = weight_groups(K);
  QuantisedRows rows{.rows = M, .groups = groups};
  rows.q = scratch.take<int8_t>({M, groups * kWeightGroup}).data;
  rows.s = scratch.take({M, groups}).data;
  if (type == Storage::kQ4)
    rows.sum = scratch.take({M, groups}).data;
  else
    rows.offset = scratch.take<int32_t>({M, groups}).data;
  return rows;
}

}  // namespace

void multiply_quantised(MatrixView<const float> x, PackedWeights w, MatrixView<float> y, bool add,
                        Arena& scratch) {
  Arena::Frame frame(scratch);
  const int64_t M = x.rows, K = x.cols, N = y.cols;
  const QuantisedRows rows = take_rows(w.type, M, K, scratch);
  if (scratch.planning() || M == 0 || N == 0 || K == 0) return;
  constexpr int64_t kQuantising = 8, kRowsOfTask = 8;  // operations a number
  parallel_for((M + kRowsOfTask - 1) / kRowsOfTask,
               [&](int64_t task) {
                 const int64_t first = task * kRowsOfTask;
                 HWY_DYNAMIC_DISPATCH(quantise_rows)
                 (x, rows, first, std::min(M, first + kRowsOfTask));
               },
               kQuantising * M * K);

  QuantisedPanel* const multiply = vnni_panel() ? vnni_panel() : HWY_DYNAMIC_DISPATCH(panel);
  each_panel(w, K, y, [&](PackedWeights panel, MatrixView<float> columns) {
    alignas(64) float part[kMostRows * kWeightPanel];
    for (int64_t first = 0; first < M; first += kMostRows) {
      const int64_t count = std::min(kMostRows, M - first);
      multiply(rows, {first, count}, panel, part);
      write_panel(part, columns.row_range(first, count), add);
    }
  });
}

}  // namespace refrain::kernels
#endif  // HWY_ONCE
