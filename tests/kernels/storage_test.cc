// Types of storage: what packing keeps of numbers, and products with packed weights.
#include "refrain/kernels/matmul/storage/storage.h"

#include <array>
#include <bit>
#include <tuple>

#include "refrain/base/buffer.h"
#include "refrain/base/float16.h"
#include "refrain/kernels/matmul/format_bf16.h"
#include "refrain/kernels/matmul/gemm.h"
#include "refrain/kernels/matmul/storage/storage_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

constexpr std::array kTypes = {Storage::kFloat32, Storage::kBf16, Storage::kFloat16, Storage::kQ8_0,
                               Storage::kQ4};

// w [N, K] as it is stored.
struct Packed {
  Packed(Storage type, ConstTensor w) : bytes(kernels::packed_bytes(type, w.rows(), w.cols())) {
    kernels::pack(type, w, bytes.data());
    weights = {type, bytes.data()};
  }
  std::vector<float> unpacked(int64_t N, int64_t K) const {
    std::vector<float> rows(static_cast<size_t>(N * K));
    kernels::unpack(weights, {rows.data(), {N, K}});
    return rows;
  }
  Buffer<std::byte> bytes;
  kernels::PackedWeights weights;
};

struct Memory {
  Buffer<std::byte> bytes{size_t{8} << 20};
  Arena arena{bytes.data(), bytes.size()};
};

TEST(Float16, AllNumbersComeBack) {
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const auto x = static_cast<float>(half);
    if (std::isnan(x))
      EXPECT_TRUE(std::isnan(static_cast<float>(Float16::of(x))));
    else
      ASSERT_EQ(Float16::of(x).bits, bits);
  }
}

TEST(Float16, RoundsToTheNearestAndTiesToEven) {
  for (uint32_t bits = 0; bits < 0x7bff; ++bits) {  // between neighbours
    const auto low = static_cast<float>(Float16{static_cast<uint16_t>(bits)});
    const auto high = static_cast<float>(Float16{static_cast<uint16_t>(bits + 1)});
    const float middle = (low + high) / 2;
    ASSERT_EQ(Float16::of(middle).bits, bits + (bits & 1));
    ASSERT_EQ(Float16::of(std::nextafter(middle, low)).bits, bits);
    ASSERT_EQ(Float16::of(std::nextafter(middle, high)).bits, bits + 1);
    ASSERT_EQ(Float16::of(-std::nextafter(middle, high)).bits, (bits + 1) | 0x8000);
  }
  EXPECT_EQ(Float16::of(65519.9f).bits, 0x7bff);
  EXPECT_EQ(Float16::of(65520.0f).bits, 0x7c00);
  EXPECT_EQ(Float16::of(INFINITY).bits, 0x7c00);
}

TEST(Storage, TypesHaveTheNamesAndSizesThatFilesHave) {
  for (const Storage type : kTypes) EXPECT_EQ(kernels::storage_named(kernels::name_of(type)), type);
  EXPECT_FALSE(kernels::storage_named("q5_0"));
  // 33 rows are two panels, 65 columns three groups.
  EXPECT_EQ(kernels::packed_bytes(Storage::kFloat32, 33, 65), 64u * 65 * 4);
  EXPECT_EQ(kernels::packed_bytes(Storage::kBf16, 33, 65), 64u * 96 * 2);
  EXPECT_EQ(kernels::packed_bytes(Storage::kQ8_0, 33, 65), 64u * 3 * 34);
  EXPECT_EQ(kernels::packed_bytes(Storage::kQ4, 33, 65), 64u * 3 * 20);
}

