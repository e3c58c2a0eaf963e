// Which configurations an autoencoder refuses.
#include <gtest/gtest.h>

#include "refrain/autoencoder/autoencoder.h"
#include "support/error_of.h"

namespace refrain {
namespace {

TEST(AutoencoderConfig, RefusesWhatCannotBe) {
  const auto refused = [](auto change) {
    AutoencoderConfig config;
    config.width = 5;
    config.hidden = 6;
    config.layers = 2;
    config.bottleneck = 3;
    config.heads = 2;
    change(config);
    return error_of([&] { Autoencoder model(config); });
  };
  EXPECT_EQ(refused([](auto& c) { c.heads = 4; }),
            "autoencoder.heads: expected a divisor of autoencoder.hidden = 6, or a head_dim, found "
            "4");
  EXPECT_EQ(refused([](auto& c) { c.cell = "lstn"; }),
            "autoencoder.cell: expected one of rnn, lstm, gru, found 'lstn'");
  EXPECT_EQ(refused([](auto& c) { c.bottleneck = 0; }),
            "autoencoder.bottleneck: expected 1 to 65536, found 0");
  EXPECT_EQ(refused([](auto& c) {
              c.decoder = "plain";
              c.heads = 4;
            }),
            "(no error)");
  EXPECT_EQ(refused([](auto& c) {
              c.decoder = "plain";
              c.window = 4;
            }),
            "autoencoder.window: expected cross_attention or self_attention as "
            "autoencoder.decoder, found 'plain'");
  EXPECT_EQ(refused([](auto& c) {
              c.decoder = "self_attention";
              c.window = 4;
              c.stride = 2;
            }),
            "autoencoder.stride: expected cross_attention as autoencoder.decoder, found "
            "'self_attention'");
  EXPECT_EQ(refused([](auto& c) { c.stride = 2; }),
            "autoencoder.stride: expected 0 where autoencoder.window is 0 (all words are read), "
            "found 2");
  EXPECT_EQ(refused([](auto& c) { c.window = -1; }),
            "autoencoder.window: expected 0 to 65536, found -1");
}

}  // namespace
}  // namespace refrain
