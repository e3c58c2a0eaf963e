#include "refrain/kernels/elementwise/rope.h"

#include <array>

#include "refrain/kernels/elementwise/rope_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

using kernels::RopePairing;
using kernels::RopeTable;

using kernels::RopeScaling;

constexpr RopePairing kPairings[] = {RopePairing::kHalf, RopePairing::kAdjacent};

TEST(Rope, TableIsExactlyRounded) {
  constexpr int64_t kPositions = 300, d = 10;
  const Floats cos({kPositions, d / 2}, 1), sin({kPositions, d / 2}, 2);
  const auto f = kernels::rope_frequencies(10000, d);
  kernels::rope_table(f, cos, sin);
  for (int64_t m = 0; m < kPositions; ++m)
    for (int64_t i = 0; i < d / 2; ++i) {
      const double angle =
          static_cast<double>(m) * std::pow(10000.0, -2.0 * static_cast<double>(i) / d);
      // pow() may be off by an ulp of double: far below half an ulp of float.
      EXPECT_NEAR(cos[m * d / 2 + i], std::cos(angle), 0x1.01p-25);
      EXPECT_NEAR(sin[m * d / 2 + i], std::sin(angle), 0x1.01p-25);
    }
}

TEST(Rope, RotatesTheHeadsAndNothingElse) {
  constexpr int64_t kRows = 4, kHeads = 3;
  const std::array<int32_t, kRows> positions{0, 7, 3, 49};
  for (int64_t half = 1; half <= 40; ++half) {
    const int64_t d = 2 * half, row_stride = kHeads * d + 5;
    SCOPED_TRACE(d);
    const Floats cos({50, half}, half % 3), sin({50, half}, half % 5);
    const auto f = kernels::rope_frequencies(500, d);
    kernels::rope_table(f, cos, sin);
    for (RopePairing pairing : kPairings) {
      for_each_target([&] {
        // The heads lie from the second column on; the rest of a row belongs to others.
        Floats x({kRows, row_stride}, half % 4, 1);
        ReferenceArray<double> want(x);
        for (int64_t r = 0; r < kRows; ++r)
          for (int64_t h = 0; h < kHeads; ++h)
            kernels::rope_ref(&want[r * row_stride + 1 + h * d], d, 500.0,
                              positions[static_cast<size_t>(r)], pairing);
        kernels::rope_apply({&x[1], kRows, kHeads * d, row_stride}, positions, {cos, sin, f},
                            pairing, false);
        expect_close(x.span(), want.values(), 4, 4);
        // There and back: every step rounds.
        const Floats was({kRows, row_stride}, 0, 1);
        kernels::rope_apply({&x[1], kRows, kHeads * d, row_stride}, positions, {cos, sin, f},
                            pairing, true);
        ReferenceArray<double> same(was);
        expect_close(x.span(), same.values(), 8, 4);
      });
    }
  }
}

// The rotation is linear and orthogonal, so the gradient by x of dot(dy, rotated x) is the inverse
// rotation of dy.
TEST(Rope, InverseIsTheComplexStep) {
  constexpr int64_t d = 14;
  const std::array<int32_t, 1> position{11};
  const Floats cos({12, d / 2}), sin({12, d / 2}), x({1, d}, 0, 1);
  const auto f = kernels::rope_frequencies(10000, d);
  kernels::rope_table(f, cos, sin);
  for (RopePairing pairing : kPairings) {
    const Floats dy({1, d}, 0, 2);
    ReferenceArray<Complex> in(x);
    const std::vector<double> dx = complex_step(in.values(), [&] {
      std::vector<Complex> turned = in.values();
      kernels::rope_ref(turned.data(), d, 10000, position[0], pairing);
      return dot(dy.span(), turned);
    });
    for_each_target([&] {
      Floats got({1, d}, 0, 2);
      kernels::rope_apply(got, position, {cos, sin, f}, pairing, true);
      expect_close(got.span(), dx, 4, 4);
    });
  }
}

