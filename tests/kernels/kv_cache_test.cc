#include "refrain/kernels/attention/kv_cache.h"

#include <vector>

#include "refrain/kernels/attention/kv_cache_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

using kernels::CacheType;

constexpr CacheType kTypes[] = {CacheType::kFloat32, CacheType::kBf16, CacheType::kQ8_0};
const std::vector<int64_t> kWidths = {1,  2,  6,  8,  16, 20,  31,  32,
                                      33, 34, 48, 64, 80, 100, 128, 257};

// What is left of rows of heads that were stored.
std::vector<float> stored(CacheType type, int64_t width, const Floats& x) {
  const Tensor from = x.tensor();
  const int64_t heads = from.cols() / width;
  std::vector<std::byte> bytes(
      static_cast<size_t>(from.rows() * heads * kernels::cache_bytes(type, width)));
  Floats y({from.rows(), from.cols()}, 3);
  kernels::write_cache(type, width, x, bytes.data());
  kernels::read_cache(type, width, bytes.data(), y);
  return {y.span().begin(), y.span().end()};
}

std::vector<float> by_reference(CacheType type, int64_t width, const Floats& x) {
  std::vector<float> y(x.span().begin(), x.span().end());
  for (size_t at = 0; at < y.size(); at += static_cast<size_t>(width))
    kernels::round_to_cache_ref(type, width, &y[at]);
  return y;
}

TEST(KvCache, GivesTheReferencesValues) {
  for_each_target([] {
    for (const CacheType type : kTypes)
      for (const int64_t width : kWidths)
        for (const double size : {1.0, 1e-3, 1e-6, 1e-30, 300.0, 1e9}) {
          const Floats x({5, 3 * width}, 1, static_cast<uint64_t>(width), size);
          EXPECT_TRUE(same_bits(stored(type, width, x), by_reference(type, width, x)))
              << kernels::name_of(type) << " " << width << " " << size;
        }
  });
}

TEST(KvCache, ValuesOfTheTypeStay) {
  for_each_target([] {
    for (const CacheType type : kTypes)
      for (const int64_t width : {20, 64}) {
        const Floats x({7, 2 * width}, 0, 5);
        const std::vector<float> once = stored(type, width, x);
        std::ranges::copy(once, x.span().begin());
        EXPECT_TRUE(same_bits(stored(type, width, x), once)) << kernels::name_of(type);
      }
  });
}

TEST(KvCache, IsNearWhatWasStored) {
  const int64_t width = 80;
  const Floats x({50, width}, 0, 7);
  for (const CacheType type : kTypes) {
    const std::vector<float> y = stored(type, width, x);
    for (int64_t i = 0; i < x.tensor().size(); ++i) {
      // The largest of the values that share a scale; of bfloat16, the value.
      float largest = std::abs(x[i]);
      const int64_t row = i / width * width, block = row + i % width / 32 * 32;
      for (int64_t j = block; type == CacheType::kQ8_0 && j < std::min(block + 32, row + width);
           ++j)
        largest = std::max(largest, std::abs(x[j]));
      ASSERT_LE(std::abs(y[static_cast<size_t>(i)] - x[i]),
                kernels::cache_step(type) / 2 * double{largest});
    }
  }
}

TEST(KvCache, ScalesAreFloat16) {
  for (uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const auto b = static_cast<uint16_t>(bits);
    const float scale = kernels::scale_of(b);
    ASSERT_EQ(kernels::scale_bits(scale), b);
    if (bits == 0x7bff) break;
    // The next one; what is between goes to the nearer, from the middle to the even.
    const float next = kernels::scale_of(static_cast<uint16_t>(b + 1));
    ASSERT_GT(next, scale);
    const float middle = scale + (next - scale) / 2;
    ASSERT_EQ(kernels::scale_bits(middle), b + b % 2);
    ASSERT_EQ(kernels::scale_bits(std::nextafter(middle, 0.0f)), b);
    ASSERT_EQ(kernels::scale_bits(std::nextafter(middle, 1e9f)), b + 1);
  }
  EXPECT_EQ(kernels::scale_of(0x3c00), 1);
  EXPECT_EQ(kernels::scale_of(0x0001), 0x1p-24f);
  EXPECT_EQ(kernels::scale_of(0x7bff), 65504);
  EXPECT_EQ(kernels::scale_bits(1e30f), 0x7bff);
  for (const float x :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
    EXPECT_TRUE(std::isnan(kernels::scale_of(kernels::scale_bits(x))));
}

TEST(KvCache, WhatIsNoNumberStaysSo) {
  for_each_target([] {
    const int64_t width = 48;
    for (const float odd :
         {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()})
      for (const CacheType type : kTypes) {
        const Floats x({2, width}, 0, 3);
        x[37] = odd;
        const std::vector<float> y = stored(type, width, x);
        EXPECT_FALSE(std::isfinite(y[37]));
        for (size_t i = 0; i < y.size(); ++i)
          if (i < 32 || i >= 48) {
            EXPECT_TRUE(std::isfinite(y[i])) << i;
          }
      }
    Floats zeros({2, width});
    zeros.fill(0);
    for (const CacheType type : kTypes)
      for (const float v : stored(type, width, zeros)) EXPECT_EQ(v, 0);
  });
}

TEST(KvCache, TakesSoManyBytes) {
  EXPECT_EQ(kernels::cache_bytes(CacheType::kFloat32, 64), 256);
  EXPECT_EQ(kernels::cache_bytes(CacheType::kBf16, 64), 128);
  EXPECT_EQ(kernels::cache_bytes(CacheType::kQ8_0, 64), 68);
  EXPECT_EQ(kernels::cache_bytes(CacheType::kQ8_0, 80), 86);
}

TEST(KvCache, TypesHaveNames) {
  for (const CacheType type : kTypes)
    EXPECT_EQ(kernels::cache_type_named(kernels::name_of(type)), type);
  for (const char* name : {"", "q8", "Q8_0", "int16"})
    EXPECT_FALSE(kernels::cache_type_named(name)) << name;
}

}  // namespace
}  // namespace refrain