TEST(Storage, KeepsWhatTheTypeCanHold) {
  for (const auto& [N, K] :
       std::vector<std::array<int64_t, 2>>{{1, 1}, {31, 32}, {33, 65}, {96, 100}}) {
    const Floats w({N, K}, 0, static_cast<uint64_t>(N * K));
    for (const Storage type : kTypes) {
      const Packed packed(type, w);
      const std::vector<float> got = packed.unpacked(N, K);
      for (int64_t n = 0; n < N; ++n)
        for (int64_t k0 = 0; k0 < K; k0 += 32) {
          const int64_t count = std::min<int64_t>(32, K - k0);
          const float* block = w.tensor().row(n) + k0;
          const auto [low, high] = std::minmax_element(block, block + count);
          const float largest = std::max(std::abs(*low), std::abs(*high));
          for (int64_t i = 0; i < count; ++i) {
            const float x = block[i], y = got[static_cast<size_t>(n * K + k0 + i)];
            if (type == Storage::kFloat32) {
              ASSERT_EQ(y, x);
            } else if (type == Storage::kBf16) {
              ASSERT_EQ(y, static_cast<float>(BFloat16::of(x)));
            } else if (type == Storage::kFloat16) {
              ASSERT_EQ(y, static_cast<float>(Float16::of(x)));
            } else if (type == Storage::kQ8_0) {
              // half a step, and what rounding the scale moves 127 steps by
              ASSERT_NEAR(y, x, largest / 127 * 0.5f + largest * 0x1p-11f);
            } else {
              // The least squares may leave the ends of the range.
              ASSERT_NEAR(y, x, (*high - *low) / 15 * 2.5f + largest * 0x1p-10f);
            }
          }
        }
      std::vector<float> row(static_cast<size_t>(K));
      kernels::unpack_row(packed.weights, N - 1, K, row.data());
      EXPECT_TRUE(same_bits(row, std::span(got).last(row.size())));
    }
  }
}

TEST(Storage, Q4IsNearerThanTheRangeOfABlockAlone) {
  const Floats w({64, 512}, 0, 3);
  const std::vector<float> got = Packed(Storage::kQ4, w).unpacked(64, 512);
  double ours = 0, plain = 0;
  for (int64_t at = 0; at < w.tensor().size(); at += 32) {
    const float* x = w.tensor().data + at;
    const auto [low, high] = std::minmax_element(x, x + 32);
    const float d = (*high - *low) / 15;
    for (int64_t i = 0; i < 32; ++i) {
      const float y = *low + d * std::round((x[i] - *low) / d);
      plain += std::pow(x[i] - y, 2);
      ours += std::pow(x[i] - got[static_cast<size_t>(at + i)], 2);
    }
  }
  EXPECT_LT(ours, 0.9 * plain);
}

TEST(Storage, ZerosStayAndWhatIsNotFiniteIsNotHidden) {
  Floats w({3, 64});
  w.fill(0);
  w[1] = 0x1p-120f;      // too small to be divided by
  w[64 + 5] = INFINITY;  // in the first block of the second row
  w[128 + 40] = NAN;     // in the second one of the third
  for (const Storage type : {Storage::kQ8_0, Storage::kQ4}) {
    const std::vector<float> got = Packed(type, w).unpacked(3, 64);
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(got[i], 0) << i;
      EXPECT_EQ(std::isfinite(got[64 + i]), i >= 32) << i;
      EXPECT_EQ(std::isfinite(got[128 + i]), i < 32) << i;
    }
  }
}

TEST(Storage, PacksByPartsAsWhole) {
  const Floats w({96, 70}, 0, 5);
  for (const Storage type : kTypes) {
    const Packed whole(type, w);
    Buffer<std::byte> parts(whole.bytes.size());
    const size_t panel = kernels::panel_bytes(type, 70);
    kernels::pack(type, w.tensor().slice(32, 64), parts.data() + panel);
    kernels::pack(type, w.tensor().slice(0, 32), parts.data());
    EXPECT_EQ(std::memcmp(parts.data(), whole.bytes.data(), parts.size()), 0);
  }
}

// x [M, K] as a product with weights of the type reads it.
std::vector<float> as_read(Storage type, ConstTensor x) {
  std::vector<float> rows(x.begin(), x.end());
  const int64_t K = x.cols();
  for (int64_t m = 0; m < x.rows(); ++m)
    for (int64_t k = 0; k < K; k += 32) {
      float* at = rows.data() + m * K + k;
      const int64_t n = std::min<int64_t>(32, K - k);
      if (type == Storage::kBf16)
        for (int64_t i = 0; i < n; ++i) at[i] = static_cast<float>(BFloat16::of(at[i]));
      if (type != Storage::kQ8_0 && type != Storage::kQ4) continue;
      std::array<float, 32> block{};
      std::copy_n(at, n, block.begin());
      const kernels::ActivationBlock quantised = kernels::quantise_activations(block);
      for (size_t i = 0; i < static_cast<size_t>(n); ++i)
        at[i] = quantised.s * static_cast<float>(quantised.q[i]);
    }
  return rows;
}

