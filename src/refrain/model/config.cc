#include "refrain/model/config.h"

#include <sstream>

namespace refrain {
namespace {

void expect_in(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value < low || value > high)
    throw_error("{}: expected {} to {}, found {}", name, low, high, value);
}

}  // namespace

void ModelConfig::resolve() {
  expect_in("vocab_size", vocab_size, 1, int64_t{1} << 24);
  expect_in("d_model", d_model, 1, int64_t{1} << 16);
  expect_in("layers", layers, 1, 4096);
  expect_in("heads", heads, 1, 4096);
  expect_in("kv_heads", kv_heads, 0, 4096);
  expect_in("head_dim", head_dim, 0, 4096);
  expect_in("d_ff", d_ff, 0, int64_t{1} << 20);
  expect_in("context", context, 1, int64_t{1} << 24);
  if (!(rms_norm_eps >= 0 && rms_norm_eps < 1))
    throw_error("rms_norm_eps: expected 0 to 1, found {}", rms_norm_eps);
  if (head_dim == 0) {
    if (d_model % heads != 0)
      throw_error("heads: expected a divisor of d_model = {}, found {}", d_model, heads);
    head_dim = d_model / heads;
    expect_in("head_dim", head_dim, 1, 4096);
  }
  if (kv_heads == 0) kv_heads = heads;
  if (heads % kv_heads != 0)
    throw_error("kv_heads: expected a divisor of heads = {}, found {}", heads, kv_heads);
  if (feed_forward != "swiglu" && feed_forward != "gelu")
    throw_error("feed_forward: expected swiglu or gelu, found '{}'", feed_forward);
  if (d_ff == 0) d_ff = gated() ? (8 * d_model / 3 + 31) / 32 * 32 : 4 * d_model;
  if (block != "pre_norm" && block != "bare")
    throw_error("block: expected pre_norm or bare, found '{}'", block);
  if (mixers().empty()) throw_error("pattern: expected the name of a mixer, found none");
}

std::vector<std::string> ModelConfig::mixers() const {
  std::vector<std::string> names;
  std::istringstream words(pattern);
  for (std::string word; words >> word;) names.push_back(word);
  if (names.empty()) return {};
  const size_t period = names.size();
  for (size_t i = period; i < static_cast<size_t>(layers); ++i) names.push_back(names[i % period]);
  names.resize(static_cast<size_t>(layers));
  return names;
}

}  // namespace refrain
