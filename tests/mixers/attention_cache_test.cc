// Attention whose cache of keys and values is in a type that rounds: all forms are one function,
// and that is the reference's.
#include <fmt/format.h>

#include <memory>

#include "refrain/mixers/attention/ref.h"
#include "refrain/mixers/gla/gla.h"
#include "support/mixer_contract.h"

namespace refrain {
namespace {

using kernels::CacheType;

MixerDims dims(int64_t d_model, int64_t heads, int64_t kv_heads, int64_t head_dim, CacheType type) {
  MixerDims all{d_model, heads, kv_heads, head_dim, 64, 2};
  all.cache_type = type;
  return all;
}

AttentionConfig sparse(int64_t window, int64_t stride) {
  AttentionConfig config;
  config.window = window;
  config.stride = stride;
  return config;
}

const std::vector<AttentionConfig> kConfigs = {AttentionConfig{}, sparse(50, 0), sparse(5, 0),
                                               sparse(140, 0),    sparse(40, 7), sparse(3, 1)};

// What all sequences of a batch give: outputs, and the bytes of their states.
struct Results {
  std::vector<std::vector<float>> y;
  std::vector<std::vector<std::byte>> states;
};

class CachedAttention {
 public:
  CachedAttention(const MixerDims& shape, const AttentionConfig& config)
      : m(shape, config), D(shape.d_model) {
    for (const int64_t n : lengths)
      x.push_back(std::make_unique<Floats>(std::initializer_list<int64_t>{n, D}, 0, ++key_));
  }

  // The sequences `which` in one batch, `chunk` rows of each at a time; 0: whole, without a state.
  Results run(const std::vector<size_t>& which, int64_t chunk) {
    Results results;
    int64_t longest = 0;
    std::vector<std::byte*> pointers;
    for (const size_t b : which) {
      longest = std::max(longest, lengths[b]);
      results.y.emplace_back(static_cast<size_t>(lengths[b] * D));
      results.states.emplace_back(chunk > 0 ? m.mixer.state_bytes(lengths[b]) : 0);
    }
    for (auto& bytes : results.states) pointers.push_back(bytes.data());
    const State state{pointers};
    const int64_t step = chunk > 0 ? chunk : longest;
    for (int64_t at = 0; at < longest; at += step) {
      std::vector<int32_t> offset = {0}, start;
      for (const size_t b : which) {
        const int64_t from = std::min(at, lengths[b]);
        start.push_back(static_cast<int32_t>(from));
        offset.push_back(offset.back() + static_cast<int32_t>(std::min(lengths[b] - from, step)));
      }
      RaggedBatchBuilder data;
      const RaggedBatch w = data.set(offset, start);
      Floats from({w.rows(), D}), y({w.rows(), D});
      for (size_t i = 0; i < which.size(); ++i)
        for (int64_t r = 0; r < w.length(static_cast<int64_t>(i)); ++r)
          std::copy_n(x[which[i]]->tensor().row(start[i] + r), D, from.tensor().row(offset[i] + r));
      m.forward(w, from, y, chunk > 0 ? &state : nullptr, false);
      for (size_t i = 0; i < which.size(); ++i)
        std::copy_n(y.tensor().row(offset[i]), w.length(static_cast<int64_t>(i)) * D,
                    results.y[i].begin() + start[i] * D);
    }
    return results;
  }

  MixerUnderTest<Attention> m;
  const int64_t D;
  const std::vector<int64_t> lengths = {150, 1, 70};
  std::vector<std::unique_ptr<Floats>> x{};

