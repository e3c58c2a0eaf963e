#include "refrain/kernels/elementwise/activation.h"

#include <cstring>
#include <string>
#include <vector>

#include "refrain/kernels/elementwise/activation_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

using kernels::Activation;
using kernels::ActivationPrecision;

struct Case {
  Activation f;
  const char* name;
};
constexpr Case kCases[] = {{Activation::kSilu, "silu"},          {Activation::kGelu, "gelu"},
                           {Activation::kGeluTanh, "gelu_tanh"}, {Activation::kSigmoid, "sigmoid"},
                           {Activation::kTanh, "tanh"},          {Activation::kRelu, "relu"}};
constexpr ActivationPrecision kBoth[] = {ActivationPrecision::kAccurate,
                                         ActivationPrecision::kFast};

// From the smallest to beyond where everything saturates, both signs, zero, and where the pieces of
// the approximations meet.
std::vector<float> probes() {
  std::vector<float> x = {0.0f, -0.0f};
  for (double v = 1e-30; v < 1e5; v *= v < 0.01 ? 1.7 : 1.003)
    for (double sign : {-1.0, 1.0}) x.push_back(static_cast<float>(sign * v));
  return x;
}

// An exponent z computed in up to five roundings, each of them 2^-24 z, moves e^z by as much:
// x^2 / 2 without fused operations, or 1.6 x + 0.07 x^3. Denormal results lose all but the last
// bit.
double allowed(Activation f, double x, double want) {
  const double a = std::abs(x);
  const double z = f == Activation::kGelu       ? a * a / 2
                   : f == Activation::kGeluTanh ? 1.6 * a + 0.07 * a * a * a
                                                : 0;
  return (8 + 5 * std::min(z, 110.0)) * 0x1p-24 * std::abs(want) + 0x1p-126;
}

// Value and slope of what is computed: the fast functions against their own formulas. Beyond its
// clamp a fast silu is x times 6e-39, and its slope comes out as large as that.
void expect_accurate(const Case& c, ActivationPrecision precision) {
  const std::vector<float> points = probes();
  const int64_t n = static_cast<int64_t>(points.size());
  const double tiny = precision == ActivationPrecision::kFast ? 0x1p-100 : 0;
  {
    std::vector<double> value, slope;
    for (float p : points) {
      Complex x(p, 1e-30);
      const Complex y = kernels::activation_ref(c.f, x, precision);
      value.push_back(y.real());
      slope.push_back(y.imag() / 1e-30);
    }
    for_each_target([&] {
      Floats x({n}, 1), dy({n}, 2), y({n}, 3), dx({n});
      std::copy(points.begin(), points.end(), x.span().begin());
      dy.fill(1);
      kernels::activation_forward(c.f, x, y, precision);
      kernels::activation_backward(c.f, x, dy, dx, precision);
      for (int64_t i = 0; i < n; ++i) {
        const double v = value[static_cast<size_t>(i)], s = slope[static_cast<size_t>(i)];
        ASSERT_LE(std::abs(y[i] - v), allowed(c.f, x[i], v) + tiny) << "f(" << x[i] << ") = " << v;
        // The slopes of silu and gelu pass through 0 where they subtract terms of this size.
        const double terms = std::abs(s) + std::abs(v);
        ASSERT_LE(std::abs(dx[i] - s), allowed(c.f, x[i], terms) + tiny)
            << "f'(" << x[i] << ") = " << s;
      }
    });
  }
}

TEST(Activation, ValueAndSlopeAreAccurateEverywhere) {
  for (const Case& c : kCases)
    for (const ActivationPrecision precision : kBoth) {
      SCOPED_TRACE(c.name);
      SCOPED_TRACE(kernels::kActivationPrecisions[static_cast<size_t>(precision)]);
      expect_accurate(c, precision);
    }
}

