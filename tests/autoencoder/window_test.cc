// Attention of the decoder to a window of words.
#include <tuple>

#include "refrain/autoencoder/autoencoder.h"
#include "refrain/model/workspace.h"
#include "support/autoencoder_trial.h"

namespace refrain {
namespace {

TEST(AutoencoderWindow, GradientsAreTheReferencesWithAWindow) {
  for (const auto& [decoder, window, stride] : {std::tuple{"cross_attention", 1, 0},
                                                {"cross_attention", 4, 0},
                                                {"cross_attention", 2, 3},
                                                {"self_attention", 1, 0},
                                                {"self_attention", 3, 0}})
    for (const Forced& forced : {Forced{0, 1, 0, 0, 1, 0}, Forced(6, 1)})
      for (const bool flash : {true, false}) {
        SCOPED_TRACE(fmt::format("{} {} {} {}", decoder, window, stride, forced[0]));
        AutoencoderConfig config = tiny("gru", decoder);
        const Complex all = Trial(config).reference_loss(Trial(config).reference_weights(), forced);
        config.window = window;
        config.stride = stride;
        config.flash = flash;
        Trial trial(config);
        expect_gradients(trial, forced, 5);
        // It is another model.
        EXPECT_GT(std::abs(trial.reference_loss(trial.reference_weights(), forced) - all), 1e-4);
      }
}

TEST(AutoencoderWindow, MapsOfAWindowAreZeroOutsideOfIt) {
  AutoencoderConfig config = tiny();
  config.window = 3;
  config.stride = 4;
  Trial trial(config, {7});
  RaggedBatchBuilder data;
  const RaggedBatch w = data.whole(1, 7);
  std::vector<float> y(trial.x.size());
  std::vector<std::vector<float>> map;
  Workspace workspace;
  workspace.run({}, [&](ExecutionContext& ctx, Arena&) {
    trial.model.reconstruct(ctx, w, {trial.x.data(), {7, 5}}, {y.data(), {7, 5}}, &map);
  });
  ASSERT_EQ(map.size(), 7u);
  for (int t = 0; t < 7; ++t)
    for (int s = 0; s < 7; ++s)
      EXPECT_EQ(map[static_cast<size_t>(t)][static_cast<size_t>(s)] > 0,
                std::abs(s - t) <= 1 || s == 3)
          << t << " " << s;
}

}  // namespace
}  // namespace refrain