 private:
  uint64_t key_ = 0;
};

std::vector<MixerDims> shapes(CacheType type) {
  return {dims(32, 4, 2, 8, type),  dims(24, 2, 2, 12, type), dims(20, 2, 1, 34, type),
          dims(16, 1, 1, 64, type), dims(16, 4, 1, 20, type), dims(12, 2, 1, 80, type)};
}

template <class F>
void for_each_case(F&& f) {
  for (const CacheType type : {CacheType::kBf16, CacheType::kQ8_0})
    for (const MixerDims& shape : shapes(type))
      for (const AttentionConfig& config : kConfigs) {
        SCOPED_TRACE(fmt::format("{}, heads of {}, window {}, stride {}", kernels::name_of(type),
                                 shape.head_dim, config.window, config.stride));
        f(shape, config);
      }
}

TEST(AttentionCacheMixer, FormsThreadsAndBatchesGiveTheSameBits) {
  for_each_case([](const MixerDims& shape, const AttentionConfig& config) {
    for_each_target([&] {
      CachedAttention a(shape, config);
      set_threads(1);
      const Results whole = a.run({0, 1, 2}, 0), stepped = a.run({0, 1, 2}, 1);
      EXPECT_EQ(stepped.y, whole.y);
      for (const int threads : {1, 2}) {
        set_threads(threads);
        for (const int64_t chunk : {33, 64, 200}) {
          const Results chunked = a.run({0, 1, 2}, chunk);
          EXPECT_EQ(chunked.y, whole.y) << chunk;
          EXPECT_EQ(chunked.states, stepped.states) << chunk;
        }
        for (const size_t b : {size_t{0}, size_t{2}}) {
          const Results alone = a.run({b}, 7);
          EXPECT_EQ(alone.y[0], whole.y[b]);
          EXPECT_EQ(alone.states[0], stepped.states[b]);
        }
      }
      set_threads(0);
    });
  });
}

TEST(AttentionCacheMixer, IsTheReferenceThatRoundsKeysAndValues) {
  for_each_case([](const MixerDims& shape, const AttentionConfig& config) {
    CachedAttention a(shape, config);
    const Results stepped = a.run({0, 1, 2}, 1);
    std::vector<std::vector<double>> weights;
    for (const auto& w : a.m.weights) weights.emplace_back(w.begin(), w.end());
    MixerDims in_float32 = shape;
    in_float32.cache_type = CacheType::kFloat32;
    const Attention plain(in_float32, config);
    for (size_t b = 0; b < a.lengths.size(); ++b) {
      const int64_t T = a.lengths[b];
      const std::vector<double> x(a.x[b]->span().begin(), a.x[b]->span().end());
      std::vector<double> y(x.size()), state(plain.state_bytes(T) / sizeof(float));
      AttentionRef<double>{shape, config}.forward(weights, 0, T, x.data(), y.data(), state.data());
      const std::vector<float> numbers = a.m.mixer.state_numbers(stepped.states[b]);
      ASSERT_EQ(numbers.size(), state.size());
      // Where float32 and double fall on two sides of a tie, a number differs by a step.
      size_t apart = 0;
      const double most = 4 * kernels::cache_step(shape.cache_type);  // of numbers up to about 4
      for (size_t i = 0; i < state.size(); ++i) {
        const double error = std::abs(double{numbers[i]} - state[i]);
        ASSERT_LE(error, most);
        if (error > 1e-5 * std::max(1.0, std::abs(state[i]))) ++apart;
      }
      EXPECT_LE(apart, 2 + state.size() / 200);
      // One such number of a sequence's is 1e-4 of the outputs at most; rounding another way, or
      // not at all, is 2e-3 and more.
      EXPECT_LE(rms_ratio(stepped.y[b], y), 3e-4);
    }
  });
}

TEST(AttentionCacheMixer, TheStateTakesAHalfAndAboutAQuarter) {
  const auto bytes = [](CacheType type, const AttentionConfig& config, int64_t tokens) {
    return Attention(dims(128, 2, 2, 64, type), config).state_bytes(tokens);
  };
  for (const AttentionConfig& config : kConfigs)
    for (const int64_t t : {0, 1, 100, 4096}) {
      const size_t all = bytes(CacheType::kFloat32, config, t);
      EXPECT_EQ(bytes(CacheType::kBf16, config, t) * 2, all);
      EXPECT_EQ(bytes(CacheType::kQ8_0, config, t) * 128, all * 34);
    }
}

TEST(AttentionCacheMixer, OnlyMixersWithACacheTakeAType) {
  Attention attention(dims(8, 2, 2, 4, CacheType::kFloat32), AttentionConfig{});
  EXPECT_TRUE(attention.set_cache_type(CacheType::kBf16));
  EXPECT_EQ(attention.state_bytes(3), size_t{3 * 2 * 8 * 2});
  Gla gla(dims(8, 2, 2, 4, CacheType::kFloat32), GlaConfig{});
  const size_t before = gla.state_bytes(3);
  EXPECT_FALSE(gla.set_cache_type(CacheType::kBf16));
  EXPECT_EQ(gla.state_bytes(3), before);
}

}  // namespace
}  // namespace refrain
