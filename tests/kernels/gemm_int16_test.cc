#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/kernels/isa.h"
#include "refrain/kernels/matmul/format_int16.h"
#include "refrain/kernels/matmul/format_int16_ref.h"
#include "refrain/kernels/matmul/gemm.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using View = MatrixView<const float>;

void multiply(View a, View b, MatrixView<float> c, std::span<const int32_t> cu_seqlens, bool add,
              Arena& arena) {
  kernels::gemm(a, b, c, arena, nullptr, {kernels::ComputeType::kInt16, cu_seqlens, add});
}

struct Memory {
  Buffer<std::byte> bytes{size_t{32} << 20};
  Arena arena{bytes.data(), bytes.size()};
};

// What rounding both operands may do to an element: half a step of each number.
double rounding(View row, View column, int64_t group, int64_t from, int64_t to) {
  const double largest = kernels::int16_largest(group);
  double error = 0, size = 0;
  for (int64_t k = from; k < to; k += group) {
    double most_a = 0, most_b = 0, sum_a = 0, sum_b = 0;
    const int64_t end = std::min(to, k + group);
    for (int64_t m = k; m < end; ++m) {
      const double x = std::abs(static_cast<double>(row.at(0, m)));
      const double y = std::abs(static_cast<double>(column.at(m, 0)));
      most_a = std::max(most_a, x), most_b = std::max(most_b, y);
      sum_a += x, sum_b += y;
      size += x * y;
    }
    const double half_a = most_a / largest / 2, half_b = most_b / largest / 2;
    error += half_a * sum_b + half_b * sum_a + static_cast<double>(end - k) * half_a * half_b;
  }
  return 1.01 * error + 1e-6 * size + 1e-30 * static_cast<double>(row.cols);
}

TEST(Int16, SumsOfTheLargestProductsFit) {
  for (const int64_t n : {1, 2, 32, 64, 128, 1024}) {
    const int64_t largest = kernels::int16_largest(n);
    EXPECT_LT(n * largest * largest, int64_t{1} << 31);
    EXPECT_GE(n * (largest + 1) * (largest + 1), int64_t{1} << 31);
  }
  EXPECT_EQ(kernels::int16_largest(kernels::kInt16Features), 4095);
  // All numbers of a group at their largest, of one sign and of both.
  Memory memory;
  for_each_target([&] {
    const int64_t M = 3, N = 4, K = kernels::kInt16Features;
    Floats a({M, K}), b({K, N}), c({M, N});
    a.fill(3.0f);
    b.fill(-0.5f);
    multiply(a, b, c, {}, false, memory.arena);
    for (const float v : c.span()) EXPECT_NEAR(v, -1.5f * static_cast<float>(K), 1e-4f);
  });
}

// Every layout and awkward shape against the reference implementation, to the bit, and against
// float64.
TEST(Int16, ProductsOfEveryLayout) {
  Memory memory;
  for_each_target([&] {
    const bool fused = fuses();
    uint64_t key = 1;
    for (const auto& [M, N, K] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                     {1, 33, 17},
                                                                     {32, 48, 128},
                                                                     {33, 31, 129},
                                                                     {10, 100, 40},
                                                                     {9, 800, 20},
                                                                     {150, 20, 300},
                                                                     {8, 17, 5000}}) {
      const Floats a({M, K}, 1, ++key), at({K, M}, 0, ++key), b({K, N}, 1, ++key),
          bt({N, K}, 0, ++key);
      const std::vector<int32_t> cu_seqlens = {
          0, static_cast<int32_t>(K / 3), static_cast<int32_t>(K / 3), static_cast<int32_t>(K)};
      for (const View& left : {View(a), View(at).transposed()})
        for (const View& right : {View(b), View(bt).transposed()})
          for (const std::span<const int32_t> cut :
               {std::span<const int32_t>(), std::span<const int32_t>(cu_seqlens)}) {
            const bool add = !cut.empty();
            Floats c({M, N}, 1);
            c.fill(add ? 0.5f : std::numeric_limits<float>::quiet_NaN());
            multiply(left, right, c, cut, add, memory.arena);
            const int64_t step = std::max<int64_t>(1, M * N / 60);
            for (int64_t e = 0; e < M * N; e += step) {
              const int64_t i = e / N, j = e % N;
              const float got = c.tensor().row(i)[j];
              const View row = left.row_range(i, 1), column = right.col_range(j, 1);
              ASSERT_EQ(got, kernels::multiply_int16_ref(row, column, add ? 0.5f : 0, cut, fused))
                  << "at " << i << ", " << j << " of " << M << " x " << N << " x " << K;
              double want = add ? 0.5 : 0, error = 0;
              for (int64_t k = 0; k < K; ++k)
                want += static_cast<double>(row.at(0, k)) * static_cast<double>(column.at(k, 0));
              if (!add) {
                error = rounding(row, column, kernels::kInt16Features, 0, K);
              } else {
                for (size_t p = 0; p + 1 < cut.size(); ++p)
                  error += rounding(row, column, kernels::kInt16Rows, cut[p], cut[p + 1]);
              }
              ASSERT_NEAR(static_cast<double>(got), want, error + 1e-6);
            }
          }
    }
  });
}

