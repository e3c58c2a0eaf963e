// Every target of targets/, without a fuzzer: its seeds, some thousand inputs made of them, and
// what fuzzing has found before (finds/<target>/).
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <ostream>
#include <string>

#include "fuzz/target.h"
#include "refrain/base/random.h"

#ifndef REFRAIN_FUZZ_FINDS
#error "REFRAIN_FUZZ_FINDS names the folder of earlier finds"
#endif

namespace refrain {
namespace {

class Fuzz : public ::testing::TestWithParam<fuzz::Target> {};

// An input near a seed: cut, or with bytes changed, left out or said twice.
std::string changed(std::string text, Random& random) {
  if (text.empty()) return text;
  static constexpr char kLiteral[] = "\0\x01\x7f\x80\xff\"{}[],:0-9\n\t ";
  constexpr std::string_view kOften(kLiteral, sizeof kLiteral - 1);
  for (uint64_t left = 1 + random.below(4); left > 0 && !text.empty(); --left) {
    const size_t at = random.below(text.size());
    const size_t n = std::min<size_t>(1 + random.below(8), text.size() - at);
    switch (random.below(5)) {
      case 0:
        text.resize(at);
        break;
      case 1:
        text[at] = static_cast<char>(random.bits());
        break;
      case 2:
        text[at] = kOften[random.below(kOften.size())];
        break;
      case 3:
        text.erase(at, n);
        break;
      default:
        text.insert(at, text.substr(at, n));
    }
  }
  return text;
}

TEST_P(Fuzz, ReadsItsSeeds) {
  const std::vector<std::string> seeds = GetParam().seeds();
  EXPECT_FALSE(seeds.empty());
  for (const std::string& seed : seeds) EXPECT_NO_THROW(GetParam().run(seed)) << seed;
}

TEST_P(Fuzz, ReadsOrRefusesWhatIsNearThem) {
  Random random(mix_key(1, GetParam().name));
  const std::vector<std::string> seeds = GetParam().seeds();
  for (int i = 0; i < 1000; ++i) {
    const std::string input = changed(seeds[random.below(seeds.size())], random);
    ASSERT_NO_THROW(fuzz::accepts(GetParam(), input)) << testing::PrintToString(input);
  }
}

TEST_P(Fuzz, ReadsOrRefusesWhatWasFound) {
  const std::filesystem::path finds = std::filesystem::path(REFRAIN_FUZZ_FINDS) / GetParam().name;
  if (!std::filesystem::exists(finds)) return;
  for (const auto& entry : std::filesystem::directory_iterator(finds))
    EXPECT_NO_THROW(fuzz::accepts(GetParam(), fuzz::bytes_of(entry.path()))) << entry.path();
}

}  // namespace

namespace fuzz {
void PrintTo(const Target& target, std::ostream* to) { *to << target.name; }
}  // namespace fuzz

namespace {

INSTANTIATE_TEST_SUITE_P(Parsers, Fuzz, ::testing::ValuesIn(fuzz::targets()),
                         [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace refrain