constexpr std::array<std::array<int64_t, 2>, 6> kSizes = {
    {{1, 1}, {33, 65}, {31, 32}, {64, 96}, {70, 700}, {130, 416}}};

// The product of what is stored and what is read of x, in double, and what rounding may do to it.
TEST(Storage, ProductsAreThoseOfWhatIsStored) {
  Memory memory;
  for_each_target([&] {
    uint64_t key = 1;
    for (const auto& [N, K] : kSizes)
      for (const int64_t M : {1, 2, 3, 7, 8, 9, 13, 40})
        for (const Storage type : kTypes) {
          SCOPED_TRACE(fmt::format("{} {} x {} x {}", kernels::name_of(type), M, N, K));
          const Floats x({M, K}, 1, ++key), w({N, K}, 0, ++key);
          Floats y({M, N}, 1);
          const Packed packed(type, w);
          const std::vector<float> stored = packed.unpacked(N, K), read = as_read(type, x);
          const MatrixView<const float> sizes(nowhere<const float>(), N, K);
          kernels::linear_forward(x, sizes, y, memory.arena, packed.weights);
          for (int64_t m = 0; m < M; ++m)
            for (int64_t n = 0; n < N; ++n) {
              double want = 0, size = 0;
              for (int64_t k = 0; k < K; ++k) {
                const double term = double{read[static_cast<size_t>(m * K + k)]} *
                                    double{stored[static_cast<size_t>(n * K + k)]};
                want += term;
                size += std::abs(term);
              }
              // of q4, terms are d q and m apart, each up to a few times as large as their sum
              const double bound =
                  0x1p-24 * 2 * static_cast<double>(K + 4) * size * (type == Storage::kQ4 ? 16 : 1);
              ASSERT_NEAR(y[m * N + n], want, bound + 1e-30) << m << ", " << n;
            }
        }
  });
}

// However many rows there are, with any threads, and whatever the product is added to.
TEST(Storage, RowsDoNotDependOnOneAnother) {
  Memory memory;
  for_each_target([&] {
    for (const auto& [N, K] : kSizes)
      for (const Storage type : kTypes)
        for (const bool add : {false, true}) {
          SCOPED_TRACE(fmt::format("{} {} x {}", kernels::name_of(type), N, K));
          constexpr int64_t M = 70;
          const Floats x({M, K}, 0, 5), w({N, K}, 0, 6), found({M, N}, 0, 7);
          const Packed packed(type, w);
          const MatrixView<const float> sizes(nowhere<const float>(), N, K);
          kernels::MatmulOptions options;
          options.add = add;
          const auto rows = [&](int64_t at_a_time) {
            Floats y({M, N});
            std::copy(found.span().begin(), found.span().end(), y.span().begin());
            for (int64_t m = 0; m < M; m += at_a_time) {
              const int64_t n = std::min(at_a_time, M - m);
              kernels::linear_forward(x.tensor().slice(m, n), sizes, y.tensor().slice(m, n),
                                      memory.arena, packed.weights, options);
            }
            return std::vector<float>(y.span().begin(), y.span().end());
          };
          set_threads(1);
          const std::vector<float> whole = rows(M);
          for (const int threads : {1, 2, 3}) {
            set_threads(threads);
            for (const int64_t at_a_time : {1, 3, 8, 9, 33})
              EXPECT_TRUE(same_bits(rows(at_a_time), whole))
                  << threads << " threads, " << at_a_time;
          }
          set_threads(0);
        }
  });
}

