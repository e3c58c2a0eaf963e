// XXH64 (Collet, https://xxhash.com): tells contents apart at the speed of memory. It is no defence
// against who makes two contents of one hash on purpose.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace refrain {

uint64_t hash64(std::span<const std::byte> bytes, uint64_t seed = 0);

}  // namespace refrain
