// Counter-based random numbers (Philox 4x32-10; Salmon et al., SC'11). A number is a function of a
// key and a counter. So every random number is a function of what it is for (seed, step, layer,
// row, position), and does not depend on the order in which threads or micro-batches ask for it.
#pragma once
#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <string_view>

namespace refrain {

// Ten rounds over the counter c under the key k.
inline std::array<uint32_t, 4> philox(std::array<uint32_t, 4> c, uint64_t key) {
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53u} * c[0], p1 = uint64_t{0xCD9E8D57u} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k0, static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k1, static_cast<uint32_t>(p0)};
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c;
}

// [0, 1), 24 bits: exact in float.
inline float to_unit(uint32_t bits) { return static_cast<float>(bits >> 8) * 0x1p-24f; }

// One key for each purpose: mix_key(seed, "dropout", layer).
inline uint64_t mix_key(uint64_t seed, std::string_view purpose, uint64_t index = 0) {
  uint64_t h = 0xcbf29ce484222325u;  // FNV-1a of the purpose
  for (char ch : purpose) h = (h ^ static_cast<unsigned char>(ch)) * 0x100000001b3u;
  const auto a = philox({static_cast<uint32_t>(h), static_cast<uint32_t>(h >> 32),
                         static_cast<uint32_t>(index), static_cast<uint32_t>(index >> 32)},
                        seed);
  return uint64_t{a[0]} << 32 | a[1];
}

// The stream of a key, from any position on.
class Random {
 public:
  explicit Random(uint64_t key, uint64_t position = 0) : key_(key), next_(position) {}

  uint64_t bits() {
    const uint64_t i = next_++;
    const auto r = philox({static_cast<uint32_t>(i), static_cast<uint32_t>(i >> 32), 0, 0}, key_);
    return uint64_t{r[0]} << 32 | r[1];
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }  // [0, 1)
  static constexpr uint64_t kDrawsOfNormal = 2;                             // positions of a normal
  double normal() {                                                         // Box-Muller
    const double u = 1.0 - uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2 * std::numbers::pi * uniform());
  }
  // [0, n), n > 0, without bias.
  uint64_t below(uint64_t n) {
    const uint64_t limit = UINT64_MAX - UINT64_MAX % n;
    uint64_t b = bits();
    while (b >= limit) b = bits();
    return b % n;
  }
  uint64_t position() const { return next_; }

 private:
  uint64_t key_, next_;
};

}  // namespace refrain