TEST(Rope, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kRows = 301, kHeads = 5, d = 44, row_stride = kHeads * d;
  const Floats cos({kRows, d / 2}), sin({kRows, d / 2});
  const auto f = kernels::rope_frequencies(10000, d);
  kernels::rope_table(f, cos, sin);
  std::vector<int32_t> positions;
  for (int32_t r = 0; r < kRows; ++r) positions.push_back(r * 7 % kRows);
  expect_law(kRows, [&](const std::vector<int64_t>& pieces) {
    Floats half({kRows, row_stride}, 0, 1), adjacent({kRows, row_stride}, 0, 2);
    size_t first = 0;
    for (int64_t rows : pieces) {
      const auto some =
          std::span<const int32_t>(positions).subspan(first, static_cast<size_t>(rows));
      const int64_t at = static_cast<int64_t>(first) * row_stride;
      kernels::rope_apply({&half[at], rows, row_stride}, some, {cos, sin, f}, RopePairing::kHalf,
                          false);
      kernels::rope_apply({&adjacent[at], rows, row_stride}, some, {cos, sin, f},
                          RopePairing::kAdjacent, true);
      first += static_cast<size_t>(rows);
    }
    return all_of({&half, &adjacent});
  });
}

TEST(Rope, PositionsBeyondTheTableAreComputedTheSame) {
  constexpr int64_t d = 22;
  const Floats cos({5, d / 2}), sin({5, d / 2}), long_cos({1001, d / 2}), long_sin({1001, d / 2});
  const auto f = kernels::rope_frequencies(10000, d);
  kernels::rope_table(f, cos, sin);
  kernels::rope_table(f, long_cos, long_sin);
  const std::array<int32_t, 4> positions{4, 5, 1000, 0};
  for (RopePairing pairing : kPairings) {
    for_each_target([&] {
      Floats x({4, d}, 0, 1), want({4, d}, 0, 1);
      kernels::rope_apply(x, positions, {cos, sin, f}, pairing, false);
      kernels::rope_apply(want, positions, {long_cos, long_sin, f}, pairing, false);
      EXPECT_TRUE(same_bits(x.span(), want.span()));
    });
  }
}

// Written out from the formulas, in another program (transformers' ROPE_INIT_FUNCTIONS, float64).
TEST(Rope, FrequenciesAreScaled) {
  const RopeScaling linear{RopeScaling::Kind::kLinear, 4};
  const std::vector<double> plain = kernels::rope_frequencies(1e4, 8);
  const std::vector<double> divided = kernels::rope_frequencies(1e4, 8, linear);
  for (size_t i = 0; i < plain.size(); ++i) EXPECT_EQ(divided[i], plain[i] / 4);
  // Llama 3.2: short wavelengths stay, long ones are 32 times as long, one is between.
  const RopeScaling llama3{RopeScaling::Kind::kLlama3, 32, 1, 4, 8192};
  const std::vector<double> f = kernels::rope_frequencies(5e5, 16, llama3);
  const std::vector<double> want = {1.0,
                                    0.19392274474868576,
                                    0.03760603093086393,
                                    0.007292664737217109,
                                    0.00042955679655936815,
                                    8.570255489881478e-06,
                                    1.6619674677953088e-06,
                                    3.2229329303788936e-07};
  ASSERT_EQ(f.size(), want.size());
  for (size_t i = 0; i < f.size(); ++i) EXPECT_NEAR(f[i] / want[i], 1, 1e-12) << i;
  for (const double theta : {100.0, 1e4, 5e5})
    for (const RopeScaling& scaling : {linear, llama3, RopeScaling{llama3.kind, 8, 1, 4, 40}}) {
      const std::vector<double> got = kernels::rope_frequencies(theta, 64, scaling);
      for (size_t i = 0; i < got.size(); ++i) {
        const double one = std::pow(theta, -static_cast<double>(i) / 32);
        EXPECT_NEAR(got[i] / kernels::rope_scaled_ref(one, scaling), 1, 1e-12);
      }
    }
}

TEST(Rope, RefusesNegativePositionsAndOddHeads) {
  const Floats cos({8, 2}), sin({8, 2});
  const auto f = kernels::rope_frequencies(10000, 4);
  kernels::rope_table(f, cos, sin);
  const RopeTable table{cos, sin, f};
  Floats x({1, 5}, 0, 1);
  const std::array<int32_t, 1> negative{-1}, zero{0};
  EXPECT_THROW(kernels::rope_apply({&x[0], 1, 4}, negative, table, RopePairing::kHalf, false),
               std::logic_error);
  EXPECT_THROW(kernels::rope_apply({&x[0], 1, 5}, zero, table, RopePairing::kHalf, false),
               std::logic_error);
}

}  // namespace
}  // namespace refrain
