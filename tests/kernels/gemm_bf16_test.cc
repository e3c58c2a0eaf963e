#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include "refrain/base/buffer.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/format_bf16_ref.h"
#include "refrain/kernels/matmul/gemm.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using View = MatrixView<const float>;

struct Memory {
  Buffer<std::byte> bytes{size_t{8} << 20};
  Arena arena{bytes.data(), bytes.size()};
};

double rounded(float x) { return static_cast<double>(static_cast<float>(BFloat16::of(x))); }

// The plain kernel, and those of this machine's units.
std::vector<kernels::Microkernel> all_kernels() {
  std::vector<kernels::Microkernel> all = {{"plain", kernels::bf16_block_ref, nullptr, nullptr}};
  for (const auto& kernel : kernels::microkernels()) all.push_back(kernel);
  return all;
}

// C += A B against sums in double of rounded operands.
void expect_product(View a, View b, View got, float before, double ulps) {
  for (int64_t i = 0; i < a.rows; ++i)
    for (int64_t j = 0; j < b.cols; ++j) {
      double sum = static_cast<double>(before), size = 1;
      for (int64_t k = 0; k < a.cols; ++k) {
        const double term = rounded(a.at(i, k)) * rounded(b.at(k, j));
        sum += term;
        size += std::abs(term);
      }
      ASSERT_NEAR(got.row(i)[j], sum, 0x1p-24 * ulps * size) << "at " << i << ", " << j;
    }
}

TEST(Bf16, RoundsToNearestEven) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<std::pair<float, float>> pairs = {{0.0f, 0.0f},
                                                {-0.0f, -0.0f},
                                                {1.0f, 1.0f},
                                                {inf, inf},
                                                {-inf, -inf},
                                                {0x1.01p0f, 0x1.0p0f},
                                                {0x1.03p0f, 0x1.04p0f},
                                                {-0x1.01p0f, -0x1.0p0f},
                                                {0x1.010002p0f, 0x1.02p0f},
                                                {0x1.fffffep127f, inf},
                                                {0x1p-149f, 0.0f},
                                                {0x1p-133f, 0x1p-133f}};
  for_each_target([&] {
    Floats in({static_cast<int64_t>(pairs.size())});
    for (size_t i = 0; i < pairs.size(); ++i) {
      EXPECT_EQ(static_cast<float>(BFloat16::of(pairs[i].first)), pairs[i].second) << i;
      in.tensor().data[i] = pairs[i].first;
    }
    kernels::round_to_bf16(in.tensor());
    for (size_t i = 0; i < pairs.size(); ++i) {
      EXPECT_EQ(in.tensor().data[i], pairs[i].second) << i;
      EXPECT_EQ(std::signbit(in.tensor().data[i]), std::signbit(pairs[i].second)) << i;
    }
    // NaN stays NaN, even if all of its payload lies in the half that is lost.
    Floats nan({19});
    nan.fill(std::bit_cast<float>(0x7f800001u));
    std::vector<BFloat16> bf16(19);
    kernels::round_to_bf16(nan.tensor(), {bf16.data(), {19}});
    for (int64_t i = 0; i < 19; ++i) {
      EXPECT_TRUE(std::isnan(nan.tensor().data[i]));
      EXPECT_TRUE(std::isnan(static_cast<float>(bf16[static_cast<size_t>(i)])));
    }
  });
}

TEST(Bf16, RoundTripsWhatItRounded) {
  for_each_target([&] {
    const int64_t n = 70000;
    Floats x({n}, 1, 5), y({n}, 1);
    std::vector<BFloat16> bf16(static_cast<size_t>(n));
    kernels::round_to_bf16(x.tensor(), {bf16.data(), {n}});
    kernels::to_float({bf16.data(), {n}}, y.tensor());
    EXPECT_EQ(0, std::memcmp(x.span().data(), y.span().data(), x.span().size_bytes()));
  });
}

TEST(Bf16, ProductsOfEveryLayout) {
  Memory memory;
  for (const auto& kernel : all_kernels())
    for_each_target([&] {
      SCOPED_TRACE(kernel.name);
      uint64_t key = 1;
      for (const auto& [M, N, K] : std::vector<std::array<int64_t, 3>>{{1, 1, 1},
                                                                       {1, 33, 17},
                                                                       {32, 32, 32},
                                                                       {33, 31, 63},
                                                                       {64, 100, 40},
                                                                       {40, 800, 20},
                                                                       {20, 40, 1100},
                                                                       {2090, 33, 40}}) {
        const Floats a({M, K}, 1, ++key), at({K, M}, 0, ++key), b({K, N}, 1, ++key),
            bt({N, K}, 0, ++key);
        for (const View& left : {View(a), View(at).transposed()})
          for (const View& right : {View(b), View(bt).transposed()})
            for (bool add : {false, true}) {
              Floats c({M, N}, 1);
              c.fill(add ? 0.5f : std::numeric_limits<float>::quiet_NaN());
              kernels::multiply_bf16({left, right, c, nullptr, {}, add}, kernel, memory.arena);
              expect_product(left, right, c, add ? 0.5f : 0.0f, 2 * static_cast<double>(K + 1));
            }
      }
    });
}

