#include "refrain/autoencoder/config.h"

#include <initializer_list>
#include <string_view>

#include "refrain/base/error.h"
#include "refrain/base/expect_in.h"

namespace refrain {
namespace {

void expect_in(const char* name, int64_t value, int64_t low, int64_t high) {
  refrain::expect_in(fmt::format("autoencoder.{}", name), value, low, high);
}

template <class Names = std::initializer_list<std::string_view>>
void expect_one_of(const char* name, const std::string& value, const Names& choices) {
  for (const std::string_view choice : choices)
    if (value == choice) return;
  throw_error("autoencoder.{}: expected one of {}, found '{}'", name, fmt::join(choices, ", "),
              value);
}

}  // namespace

void AutoencoderConfig::check() const {
  constexpr int64_t kWidest = 1 << 16;
  expect_in("width", width, 1, kWidest);
  expect_in("vocab_size", vocab_size, 0, int64_t{1} << 24);
  expect_in("hidden", hidden, 1, kWidest);
  expect_in("layers", layers, 1, 64);
  expect_in("bottleneck", bottleneck, 1, kWidest);
  expect_in("heads", heads, 1, 4096);
  expect_in("head_dim", head_dim, 0, 4096);
  if (has_attention() && head_dim == 0 && hidden % heads != 0)
    throw_error(
        "autoencoder.heads: expected a divisor of autoencoder.hidden = {}, or a head_dim, found {}",
        hidden, heads);
  expect_one_of("cell", cell, kernels::kCellNames);
  expect_one_of("decoder", decoder, {"plain", "cross_attention", "self_attention"});
  expect_one_of("bottleneck_norm", bottleneck_norm, {"none", "rms_norm"});
  expect_one_of("position_codes", position_codes, {"queries", "all"});
  expect_one_of("loss", loss, {"cosine", "mse"});
  expect_in("window", window, 0, kWidest);
  expect_in("stride", stride, 0, kWidest);
  if (window > 0 && !has_attention())
    throw_error(
        "autoencoder.window: expected cross_attention or self_attention as autoencoder.decoder, "
        "found '{}'",
        decoder);
  if (stride > 0 && !reads_encoder())
    throw_error("autoencoder.stride: expected cross_attention as autoencoder.decoder, found '{}'",
                decoder);
  if (stride > 0 && window == 0)
    throw_error(
        "autoencoder.stride: expected 0 where autoencoder.window is 0 (all words are read), found "
        "{}",
        stride);
}

kernels::Cell AutoencoderConfig::kind_of_cell() const { return kernels::cell_named(cell).value(); }

kernels::ReconstructionLoss AutoencoderConfig::kind_of_loss() const {
  return loss == "mse" ? kernels::ReconstructionLoss::kMse : kernels::ReconstructionLoss::kCosine;
}

}  // namespace refrain
