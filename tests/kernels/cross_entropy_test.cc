#include "refrain/kernels/loss/cross_entropy.h"

#include "refrain/kernels/loss/cross_entropy_ref.h"
#include "support/kernel_testing.h"

namespace refrain {
namespace {

using kernels::kIgnored;

constexpr int64_t kRows = 4;

std::vector<int32_t> some_targets(int64_t n) {
  return {0, static_cast<int32_t>(n - 1), kIgnored, static_cast<int32_t>(n / 2)};
}

TEST(CrossEntropy, LossAndGradientMatchReferenceAndItsComplexStep) {
  constexpr double kScale = 0.125;
  for (int64_t n : awkward_sizes()) {
    const int64_t misalign = n % 4;
    SCOPED_TRACE(n);
    const std::vector<int32_t> targets = some_targets(n);
    const Floats logits({kRows, n}, misalign, 1, 3.0);
    for (double smoothing : {0.0, 0.1}) {
      ReferenceArray<Complex> x(logits), log_p({kRows, n}), losses({kRows});
      const std::vector<double> gradient = complex_step(x.values(), [&] {
        kernels::log_softmax_ref(x.tensor(), log_p.tensor());
        kernels::cross_entropy_ref(log_p.tensor(), std::span<const int32_t>(targets), smoothing,
                                   losses.tensor());
        Complex sum = 0;
        for (const Complex& l : losses.values()) sum += kScale * l;
        return sum;
      });
      std::vector<double> want;
      for (const Complex& l : losses.values()) want.push_back(l.real());
      for_each_target([&] {
        Floats got({kRows, n}, misalign, 1, 3.0), got_losses({kRows}, misalign), forward({kRows});
        if (smoothing == 0) {
          kernels::cross_entropy_forward(got, targets, forward);
          expect_close(forward.span(), want, 8, 4);
        }
        kernels::softmax_cross_entropy(got, targets, kScale, static_cast<float>(smoothing),
                                       got_losses);
        expect_close(got_losses.span(), want, 8, 4);
        expect_close(got.span(), gradient, 16, kScale);
        for (int64_t i = 0; i < n; ++i) EXPECT_EQ(got[2 * n + i], 0);
      });
    }
  }
}

TEST(CrossEntropy, SoftmaxRowsMatchReference) {
  for (int64_t n : awkward_sizes()) {
    SCOPED_TRACE(n);
    const Floats logits({kRows, n}, n % 4, 1, 3.0);
    for (float temperature : {1.0f, 0.25f, 4.0f}) {
      ReferenceArray<double> x(logits), log_p({kRows, n});
      kernels::log_softmax_ref(x.tensor(), log_p.tensor());
      for_each_target([&] {
        Floats got({kRows, n}, n % 4, 1, 3.0);
        kernels::log_softmax_rows(got);
        expect_close(got.span(), log_p.values(), 4, 10);
      });
      for (double& v : x.values()) v /= temperature;
      kernels::log_softmax_ref(x.tensor(), log_p.tensor());
      // p = e^z with z rounded: relative error |z| 2^-24, and -log p is at least |z|.
      for_each_target([&] {
        Floats got({kRows, n}, n % 4, 1, 3.0);
        kernels::softmax_rows(got, temperature);
        for (int64_t i = 0; i < kRows * n; ++i) {
          const double want = std::exp(log_p[i]);
          ASSERT_NEAR(got[i], want, (16 - 2 * log_p[i]) * 0x1p-24 * want + 0x1p-126) << i;
        }
      });
    }
  }
}

TEST(CrossEntropy, LargeVocabularySumsStayExact) {
  constexpr int64_t n = 50257;
  const Floats logits({1, n}, 1, 1);
  ReferenceArray<double> x(logits), log_p({1, n});
  kernels::log_softmax_ref(x.tensor(), log_p.tensor());
  for_each_target([&] {
    Floats losses({1});
    kernels::cross_entropy_forward(logits, std::vector<int32_t>{77}, losses);
    // Rounded once to float, after a sum that is off by no more than that.
    EXPECT_NEAR(losses[0], -log_p[77], 2 * 0x1p-24 * -log_p[77]);
  });
}

TEST(CrossEntropy, ExtremeLogits) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for_each_target([&] {
    Floats x({4, 20}, 1), losses({4});
    x.fill(0);
    x[0] = 3e38f;       // overflows without the maximum subtracted
    x[20 + 5] = -kInf;  // impossible class
    x[40 + 19] = kInf;  // what diverged must show
    x[60 + 3] = std::numeric_limits<float>::quiet_NaN();
    kernels::softmax_cross_entropy(x, std::vector<int32_t>{0, 1, 1, 1}, 1, 0, losses);
    EXPECT_EQ(losses[0], 0);
    EXPECT_NEAR(losses[1], std::log(19.0), 1e-6);
    EXPECT_TRUE(std::isnan(losses[2]));
    EXPECT_TRUE(std::isnan(losses[3]));
    EXPECT_EQ(x[1], 0);
    EXPECT_EQ(x[20 + 5], 0);
    EXPECT_TRUE(std::isnan(x[40]));
    EXPECT_TRUE(std::isnan(x[60]));
  });
}

TEST(CrossEntropy, LargeLogitsOfAnySignAndSmoothing) {
  constexpr int64_t n = 60;
  for_each_target([&] {
    for (const float size : {1e20f, 3e38f}) {
      // All alike: the sum of exponentials is what is left.
      Floats x({2, n}), losses({2}), nll({2});
      std::fill_n(x.tensor().row(0), n, size);
      std::fill_n(x.tensor().row(1), n, -size);
      kernels::cross_entropy_forward(x, std::vector<int32_t>{3, 4}, nll);
      for (const float loss : nll.span()) EXPECT_NEAR(loss, std::log(60.0), 1e-6);
      kernels::log_softmax_rows(x);
      for (const float log_p : x.span()) EXPECT_NEAR(log_p, -std::log(60.0), 1e-6);
      // One far above the others: the mean of what they are below it is a float32, their sum is
      // not.
      x.fill(0);
      x[3] = size;
      x[n + 4] = -size;
      kernels::softmax_cross_entropy(x, std::vector<int32_t>{3, 5}, 1, 0.25f, losses);
      EXPECT_NEAR(losses[0] / size, 0.25 * 59 / 60, 1e-6);
      EXPECT_NEAR(losses[1] / size, 0.25 / 60, 1e-6);
      EXPECT_NEAR(x[3], 0.25 - 0.25 / 60, 1e-6);
      for (const float v : x.span()) EXPECT_TRUE(std::isfinite(v));
    }
  });
}

TEST(CrossEntropy, ColdSoftmaxIsTheMaximum) {
  for_each_target([&] {
    for (float temperature : {1e-3f, 1e-30f, 1e-45f}) {
      Floats x({1, 37}, 0, 1);
      const auto top = std::max_element(x.span().begin(), x.span().end()) - x.span().begin();
      kernels::softmax_rows(x, temperature);
      for (int64_t i = 0; i < 37; ++i) EXPECT_EQ(x[i], i == top ? 1 : 0);
    }
  });
}

TEST(CrossEntropy, LargestLogitAndSumOfExponentials) {
  for_each_target([&] {
    for (int64_t n : {1, 3, 16, 37, 5000}) {
      Floats x({n}, 7, 3);
      const int64_t at = n * 2 / 3;
      x[at] = x[n - 1] = 9;  // twice, where there are several
      const auto found = kernels::largest_logit(x.span());
      EXPECT_TRUE(found.all_numbers);
      EXPECT_EQ(found.value, 9);
      EXPECT_EQ(found.index, at);
      double sum = 0;
      for (const float v : x.span()) sum += std::exp(double{v} - 9);
      EXPECT_NEAR(kernels::exp_sum(x.span(), 9) / sum, 1, 1e-6);
      x[n / 2] = -std::numeric_limits<float>::infinity();
      EXPECT_TRUE(kernels::largest_logit(x.span()).all_numbers);
      for (const float wrong :
           {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()})
        for (const int64_t place : {int64_t{0}, n / 2, n - 1}) {
          Floats y({n}, 7, 3);
          y[place] = wrong;
          EXPECT_FALSE(kernels::largest_logit(y.span()).all_numbers) << wrong << " at " << place;
        }
    }
  });
}

TEST(CrossEntropy, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t kMany = 203, n = 307;
  const Floats logits({kMany, n}, 1, 1, 3.0);
  std::vector<int32_t> targets;
  for (int32_t r = 0; r < kMany; ++r) targets.push_back(r % 5 ? r % n : kIgnored);
  expect_law(kMany, [&](const std::vector<int64_t>& pieces) {
    Floats x({kMany, n}), p({kMany, n}), log_p({kMany, n}), losses({kMany}), nll({kMany});
    for (Floats* f : {&x, &p, &log_p})
      std::copy(logits.span().begin(), logits.span().end(), f->span().begin());
    int64_t first = 0;
    for (int64_t rows : pieces) {
      const auto part = [&](const Floats& f) { return f.tensor().slice(first, rows); };
      const auto some = std::span<const int32_t>(targets).subspan(static_cast<size_t>(first),
                                                                  static_cast<size_t>(rows));
      kernels::cross_entropy_forward(part(logits), some, {&nll[first], {rows}});
      kernels::softmax_cross_entropy(part(x), some, 0.01f, 0.1f, {&losses[first], {rows}});
      kernels::softmax_rows(part(p), 0.8f);
      kernels::log_softmax_rows(part(log_p));
      first += rows;
    }
    return all_of({&x, &p, &log_p, &losses, &nll});
  });
}

TEST(CrossEntropy, RefusesTargetsOutsideTheVocabulary) {
  Floats x({1, 9}, 0, 1), losses({1});
  for (int32_t target : {-2, 9, INT32_MIN, INT32_MAX}) {
    const std::vector<int32_t> targets{target};
    EXPECT_THROW(kernels::cross_entropy_forward(x, targets, losses), std::logic_error);
    EXPECT_THROW(kernels::softmax_cross_entropy(x, targets, 1, 0, losses), std::logic_error);
  }
}

}  // namespace
}  // namespace refrain
