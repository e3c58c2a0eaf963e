// What libFuzzer asks for, of the one target that this program has. `--seeds=FOLDER` writes the
// target's seeds into a folder before fuzzing starts from there.
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <string>

#include "fuzz/target.h"

extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  using namespace refrain;
  const fuzz::Target& target = fuzz::targets().front();
  constexpr std::string_view kSeeds = "--seeds=";
  for (int i = 1; i < *argc; ++i) {
    const std::string_view argument = (*argv)[i];
    if (!argument.starts_with(kSeeds)) continue;
    const std::filesystem::path to(argument.substr(kSeeds.size()));
    std::filesystem::create_directories(to);
    int n = 0;
    for (const std::string& seed : target.seeds())
      std::ofstream(to / ("seed-" + std::to_string(n++)), std::ios::binary) << seed;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace refrain::fuzz;
  accepts(targets().front(), {reinterpret_cast<const char*>(data), size});
  return 0;
}
