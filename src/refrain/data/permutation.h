// A permutation of [0, n) for a key, computed element by element, so an order of any length takes
// no memory. A balanced Feistel network permutes the smallest even power of two that holds n. If a
// result is outside of [0, n), it goes through the network again until it is inside (cycle
// walking). The result is still a permutation (Black and Rogaway, "Ciphers with arbitrary finite
// domains", 2002).
#pragma once
#include <bit>
#include <cstdint>

#include "refrain/base/random.h"

namespace refrain::data {

class Permutation {
 public:
  Permutation(uint64_t n, uint64_t key)
      : n_(n), key_(key), half_((std::bit_width(n > 1 ? n - 1 : 1) + 1) / 2) {}

  // i < n.
  uint64_t operator()(uint64_t i) const {
    do i = network(i);
    while (i >= n_);
    return i;
  }

 private:
  uint64_t network(uint64_t i) const {
    const uint64_t mask = (uint64_t{1} << half_) - 1;
    uint64_t left = i >> half_, right = i & mask;
    for (uint32_t round = 0; round < 6; ++round) {
      const uint64_t mixed = philox({static_cast<uint32_t>(right), round, 0, 0}, key_)[0] & mask;
      const uint64_t next = left ^ mixed;
      left = right;
      right = next;
    }
    return left << half_ | right;
  }

  uint64_t n_, key_;
  int half_;  // bits of either half; at most 32
};

}  // namespace refrain::data