// What docs/activations.md says of the fast tanh: its error, where it is largest, and up to where
// it is below 0.001.
TEST(Activation, TheFastTanhIsOffByWhatThePageSays) {
  constexpr int64_t kSteps = 400'000;
  Floats x({2 * kSteps + 1}), y({2 * kSteps + 1});
  for (int64_t i = -kSteps; i <= kSteps; ++i)
    x[i + kSteps] = static_cast<float>(i) * 4 / static_cast<float>(kSteps);
  for_each_target([&] {
    kernels::activation_forward(Activation::kTanh, x, y, ActivationPrecision::kFast);
    double most = 0, at = 0, below = 4;
    for (int64_t i = 0; i <= 2 * kSteps; ++i) {
      const double v = x[i], error = std::abs(y[i] - std::tanh(v));
      if (error > most) at = std::abs(v);
      most = std::max(most, error);
      if (error > 1e-3) below = std::min(below, std::abs(v));
      if (std::abs(v) >= 3) {
        ASSERT_EQ(y[i], v < 0 ? -1 : 1);
      }
      ASSERT_LE(std::abs(y[i]), 1.0f + 0x1p-23f);
    }
    EXPECT_NEAR(most, 0.0235, 5e-5);
    EXPECT_NEAR(at, 1.566, 2e-3);
    EXPECT_NEAR(below, 0.309, 1e-3);
  });
}

TEST(Activation, AnElementDoesNotKnowWhereItStands) {
  constexpr int64_t kMost = 100;
  const Floats all({kMost}, 0, 1, 3.0);
  for_each_target([&] {
    for (const Case& c : kCases) {
      SCOPED_TRACE(c.name);
      Floats want({kMost});
      kernels::activation_forward(c.f, all, want);
      for (int64_t n : awkward_sizes()) {
        if (n > kMost) continue;
        for (int64_t first : {int64_t{0}, kMost - n}) {
          Floats x({n}, n % 5), dy({n}, n % 3, 2), dx({n}, n % 3, 2);
          std::copy_n(&all[first], n, x.span().begin());
          kernels::activation_backward(c.f, x, dy, dy);  // in place
          kernels::activation_backward(c.f, x, dx, dx);
          EXPECT_TRUE(same_bits(dx.span(), dy.span()));
          kernels::activation_forward(c.f, x, x);
          EXPECT_TRUE(same_bits(
              x.span(), want.span().subspan(static_cast<size_t>(first), static_cast<size_t>(n))));
        }
      }
    }
  });
}

TEST(Activation, NanStaysNanAndInfinitySaturates) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for_each_target([&] {
    for (const Case& c : kCases) {
      SCOPED_TRACE(c.name);
      Floats x({3}), dy({3}), y({3}), dx({3});
      x[0] = std::numeric_limits<float>::quiet_NaN();
      x[1] = kInf;
      x[2] = -3e38f;
      dy.fill(1);
      kernels::activation_forward(c.f, x, y);
      kernels::activation_backward(c.f, x, dy, dx);
      EXPECT_TRUE(std::isnan(y[0]));
      EXPECT_TRUE(std::isnan(dx[0]));
      const bool bounded = c.f == Activation::kSigmoid || c.f == Activation::kTanh;
      EXPECT_EQ(y[1], bounded ? 1 : kInf);
      EXPECT_EQ(y[2], c.f == Activation::kTanh ? -1 : 0);
      EXPECT_EQ(dx[2], 0);
    }
  });
}
TEST(Activation, FastFunctionsToo) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for_each_target([&] {
    for (const Activation f : {Activation::kSigmoid, Activation::kTanh}) {
      Floats x({3}), y({3}), dy({3}), dx({3});
      x[0] = std::numeric_limits<float>::quiet_NaN();
      x[1] = kInf;
      x[2] = -kInf;
      dy.fill(1);
      kernels::activation_forward(f, x, y, ActivationPrecision::kFast);
      kernels::activation_backward(f, x, dy, dx, ActivationPrecision::kFast);
      EXPECT_TRUE(std::isnan(y[0]));
      EXPECT_TRUE(std::isnan(dx[0]));
      EXPECT_EQ(y[1], 1);
      EXPECT_NEAR(y[2], f == Activation::kTanh ? -1 : 0, 1e-38);
      EXPECT_NEAR(dx[1], 0, 1e-38);
      EXPECT_NEAR(dx[2], 0, 1e-38);
    }
  });
}

