// XXH64 (Collet, https://xxhash.com): a fast hash that tells contents apart. It is not secure
// against somebody who makes two contents with the same hash on purpose.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace refrain {

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace refrain
