// Every mixer keeps the contract of mixers/mixer.h. A new mixer adds its lines here.
#include "refrain/mixers/attention/ref.h"
#include "refrain/mixers/attention_rnn/ref.h"
#include "refrain/mixers/gla/ref.h"
#include "refrain/mixers/gru/ref.h"
#include "refrain/mixers/lstm/ref.h"
#include "refrain/mixers/mm_rec/ref.h"
#include "refrain/mixers/rnn/ref.h"
#include "support/error_of.h"
#include "support/mixer_contract.h"

namespace refrain {
namespace {

MixerDims shape(int64_t d_model, int64_t heads, int64_t kv_heads, int64_t head_dim = 0) {
  return {d_model, heads, kv_heads, head_dim ? head_dim : d_model / heads, 64, 2};
}

TEST(MixerContract, Attention) {
  for (int64_t found : {0, 3}) {
    contract<Attention, AttentionRef>(shape(8, 2, 2), AttentionConfig{}, found);
    contract<Attention, AttentionRef>(shape(12, 3, 1), AttentionConfig{}, found);
    contract<Attention, AttentionRef>(shape(6, 2, 1, 8), AttentionConfig{100, "adjacent"}, found);
  }
}
AttentionConfig sparse(int64_t window, int64_t stride) {
  AttentionConfig config;
  config.window = window;
  config.stride = stride;
  return config;
}
TEST(MixerContract, SparseAttention) {
  // Rings that are not full yet, that the chunks fill, and that are shorter than a chunk.
  for (const auto& [window, stride] : {std::pair{1, 0}, {4, 0}, {9, 0}, {4, 3}, {2, 1}, {20, 2}})
    for (int64_t found : {0, 3, 11}) {
      contract<Attention, AttentionRef>(shape(8, 2, 2), sparse(window, stride), found);
      contract<Attention, AttentionRef>(shape(12, 3, 1), sparse(window, stride), found);
    }
}
// What other families' attention has: biases, normed queries and keys, scaled angles or none.
std::vector<AttentionConfig> of_families() {
  AttentionConfig biased, normed, linear, llama3, plain, all = sparse(4, 3);
  biased.qkv_bias = true;
  normed.qk_norm = true;
  linear.rope_scaling = "linear";
  linear.rope_factor = 4;
  llama3.rope_scaling = "llama3";
  llama3.rope_theta = 100;  // some pairs of every kind
  llama3.rope_factor = 8;
  llama3.rope_original_context = 40;
  plain.rope = false;
  plain.qkv_bias = plain.output_bias = true;
  all.qkv_bias = all.output_bias = all.qk_norm = true;
  all.rope_pairing = "adjacent";
  return {biased, normed, linear, llama3, plain, all};
}
TEST(MixerContract, AttentionOfFamilies) {
  for (const AttentionConfig& config : of_families())
    for (int64_t found : {0, 11}) {
      contract<Attention, AttentionRef>(shape(8, 2, 2), config, found);
      contract<Attention, AttentionRef>(shape(6, 4, 2, 8), config, found);
    }
  AttentionConfig odd;
  odd.rope = false;
  contract<Attention, AttentionRef>(shape(9, 3, 1), odd, 3);
}
TEST(MixerContract, AttentionTraining) {
  std::vector<AttentionConfig> configs = of_families();
  configs.insert(configs.end(), {AttentionConfig{}, sparse(20, 0), sparse(9, 4)});
  for (const auto& config : configs) training_contract<Attention>(shape(32, 4, 2), config);
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

template <class Config>
Config convolved(int64_t taps, Config config = {}) {
  config.conv = taps;
  return config;
}
TEST(MixerContract, GlaWithAConvolution) {
  for (int64_t taps : {2, 4, 16}) gla_contract(convolved<GlaConfig>(taps));
}
TEST(MixerContract, SimpleRnnWithAConvolution) {
  SimpleRnnConfig small;
  small.key_dim = 10;
  small.value_dim = 6;
  gla_contract(convolved(3, small));
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

MmRecConfig mm_rec(int64_t slots, int64_t stretch, const std::string& recurrence = "full",
                   bool memory = true) {
  MmRecConfig config;
  config.slots = slots;
  config.stretch = stretch;
  config.recurrence = recurrence;
  config.memory = memory;
  return config;
}
TEST(MixerContract, MmRec) {
  for (const char* recurrence : {"full", "linear"})
    for (const bool memory : {true, false}) {
      // Stretches that end in a chunk, rings that fill and that go round, all levels.
      for (const int64_t stretch : {1, 3})
        for (const int64_t found : {0, 2, 31, 107})
          contract<MmRec, MmRecRef>(shape(8, 2, 2), mm_rec(4, stretch, recurrence, memory), found);
      training_contract<MmRec>(shape(16, 2, 2), mm_rec(5, 7, recurrence, memory));
      recompute_contract<MmRec>(shape(16, 2, 2), mm_rec(5, 7, recurrence, memory),
                                {1, 16, 77, 1000});
    }
}

// Everything that has a tanh or a sigmoid, with the fast ones: the references compute these.
MixerDims fast(MixerDims dims) {
  dims.activation_precision = kernels::ActivationPrecision::kFast;
  return dims;
}
TEST(MixerContract, FastActivations) {
  for (const int64_t found : {0, 3}) {
    contract<Rnn, RnnRef>(fast(shape(8, 2, 2)), RnnConfig{}, found);
    contract<Lstm, LstmRef>(fast(shape(8, 2, 2)), LstmConfig{5}, found);
    contract<Gru, GruRef>(fast(shape(8, 2, 2)), GruConfig{19}, found);
  }
  SimpleRnnConfig both_tanh;
  both_tanh.key_dim = 10;
  both_tanh.value_dim = 6;
  contract<Gla, GlaRef>(fast(shape(8, 2, 2)), both_tanh, 13);
  both_tanh.key_act = "sigmoid";
  contract<Gla, GlaRef>(fast(shape(8, 2, 2)), both_tanh, 13);
  contract<Gla, GlaRef>(fast(shape(8, 2, 2)), convolved<GlaConfig>(4), 13);
  contract<MmRec, MmRecRef>(fast(shape(8, 2, 2)), mm_rec(4, 3), 31);
  for (const auto& one : {RnnConfig{}, RnnConfig{19}}) {
    training_contract<Rnn>(fast(shape(12, 2, 2)), one);
    recompute_contract<Rnn>(fast(shape(12, 2, 2)), one, {1, 16, 77});
  }
  training_contract<Lstm>(fast(shape(12, 2, 2)), LstmConfig{});
  recompute_contract<Lstm>(fast(shape(12, 2, 2)), LstmConfig{}, {1, 16, 77});
  training_contract<Gla>(fast(shape(16, 2, 2)), SimpleRnnConfig{});
  long_contract<Rnn, RnnRef>(fast(shape(16, 2, 2)), RnnConfig{});
}

// What Mixer::overwritten names is all that more tokens change: with that put back, a state is what
// it was.
template <class M, class Config>
void rollback_contract(const MixerDims& dims, const Config& config) {
  const int64_t D = dims.d_model;
  MixerUnderTest<M> m(dims, config);
  for (const int64_t before : {0, 1, 3, 8, 20, 45})
    for (const int64_t after : {1, 2, 5, 30}) {
      StateRows states(1, m.mixer.state_bytes(before + after));
      const State state = states.state();
      std::byte* row = state.rows[0];
      const Floats x({before + after, D}, 0, 1);
      Floats y({before + after, D});
      RaggedBatchBuilder data;
      const auto read = [&](int64_t first, int64_t n) {
        const RaggedBatch w = data.set(std::vector<int32_t>{0, static_cast<int32_t>(n)},
                                       std::vector<int32_t>{static_cast<int32_t>(first)});
        m.forward(w, x.tensor().slice(first, n), y.tensor().slice(first, n), &state, false);
      };
      if (before > 0) read(0, before);
      const std::vector<std::byte> want(row, row + m.mixer.state_bytes(before));
      const auto ranges = m.mixer.overwritten(before, after);
      std::vector<std::vector<std::byte>> saved;
      for (const StateRange& r : ranges) {
        ASSERT_LE(r.first + r.bytes, m.mixer.state_bytes(before + after));
        saved.emplace_back(row + r.first, row + r.first + r.bytes);
      }
      read(before, after);
      for (size_t i = 0; i < ranges.size(); ++i)
        std::copy(saved[i].begin(), saved[i].end(), row + ranges[i].first);
      EXPECT_TRUE(std::equal(want.begin(), want.end(), row)) << before << " and " << after;
    }
}
TEST(MixerContract, RollingBack) {
  for (const auto& [window, stride] :
       {std::pair{0, 0}, {1, 0}, {4, 0}, {9, 0}, {40, 0}, {4, 3}, {2, 1}, {20, 2}})
    rollback_contract<Attention>(shape(8, 2, 2), sparse(window, stride));
  rollback_contract<AttentionRnn>(shape(8, 2, 2), AttentionRnnConfig{});
  rollback_contract<Gla>(shape(8, 2, 2), GlaConfig{});
  rollback_contract<Gla>(shape(8, 2, 2), convolved<GlaConfig>(4));
  rollback_contract<Rnn>(shape(8, 2, 2), RnnConfig{9});
  rollback_contract<Lstm>(shape(8, 2, 2), LstmConfig{9});
  rollback_contract<Gru>(shape(8, 2, 2), GruConfig{9});
  rollback_contract<MmRec>(shape(8, 2, 2), mm_rec(4, 3));
}
TEST(MixerContract, ACacheThatOnlyGrowsOverwritesNothing) {
  const MixerDims dims = shape(8, 2, 1);
  EXPECT_TRUE(Attention(dims, AttentionConfig{}).overwritten(100, 30).empty());
  const Attention ring(dims, sparse(40, 0));
  EXPECT_TRUE(ring.overwritten(10, 30).empty());
  const size_t row = ring.state_bytes(1);
  ASSERT_EQ(ring.overwritten(75, 8).size(), 2u);  // rows 35 to 39, 0 to 2
  EXPECT_EQ(ring.overwritten(75, 8)[0].bytes, 5 * row);
  EXPECT_EQ(ring.overwritten(75, 8)[1].bytes, 3 * row);
}

TEST(MixerContract, ChunksWithoutRows) {
  empty_chunks_contract<Attention>(shape(6, 1, 1, 6), sparse(3, 0));
  empty_chunks_contract<AttentionRnn>(shape(6, 2, 2), AttentionRnnConfig{});
  empty_chunks_contract<Gla>(shape(6, 2, 2), GlaConfig{});
  empty_chunks_contract<Gla>(shape(6, 2, 2), SimpleRnnConfig{});
  empty_chunks_contract<Gla>(shape(6, 2, 2), convolved<GlaConfig>(4));
  empty_chunks_contract<Rnn>(shape(6, 2, 2), RnnConfig{9});
  empty_chunks_contract<Lstm>(shape(6, 2, 2), LstmConfig{9});
  empty_chunks_contract<Gru>(shape(6, 2, 2), GruConfig{9});
  empty_chunks_contract<MmRec>(shape(6, 2, 2), mm_rec(4, 2));
}
TEST(MixerContract, LongSequences) {
  long_contract<Attention, AttentionRef>(shape(8, 1, 1), AttentionConfig{}, 1024);
  long_contract<Attention, AttentionRef>(shape(8, 1, 1), sparse(100, 0), 1024);
  long_contract<Attention, AttentionRef>(shape(8, 1, 1), sparse(64, 10), 1024);
  long_contract<AttentionRnn, AttentionRnnRef>(shape(16, 2, 2), AttentionRnnConfig{});
  long_contract<Gla, GlaRef>(shape(16, 2, 2), GlaConfig{});
  long_contract<Gla, GlaRef>(shape(16, 2, 2), SimpleRnnConfig{});
  long_contract<Gla, GlaRef>(shape(16, 2, 2), convolved<GlaConfig>(4));
  long_contract<Rnn, RnnRef>(shape(16, 2, 2), RnnConfig{});
  long_contract<Lstm, LstmRef>(shape(16, 2, 2), LstmConfig{});
  long_contract<Gru, GruRef>(shape(16, 2, 2), GruConfig{});
  for (const char* recurrence : {"full", "linear"})
    long_contract<MmRec, MmRecRef>(shape(16, 2, 2), mm_rec(16, 16, recurrence));
}

TEST(AttentionMixer, PositionsBeyondTheTrainedContextWork) {
  const MixerDims s = shape(8, 2, 2);
  MixerUnderTest<Attention> m(s, AttentionConfig{});
  const int64_t T = 3 * s.context;
  const Floats x({T, 8}, 0, 1);
  Floats y({T, 8});
  RaggedBatchBuilder data;
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
  for (const auto& config :
       {sparse(-1, 0), sparse(4, -2), sparse(0, 4), sparse(int64_t{1} << 31, 0)})
    EXPECT_THROW(Attention(shape(8, 2, 2), config), Error);
  const auto refused = [](auto&& change) {
    AttentionConfig config;
    change(config);
    return error_of([&] { Attention(shape(8, 2, 2), config); });
  };
  using C = AttentionConfig;
  EXPECT_EQ(refused([](C& c) { c.rope_scaling = "yarn"; }),
            "attention.rope_scaling: expected linear, llama3 or nothing, found 'yarn'");
  EXPECT_EQ(refused([](C& c) { c.rope_factor = 2; }),
            "attention.rope_factor: has a meaning with attention.rope_scaling only");
  EXPECT_EQ(refused([](C& c) { c.rope = false, c.rope_scaling = "linear"; }),
            "attention.rope_scaling: has a meaning with attention.rope true only");
  EXPECT_EQ(refused([](C& c) { c.rope_scaling = "linear", c.rope_original_context = 7; }),
            "attention.rope_original_context: has a meaning with attention.rope_scaling llama3 "
            "only");
  EXPECT_NE(refused([](C& c) { c.rope_scaling = "linear", c.rope_factor = 0; }), "");
  EXPECT_NE(refused([](C& c) { c.rope_scaling = "llama3", c.rope_low_freq_factor = 4; }), "");
  EXPECT_NE(refused([](C& c) { c.rope_scaling = "llama3", c.rope_original_context = 0; }), "");
}

// One window after another, each `chunk` tokens long, the state carried.
std::vector<float> in_chunks(MixerUnderTest<Attention>& m, const Floats& x, int64_t chunk) {
  const int64_t T = x.tensor().rows(), D = x.tensor().cols();
  StateRows states(1, m.mixer.state_bytes(T));
  const State state = states.state();
  Floats y({T, D});
  for (int64_t at = 0; at < T; at += chunk) {
    const int64_t n = std::min(chunk, T - at);
    RaggedBatchBuilder data;
    const RaggedBatch w = data.set(std::vector<int32_t>{0, static_cast<int32_t>(n)},
                                   std::vector<int32_t>{static_cast<int32_t>(at)});
    m.forward(w, x.tensor().slice(at, n), y.tensor().slice(at, n), &state, false);
  }
  return {y.span().begin(), y.span().end()};
}

TEST(AttentionMixer, ARingFarBehindTheStartGivesTheWholeFormsBits) {
  const int64_t T = 700, D = 32;
  for (const auto& config :
       {AttentionConfig{}, sparse(64, 0), sparse(50, 0), sparse(5, 0), sparse(50, 7)}) {
    MixerUnderTest<Attention> m(shape(D, 4, 2), config);
    const Floats x({T, D}, 0, 1);
    Floats y({T, D});
    RaggedBatchBuilder data;
    m.forward(data.whole(1, T), x, y, nullptr, false);
    for (const int64_t chunk : {int64_t{1}, int64_t{33}, int64_t{64}, int64_t{200}})
      EXPECT_TRUE(same_bits(in_chunks(m, x, chunk), y.span()))
          << "window " << config.window << ", stride " << config.stride << ", chunks of " << chunk;
  }
}

TEST(AttentionMixer, AWindowBoundsTheState) {
  const MixerDims s = shape(8, 2, 1);
  const size_t row = 2 * 4 * sizeof(float);
  const Attention all(s, AttentionConfig{}), ring(s, sparse(100, 0)), strided(s, sparse(100, 8));
  for (const int64_t t : {0, 1, 99, 100, 101, 1 << 30}) {
    EXPECT_EQ(all.state_bytes(t), static_cast<size_t>(t) * row);
    EXPECT_EQ(ring.state_bytes(t), static_cast<size_t>(std::min<int64_t>(t, 100)) * row);
    EXPECT_EQ(strided.state_bytes(t), static_cast<size_t>(t < 8 ? t : 100 + t / 8) * row);
  }
}

}  // namespace
}  // namespace refrain