void expect_swiglu(ActivationPrecision precision) {
  constexpr int64_t kRows = 3;
  for (int64_t n : awkward_sizes()) {
    SCOPED_TRACE(n);
    const int64_t misalign = n % 4;
    const Floats x({kRows, 2 * n}, misalign, 1, 2.0), dout({kRows, n}, misalign, 2);
    ReferenceArray<Complex> tx(x), tout({kRows, n});
    const auto loss = [&] {
      kernels::swiglu_ref(tx.tensor(), tout.tensor(), precision);
      return dot(dout.span(), tout.values());
    };
    const std::vector<double> dx = complex_step(tx.values(), loss);
    std::vector<double> out;
    for (const Complex& v : tout.values()) out.push_back(v.real());
    for_each_target([&] {
      Floats got({kRows, n}, misalign), got_dx({kRows, 2 * n}, misalign);
      Floats in_place({kRows, 2 * n}, misalign, 1, 2.0);
      kernels::swiglu_forward(x, got, precision);
      expect_close(got.span(), out, 8, 0);
      kernels::swiglu_backward(x, dout, got_dx, precision);
      expect_close(got_dx.span(), dx, 8, 1);
      kernels::swiglu_backward(in_place, dout, in_place, precision);
      EXPECT_TRUE(same_bits(in_place.span(), got_dx.span()));
    });
  }
}

TEST(Swiglu, MatchesReferenceAndItsComplexStep) {
  for (const ActivationPrecision precision : kBoth) expect_swiglu(precision);
}

void expect_rounded_forms(ActivationPrecision precision) {
  constexpr int64_t kRows = 3;
  for (int64_t n : awkward_sizes()) {
    SCOPED_TRACE(n);
    const Floats x({kRows, 2 * n}, n % 4, 1, 2.0), dout({kRows, n}, 1, 2);
    for_each_target([&] {
      Floats rounded({kRows, 2 * n}, n % 4, 1, 2.0), want({kRows, n}), want_dx({kRows, 2 * n});
      std::vector<BFloat16> bf16(static_cast<size_t>(kRows * 2 * n)), again(bf16.size());
      const TensorOf<BFloat16> want_bf16{bf16.data(), {kRows, 2 * n}};
      const TensorOf<BFloat16> got_bf16{again.data(), {kRows, 2 * n}};
      kernels::round_to_bf16(rounded.tensor(), want_bf16);
      kernels::swiglu_forward(rounded, want, precision);
      kernels::swiglu_backward(rounded, dout, want_dx, precision);
      Floats out({kRows, n}), from_bf16({kRows, n}), dx({kRows, 2 * n});
      kernels::swiglu_forward_rounded(x, got_bf16, out, precision);
      kernels::swiglu_forward(TensorOf<const BFloat16>(got_bf16), from_bf16, precision);
      kernels::swiglu_backward(TensorOf<const BFloat16>(got_bf16), dout, dx, precision);
      EXPECT_EQ(0, std::memcmp(bf16.data(), again.data(), 2 * bf16.size()));
      EXPECT_TRUE(same_bits(all_of({&out, &from_bf16, &dx}), all_of({&want, &want, &want_dx})));
    });
  }
}

TEST(Swiglu, OfRoundedValuesIsTheSameInEveryForm) {
  for (const ActivationPrecision precision : kBoth) expect_rounded_forms(precision);
}

TEST(Swiglu, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kRows = 203, n = 131;
  const Floats x({kRows, 2 * n}, 1, 1, 2.0), dout({kRows, n}, 2, 2);
  expect_law(kRows, [&](const std::vector<int64_t>& pieces) {
    Floats out({kRows, n}), dx({kRows, 2 * n}), y({kRows, 2 * n}), dy({kRows, 2 * n});
    int64_t first = 0;
    for (int64_t rows : pieces) {
      const auto part = [&](const Floats& f) { return f.tensor().slice(first, rows); };
      kernels::swiglu_forward(part(x), part(out));
      kernels::swiglu_backward(part(x), part(dout), part(dx));
      kernels::activation_forward(Activation::kGelu, part(x), part(y));
      kernels::activation_backward(Activation::kTanh, part(x), part(y), part(dy));
      first += rows;
    }
    return all_of({&out, &dx, &y, &dy});
  });
}

}  // namespace
}  // namespace refrain