// What was rounded before it enters a product.
TEST(Bf16, ProductsOfRoundedOperandsHaveTheSameBits) {
  Memory memory;
  using Rounded = MatrixView<const BFloat16>;
  for (const auto& kernel : all_kernels())
    for_each_target([&] {
      SCOPED_TRACE(kernel.name);
      for (const auto& [M, N, K] : std::vector<std::array<int64_t, 3>>{
               {1, 33, 17}, {33, 31, 63}, {40, 800, 20}, {20, 40, 1100}, {2090, 33, 40}}) {
        const Floats a({M, K}, 1, 1), at({K, M}, 0, 2), b({K, N}, 1, 3), bt({N, K}, 0, 4);
        const auto round = [](View x) {
          std::vector<BFloat16> to;
          for (int64_t i = 0; i < x.rows; ++i)
            for (int64_t j = 0; j < x.cols; ++j) to.push_back(BFloat16::of(x.at(i, j)));
          return to;
        };
        const auto a16 = round(View(a)), at16 = round(View(at)), b16 = round(View(b)),
                   bt16 = round(View(bt));
        const std::pair<View, Rounded> left[] = {
            {View(a), Rounded(a16.data(), M, K)},
            {View(at).transposed(), Rounded(at16.data(), K, M).transposed()}};
        const std::pair<View, Rounded> right[] = {
            {View(b), Rounded(b16.data(), K, N)},
            {View(bt).transposed(), Rounded(bt16.data(), N, K).transposed()}};
        for (const auto& [l, l16] : left)
          for (const auto& [r, r16] : right) {
            Floats want({M, N}, 1), got({M, N}, 1);
            kernels::multiply_bf16({l, r, want, nullptr, {}, false}, kernel, memory.arena);
            for (const int which : {1, 2, 3}) {
              kernels::Product product{l, r, got, nullptr, {}, false};
              if (which & 1) product.a16 = l16;
              if (which & 2) product.b16 = r16;
              kernels::multiply_bf16(product, kernel, memory.arena);
              ASSERT_EQ(
                  0, std::memcmp(want.span().data(), got.span().data(), want.span().size_bytes()))
                  << M << " x " << N << " x " << K << ", " << which;
            }
          }
      }
    });
}

// What the promise of equal weights stands on: rows may be cut between chunks, within them at
// multiples of 32, and shared among any threads.
TEST(Bf16, NoBitDependsOnThreadsOrOnCutsBetweenChunks) {
  Memory memory;
  for (const auto& kernel : all_kernels()) {
    SCOPED_TRACE(kernel.name);
    const int64_t M = 70, N = 100;
    const std::vector<int32_t> cu_seqlens = {0, 5, 5, 70, 102, 239, 240};
    const int64_t K = cu_seqlens.back();
    const Floats dy({K, M}, 0, 1), x({K, N}, 0, 2);
    const auto multiply = [&](Floats& c, int64_t first, std::vector<int32_t> part) {
      kernels::multiply_bf16({View(dy).row_range(first, part.back()).transposed(),
                              View(x).row_range(first, part.back()), c, nullptr, part, true},
                             kernel, memory.arena);
    };
    Floats whole({M, N});
    whole.fill(0.25f);
    set_threads(1);
    multiply(whole, 0, cu_seqlens);
    for (int threads : {1, 2, 3}) {
      set_threads(threads);
      Floats cut({M, N});
      cut.fill(0.25f);
      multiply(cut, 0, {0, 5});
      multiply(cut, 5, {0, 0, 64});  // 64 of the chunk [5, 70)
      multiply(cut, 69, {0, 1, 33, 170});
      multiply(cut, 239, {0, 1});
      EXPECT_EQ(0, std::memcmp(whole.span().data(), cut.span().data(), cut.span().size_bytes()));
    }
    set_threads(0);
  }
}

// Without units, gemm() multiplies rounded operands as float32.
TEST(Bf16, GemmRoundsItsOperands) {
  Memory memory;
  for_each_target([&] {
    const int64_t M = 30, N = 50, K = 410;
    const Floats x({M, K}, 1, 1), w({N, K}, 1, 2), dy({M, N}, 1, 3);
    Floats y({M, N}), dx({M, K}), dw({N, K});
    dw.fill(0.5f);
    const std::vector<int32_t> cu_seqlens = {0, 7, static_cast<int32_t>(M)};
    kernels::linear_forward(x, w, y, memory.arena, nullptr, {kernels::ComputeType::kBf16});
    kernels::linear_backward_input(dy, w, dx, memory.arena, {kernels::ComputeType::kBf16});
    kernels::linear_backward_weight(dy, x, dw, memory.arena,
                                    {kernels::ComputeType::kBf16, cu_seqlens});
    expect_product(x, View(w).transposed(), y, 0, 2.0 * (K + 1));
    expect_product(dy, w, dx, 0, 2.0 * (N + 1));
    expect_product(View(dy).transposed(), x, dw, 0.5f, 2.0 * (M + 1));
  });
}

TEST(Bf16, ACountingArenaMeasuresWhatACallTakes) {
  const kernels::Microkernel plain{"plain", kernels::bf16_block_ref, nullptr, nullptr};
  const std::vector<int32_t> cu_seqlens = {0, 5, 40};
  const Floats a({40, 50}, 0, 1), b({40, 60}, 0, 2);
  Floats c({50, 60});
  const auto call = [&](Arena& arena) {
    kernels::multiply_bf16({View(a).transposed(), b, c, nullptr, cu_seqlens, false}, plain, arena);
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
