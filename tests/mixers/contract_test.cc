// Every mixer keeps the contract of mixers/mixer.h. A new mixer adds its lines here.
#include "refrain/mixers/attention/ref.h"
#include "support/mixer_contract.h"

namespace refrain {
namespace {

MixerShape shape(int64_t d_model, int64_t heads, int64_t kv_heads, int64_t head_dim = 0) {
  return {d_model, heads, kv_heads, head_dim ? head_dim : d_model / heads, 64, 2};
}

TEST(MixerContract, Attention) {
  for (int64_t found : {0, 3}) {
    contract<Attention, AttentionRef>(shape(8, 2, 2), AttentionConfig{}, found);
    contract<Attention, AttentionRef>(shape(12, 3, 1), AttentionConfig{}, found);
    contract<Attention, AttentionRef>(shape(6, 2, 1, 8), AttentionConfig{100, "adjacent"}, found);
  }
}
TEST(MixerContract, AttentionTraining) {
  training_contract<Attention>(shape(32, 4, 2), AttentionConfig{});
}

TEST(AttentionMixer, PositionsBeyondTheTrainedContextWork) {
  const MixerShape s = shape(8, 2, 2);
  MixerUnderTest<Attention> m(s, AttentionConfig{});
  const int64_t T = 3 * s.context;
  const Floats x({T, 8}, 0, 1);
  Floats y({T, 8});
  WindowData data;
  m.forward(data.whole(1, T), x, y, nullptr, false);
  std::vector<std::vector<double>> w;
  for (const auto& v : m.weights) w.emplace_back(v.begin(), v.end());
  const std::vector<double> dx(x.tensor().begin(), x.tensor().end());
  std::vector<double> dy(dx.size()), state(static_cast<size_t>(T * 16));
  AttentionRef<double>{s, AttentionConfig{}}.forward(w, 0, T, dx.data(), dy.data(), state.data());
  for (size_t i = 0; i < dy.size(); ++i)
    expect_near("y", static_cast<double>(y.span()[i]), dy[i], 2e-5);
}

TEST(AttentionMixer, RefusesWhatItCannotBe) {
  EXPECT_THROW(Attention(shape(8, 2, 2), AttentionConfig{10000, "diagonal"}), Error);
  EXPECT_THROW(Attention(shape(9, 3, 3), AttentionConfig{}), Error);  // odd heads
  EXPECT_THROW(Attention(shape(8, 4, 3), AttentionConfig{}), Error);
}

}  // namespace
}  // namespace refrain