// Integers are exact and blocks follow one another: every instruction set gives the same bits.
TEST(Storage, QuantisedProductsAreTheReferenceToTheBit) {
  Memory memory;
  for_each_target([&] {
    if (!fuses()) return;  // without fused multiply-adds it rounds twice
    for (const auto& [N, K] : kSizes)
      for (const Storage type : {Storage::kQ8_0, Storage::kQ4})
        for (const int64_t M : {1, 5, 6, 7, 20}) {
          const Floats x({M, K}, 1, 11), w({N, K}, 0, 12);
          Floats y({M, N}), want({M, N});
          const Packed packed(type, w);
          const MatrixView<const float> sizes(nowhere<const float>(), N, K);
          kernels::linear_forward(x, sizes, y, memory.arena, packed.weights);
          for (int64_t m = 0; m < M; ++m)
            kernels::quantised_product_ref(packed.weights, N,
                                           {x.tensor().row(m), static_cast<size_t>(K)},
                                           want.tensor().row(m), false);
          EXPECT_TRUE(same_bits(y.span(), want.span())) << kernels::name_of(type);
        }
  });
}

// Large numbers: the sums of 32 products of bytes, and 128 for each of the weights' offsets.
TEST(Storage, SumsOfBytesDoNotOverflow) {
  Memory memory;
  for_each_target([&] {
    for (const Storage type : {Storage::kQ8_0, Storage::kQ4})
      for (const float sign : {1.0f, -1.0f}) {
        Floats x({1, 64}), w({1, 64}), y({1, 1});
        x.fill(3);
        w.fill(sign * 2);
        const Packed packed(type, w);
        kernels::linear_forward(x, {nowhere<const float>(), 1, 64}, y, memory.arena,
                                packed.weights);
        EXPECT_NEAR(y[0], sign * 64 * 6, 1);
      }
  });
}

TEST(Storage, ANumberOfXThatIsNotFiniteIsNotHidden) {
  Memory memory;
  for_each_target([&] {
    for (const Storage type : kTypes)
      for (const float bad : {INFINITY, -INFINITY, NAN}) {
        const Floats x({2, 64}, 0, 3), w({5, 64}, 0, 4);
        x[64 + 40] = bad;
        Floats y({2, 5});
        const Packed packed(type, w);
        kernels::linear_forward(x, {nowhere<const float>(), 5, 64}, y, memory.arena,
                                packed.weights);
        for (int64_t n = 0; n < 5; ++n) {
          EXPECT_TRUE(std::isfinite(y[n]));
          EXPECT_FALSE(std::isfinite(y[5 + n])) << kernels::name_of(type) << " " << bad;
        }
      }
  });
}

// Without units for bfloat16, where products of that type are of rounded numbers in float32.
TEST(Storage, Bfloat16WithoutUnitsIsTheRoundedProduct) {
  if (kernels::microkernel()) GTEST_SKIP() << "this machine has units";
  Memory memory;
  for_each_target([&] {
    const Floats x({20, 300}, 0, 3), w({50, 300}, 0, 4);
    Floats y({20, 50}), want({20, 50});
    const Packed packed(Storage::kBf16, w);
    kernels::linear_forward(x, {nowhere<const float>(), 50, 300}, y, memory.arena, packed.weights);
    kernels::MatmulOptions options;
    options.compute_type = kernels::ComputeType::kBf16;
    kernels::linear_forward(x, w, want, memory.arena, {}, options);
    EXPECT_TRUE(same_bits(y.span(), want.span()));
  });
}
TEST(Storage, Bfloat16WithUnitsIsTheirProduct) {
  if (!kernels::microkernel()) GTEST_SKIP() << "this machine has none";
  Memory memory;
  for (const int64_t M : {1, 8, 20}) {
    const Floats x({M, 700}, 0, 3), w({50, 700}, 0, 4);
    Floats y({M, 50}), want({M, 50});
    const Packed packed(Storage::kBf16, w);
    kernels::linear_forward(x, {nowhere<const float>(), 50, 700}, y, memory.arena, packed.weights);
    kernels::MatmulOptions options;
    options.compute_type = kernels::ComputeType::kBf16;
    kernels::linear_forward(x, w, want, memory.arena, {}, options);
    EXPECT_TRUE(same_bits(y.span(), want.span())) << M;
  }
}

}  // namespace
}  // namespace refrain
