#include "refrain/base/hash.h"

#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace refrain {
namespace {

uint64_t hash_of(std::string_view text, uint64_t seed = 0) {
  return hash64(std::as_bytes(std::span(text)), seed);
}

// As the xxhash package has them.
TEST(Hash, IsXxh64) {
  EXPECT_EQ(hash_of(""), 0xEF46DB3751D8E999u);
  EXPECT_EQ(hash_of("a"), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(hash_of("abc"), 0x44BC2CF5AD770999u);
  EXPECT_EQ(hash_of("Nobody inspects the spammish repetition"), 0xFBCEA83C8A378BF1u);
}

TEST(Hash, OfEveryByteAndOfTheSeed) {
  for (const size_t size : {1u, 3u, 4u, 8u, 31u, 32u, 33u, 63u, 64u, 100u}) {
    const std::string text(size, 'x');
    EXPECT_NE(hash_of(text), hash_of(text + 'x'));
    EXPECT_NE(hash_of(text), hash_of(text, 1));
    for (size_t i = 0; i < size; ++i) {
      std::string other = text;
      other[i] = 'y';
      EXPECT_NE(hash_of(text), hash_of(other)) << i << " of " << size;
    }
  }
}

}  // namespace
}  // namespace refrain