// Rows may be cut between chunks, within them at multiples of kReductionGroupRows, and shared
// among any threads; and what multiplies pairs at twice the rate gives the same bits as what does
// not.
TEST(Int16, NoBitDependsOnThreadsOrOnCutsBetweenChunks) {
  static_assert(kernels::kReductionGroupRows % kernels::kInt16Rows == 0);
  Memory memory;
  const int64_t M = 70, N = 100;
  const std::vector<int32_t> cu_seqlens = {0, 5, 5, 170, 202, 439, 440};
  const Floats dy({cu_seqlens.back(), M}, 0, 1), x({cu_seqlens.back(), N}, 0, 2);
  const auto add_product = [&](Floats& c, int64_t first, std::vector<int32_t> part) {
    multiply(View(dy).row_range(first, part.back()).transposed(),
             View(x).row_range(first, part.back()), c, part, true, memory.arena);
  };
  Floats whole({M, N});
  whole.fill(0.25f);
  set_threads(1);
  add_product(whole, 0, cu_seqlens);
  for (int threads : {1, 2, 3}) {
    set_threads(threads);
    Floats cut({M, N});
    cut.fill(0.25f);
    add_product(cut, 0, {0, 5});
    add_product(cut, 5, {0, 0, 128});  // 128 of the chunk [5, 170)
    add_product(cut, 133, {0, 37, 69, 306});
    add_product(cut, 439, {0, 1});
    EXPECT_EQ(0, std::memcmp(whole.span().data(), cut.span().data(), cut.span().size_bytes()));
  }
  set_threads(0);
  for_each_target([&] {
    if (!fuses()) return;
    Floats other({M, N});
    other.fill(0.25f);
    add_product(other, 0, cu_seqlens);
    EXPECT_EQ(0, std::memcmp(whole.span().data(), other.span().data(), other.span().size_bytes()));
  });
  // Rows of A alone and beside others.
  const int64_t K = 200;
  const Floats a({M, K}, 0, 3), w({N, K}, 0, 4);
  Floats y({M, N}), one({1, N});
  kernels::linear_forward(a, w, y, memory.arena, nullptr, {kernels::ComputeType::kInt16});
  for (const int64_t i : {int64_t{0}, int64_t{13}, M - 1}) {
    kernels::linear_forward(View(a).row_range(i, 1), w, one, memory.arena, nullptr,
                            {kernels::ComputeType::kInt16});
    EXPECT_EQ(0, std::memcmp(y.tensor().row(i), one.span().data(), one.span().size_bytes()));
  }
}

// The slow way is taken where the fast one is not to be had, with the same bits.
TEST(Int16, TheUnitIsChosenOnceAndMayBeRefused) {
  Memory memory;
  const int64_t M = 40, N = 60, K = 300;
  const Floats a({M, K}, 0, 1), w({N, K}, 0, 2);
  Floats fast({M, N}), slow({M, N});
  const auto forward = [&](Floats& y) {
    kernels::linear_forward(a, w, y, memory.arena, nullptr, {kernels::ComputeType::kInt16});
  };
  const kernels::Isa before = kernels::isa_limit();
  forward(fast);
  if (kernels::int16_is_fast()) kernels::limit_isa(kernels::Isa::kAvx512);
  EXPECT_FALSE(kernels::int16_is_fast());
  forward(slow);
  kernels::limit_isa(before);
  EXPECT_EQ(0, std::memcmp(fast.span().data(), slow.span().data(), slow.span().size_bytes()));
}

TEST(Int16, WhatIsUndefinedStaysSo) {
  Memory memory;
  for_each_target([&] {
    for (const float bad :
         {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
      for (const bool in_a : {false, true}) {
        const int64_t M = 20, N = 50, K = 150;
        Floats a({M, K}, 0, 1), w({N, K}, 0, 2), y({M, N});
        (in_a ? a.tensor() : w.tensor()).row(7)[140] = bad;
        kernels::linear_forward(a, w, y, memory.arena, nullptr, {kernels::ComputeType::kInt16});
        for (int64_t i = 0; i < M; ++i)
          for (int64_t j = 0; j < N; ++j)
            ASSERT_EQ(std::isfinite(y.tensor().row(i)[j]), (in_a ? i : j) != 7);
      }
    // Zeros, and what is too small to be scaled.
    Floats a({2, 130}), w({3, 130}, 0, 2), y({2, 3});
    a.fill(0.0f);
    a.tensor().row(1)[129] = 1e-38f;
    kernels::linear_forward(a, w, y, memory.arena, nullptr, {kernels::ComputeType::kInt16});
    for (const float v : y.span()) EXPECT_EQ(v, 0.0f);
  });
}

TEST(Int16, ACountingArenaMeasuresWhatACallTakes) {
  const std::vector<int32_t> cu_seqlens = {0, 5, 40};
  const Floats a({40, 50}, 0, 1), b({40, 60}, 0, 2);
  Floats c({50, 60});
  const auto call = [&](Arena& arena) {
    multiply(View(a).transposed(), b, c, cu_seqlens, false, arena);
  };
  Arena counts;
  call(counts);
  ASSERT_GT(counts.peak(), 0u);
  Buffer<std::byte> exact(counts.peak());
  Arena arena(exact.data(), exact.size());
  call(arena);
  EXPECT_EQ(arena.peak(), counts.peak());
}

}  // namespace
}  // namespace refrain
