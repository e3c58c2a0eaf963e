// A saved sequence. The first byte chooses between a model whose state grows and one whose does
// not; fingerprint and checksum are set right, so that what is behind them is reached.
#include "refrain/generate/state_file.h"

#include <cstring>

#include "fuzz/target.h"
#include "fuzz/tiny.h"
#include "refrain/base/random.h"

namespace refrain::fuzz {
namespace {

constexpr size_t kFingerprint = 16, kHeader = 72;

LanguageModel& model_of(unsigned choice) {
  static const std::unique_ptr<LanguageModel> models[] = {tiny_model("attention"),
                                                          tiny_model("gla")};
  return *models[choice % 2];
}

std::string written(unsigned choice) {
  LanguageModel& model = model_of(choice);
  Sequence sequence(model);
  sequence.reserve(8, 16);
  for (const int32_t token : {1, 2, 3, 4}) sequence.append(token);
  sequence.advance(3);
  const std::string path = folder() / "state";
  write_state(path, model, sequence);
  return bytes_of(path);
}

void run(std::string_view input) {
  const auto [choice, rest] = choose(input);
  std::string bytes(rest);
  if (bytes.size() >= kHeader + 8) {
    static const std::string right[] = {written(0), written(1)};
    right[choice % 2].copy(&bytes[kFingerprint], 8, kFingerprint);
    const std::string_view summed(bytes.data(), bytes.size() - 8);
    const uint64_t sum = mix_key(2, summed);  // of version 2
    std::memcpy(&bytes[bytes.size() - 8], &sum, 8);
  }
  LanguageModel& model = model_of(choice);
  Sequence sequence = read_state(put(bytes), model);
  const std::string path = folder() / "again";
  write_state(path, model, sequence);
  expect(bytes_of(path) == bytes, "what was written is something else");
  sequence.reserve(sequence.size() + 1, 16);
  (void)sequence.pending();
}

std::vector<std::string> seeds() { return {'\0' + written(0), '\1' + written(1)}; }

const Register registered({"state_file", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
