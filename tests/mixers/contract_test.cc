// Every mixer keeps the contract of mixers/mixer.h. A new mixer adds its lines here.
#include "refrain/mixers/attention/ref.h"
#include "refrain/mixers/attention_rnn/ref.h"
#include "refrain/mixers/gla/ref.h"
#include "refrain/mixers/gru/ref.h"
#include "refrain/mixers/lstm/ref.h"
#include "refrain/mixers/rnn/ref.h"
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

TEST(MixerContract, AttentionRnn) {
  for (const bool fused : {true, false})
    for (const bool bias : {true, false}) {
      const AttentionRnnConfig config{bias, !bias, fused};
      for (int64_t found : {0, 3}) {
        contract<AttentionRnn, AttentionRnnRef>(shape(8, 2, 2), config, found);
        contract<AttentionRnn, AttentionRnnRef>(shape(9, 3, 3), config, found);
        contract<AttentionRnn, AttentionRnnRef>(shape(7, 2, 2, 5), config, found);
      }
      training_contract<AttentionRnn>(shape(32, 4, 4), config);
      recompute_contract<AttentionRnn>(shape(32, 4, 4), config, {1, 64, 1000});
    }
}

void gla_contract(const GlaConfig& config) {
  for (int64_t found : {0, 13}) contract<Gla, GlaRef>(shape(8, 2, 2), config, found);
  training_contract<Gla>(shape(16, 2, 2), config);
  recompute_contract<Gla>(shape(16, 2, 2), config, {16, 48, 64, 1024});
}
TEST(MixerContract, Gla) { gla_contract(GlaConfig{}); }
TEST(MixerContract, SimpleRnn) {
  SimpleRnnConfig small;
  small.key_dim = 10;
  small.value_dim = 6;
  gla_contract(small);
}

template <class M, template <class> class Ref, class Config>
void cell_contract() {
  for (int64_t hidden : {0, 5, 19}) {
    for (int64_t found : {0, 3}) contract<M, Ref>(shape(8, 2, 2), Config{hidden}, found);
    training_contract<M>(shape(12, 2, 2), Config{hidden});
    recompute_contract<M>(shape(12, 2, 2), Config{hidden}, {1, 16, 77, 1000});
  }
}
TEST(MixerContract, Rnn) { cell_contract<Rnn, RnnRef, RnnConfig>(); }
TEST(MixerContract, Lstm) { cell_contract<Lstm, LstmRef, LstmConfig>(); }
TEST(MixerContract, Gru) { cell_contract<Gru, GruRef, GruConfig>(); }

TEST(MixerContract, PiecesWithoutRows) {
  empty_pieces_contract<AttentionRnn>(shape(6, 2, 2), AttentionRnnConfig{});
  empty_pieces_contract<Gla>(shape(6, 2, 2), GlaConfig{});
  empty_pieces_contract<Gla>(shape(6, 2, 2), SimpleRnnConfig{});
  empty_pieces_contract<Rnn>(shape(6, 2, 2), RnnConfig{9});
  empty_pieces_contract<Lstm>(shape(6, 2, 2), LstmConfig{9});
  empty_pieces_contract<Gru>(shape(6, 2, 2), GruConfig{9});
}
TEST(MixerContract, LongSequences) {
  long_contract<Attention, AttentionRef>(shape(8, 1, 1), AttentionConfig{}, 1024);
  long_contract<AttentionRnn, AttentionRnnRef>(shape(16, 2, 2), AttentionRnnConfig{});
  long_contract<Gla, GlaRef>(shape(16, 2, 2), GlaConfig{});
  long_contract<Gla, GlaRef>(shape(16, 2, 2), SimpleRnnConfig{});
  long_contract<Rnn, RnnRef>(shape(16, 2, 2), RnnConfig{});
  long_contract<Lstm, LstmRef>(shape(16, 2, 2), LstmConfig{});
  long_contract<Gru, GruRef>(shape(16, 2, 2), GruConfig{});
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
