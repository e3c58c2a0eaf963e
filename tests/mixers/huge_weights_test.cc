// Finite weights of any size: what a mixer computes with them, and its gradients, is what float64
// says, wherever float32 has it. Gates and softmaxes are saturated, so that most of it is exact.
#include <cmath>
#include <string>

#include "refrain/mixers/attention/ref.h"
#include "refrain/mixers/attention_rnn/ref.h"
#include "refrain/mixers/gla/ref.h"
#include "refrain/mixers/gru/ref.h"
#include "refrain/mixers/lstm/ref.h"
#include "refrain/mixers/mm_rec/ref.h"
#include "refrain/mixers/rnn/ref.h"
#include "support/mixer_contract.h"

namespace refrain {
namespace {

// What results must be: finite, and together, relative to their root mean square, this near.
struct Nearness {
  kernels::ComputeType compute_type;
  double error;
};
// Float32 chains, and operands rounded by 2^-13, of products on products. With bfloat16 other keys
// win and other gates open: those results are finite, and no more is asked.
constexpr Nearness kNearness[] = {{kernels::ComputeType::kFloat32, 1e-5},
                                  {kernels::ComputeType::kInt16, 5e-3},
                                  {kernels::ComputeType::kBf16, INFINITY}};

// What float64 says of a mixer's outputs and of some of its gradients: `stride` apart.
struct Expected {
  static constexpr size_t kOfInputs = 5, kOfWeights = 11;
  std::vector<double> y, dx, dw;

  template <template <class> class Ref, class Config, class M>
  static Expected of(const MixerDims& shape, const Config& config, const MixerUnderTest<M>& m,
                     const Floats& x, const Floats& dy) {
    const int64_t T = x.tensor().rows();
    std::vector<std::vector<Complex>> w;
    for (const auto& v : m.weights) w.emplace_back(v.begin(), v.end());
    std::vector<Complex> input(x.tensor().begin(), x.tensor().end()), y(input.size());
    const auto loss = [&] {
      std::vector<Complex> state(m.mixer.state_bytes(T) / sizeof(float));
      std::fill(y.begin(), y.end(), 0);
      Ref<Complex>{shape, config}.forward(w, 0, T, input.data(), y.data(), state.data());
      return dot(dy.span(), y);
    };
    const auto exact = [&](Complex& v) {
      const double real = v.real();
      v = {real, 1e-30};
      const double slope = loss().imag() / 1e-30;
      v = real;
      return slope;
    };
    Expected want;
    loss();
    for (const Complex& v : y) want.y.push_back(v.real());
    for (size_t i = 0; i < input.size(); i += kOfInputs) want.dx.push_back(exact(input[i]));
    for (auto& of_tensor : w)
      for (size_t i = 0; i < of_tensor.size(); i += kOfWeights)
        want.dw.push_back(MixerUnderTest<M>::kGradientStart + exact(of_tensor[i]));
    return want;
  }
};

void expect_like(const std::string& what, std::span<const float> all, size_t stride,
                 const std::vector<double>& want, double error) {
  double off = 0, size = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    const float got = all[i * stride];
    ASSERT_TRUE(std::isfinite(got)) << what << "[" << i * stride << "]: expected " << want[i];
    off += std::pow(double{got} - want[i], 2);
    size += std::pow(want[i], 2);
  }
  if (std::isfinite(error)) {
    EXPECT_LE(std::sqrt(off), error * std::sqrt(size)) << what;
  }
}

// `sizes`: of weights, so that nothing a mixer keeps, products of three or four of them, leaves
// float32. `compared`: sizes from which saturation makes results well defined.
template <class M, template <class> class Ref, class Config>
void expect_float64(const Config& config, const std::vector<double>& sizes, double compared) {
  const MixerDims shape{8, 2, 2, 4, 64, 2};
  const int64_t D = shape.d_model, T = 70;
  const Floats x({T, D}, 0, 1), dy({T, D}, 0, 2);
  for (const double size : sizes) {
    SCOPED_TRACE("weights of " + std::to_string(size));
    MixerUnderTest<M> m(shape, config);
    for (auto& w : m.weights)
      for (float& v : w) v *= static_cast<float>(size);
    const Expected want = Expected::of<Ref>(shape, config, m, x, dy);
    RaggedBatchBuilder data;
    const RaggedBatch whole = data.whole(1, T);
    for_each_target([&] {
      for (const Nearness& near : kNearness) {
        SCOPED_TRACE("compute_type " + std::to_string(static_cast<int>(near.compute_type)));
        const double error = size < compared ? INFINITY : near.error;
        m.compute_type = near.compute_type;
        Floats y({T, D}), dx({T, D});
        m.clear();
        m.forward(whole, x, y, nullptr, true);
        m.backward(whole, x, dy, dx, nullptr, nullptr);
        m.mixer.finish_gradients();
        expect_like("y", y.span(), 1, want.y, error);
        expect_like("dx", dx.span(), Expected::kOfInputs, want.dx, error);
        std::vector<float> dw;
        for (const auto& of_tensor : m.gradients)
          for (size_t i = 0; i < of_tensor.size(); i += Expected::kOfWeights)
            dw.push_back(of_tensor[i]);
        expect_like("gradients of weights", dw, 1, want.dw, error);
      }
    });
  }
}

const std::vector<double> kAll = {1e3, 1e6, 1e9, 1e12};

TEST(HugeWeights, Attention) {
  for (const int64_t window : {0, 9}) {
    AttentionConfig config;
    config.window = window;
    expect_float64<Attention, AttentionRef>(config, kAll, 1e3);
  }
}

TEST(HugeWeights, AttentionRnn) {
  for (const bool fused : {true, false})
    expect_float64<AttentionRnn, AttentionRnnRef>(AttentionRnnConfig{true, true, fused}, kAll, 1e3);
}

TEST(HugeWeights, Gla) {
  GlaConfig convolved;
  convolved.conv = 4;
  expect_float64<Gla, GlaRef>(GlaConfig{}, {1e3, 1e6, 1e9}, 1e3);
  expect_float64<Gla, GlaRef>(convolved, {1e3}, 1e3);
  expect_float64<Gla, GlaRef>(SimpleRnnConfig{}, kAll, 1e6);
}

TEST(HugeWeights, Cells) {
  expect_float64<Rnn, RnnRef>(RnnConfig{5}, kAll, 1e6);
  expect_float64<Lstm, LstmRef>(LstmConfig{5}, kAll, 1e6);
  expect_float64<Gru, GruRef>(GruConfig{5}, kAll, 1e6);
}

TEST(HugeWeights, MmRec) {
  for (const char* recurrence : {"full", "linear"}) {
    MmRecConfig config;
    config.slots = 4;
    config.stretch = 2;
    config.recurrence = recurrence;
    expect_float64<MmRec, MmRecRef>(config, {1e3, 1e6}, 1e3);
  }
}

}  // namespace
}  // namespace refrain
