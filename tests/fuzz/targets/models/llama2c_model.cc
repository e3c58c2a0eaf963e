// A checkpoint of llama2.c.
#include "fuzz/target.h"
#include "refrain/formats/llama2c.h"

namespace refrain::fuzz {
namespace {

void run(std::string_view input) { load_llama2c(put(input, "model.bin")); }

// dim 4, hidden_dim 3, a layer, 2 heads, one of keys and values, context 2.
std::string file_of(int32_t vocab) {
  std::string bytes;
  const auto put_int = [&](int32_t n) {
    bytes.append(reinterpret_cast<const char*>(&n), sizeof(n));
  };
  for (const int32_t n : {4, 3, 1, 2, 1, vocab, 2}) put_int(n);
  const int floats = 5 * 4 + 4 + (16 + 8 + 8 + 16) + 4 + 3 * 12 + 4 + 2 * 2 + (vocab < 0 ? 20 : 0);
  const float weight = 0.25f;
  for (int i = 0; i < floats; ++i)
    bytes.append(reinterpret_cast<const char*>(&weight), sizeof(weight));
  return bytes;
}

std::vector<std::string> seeds() { return {file_of(5), file_of(-5)}; }

const Register registered({"llama2c_model", run, seeds});

}  // namespace
}  // namespace refrain::fuzz
