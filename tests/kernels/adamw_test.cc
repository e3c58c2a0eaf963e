#include "refrain/kernels/elementwise/adamw.h"

#include "refrain/kernels/elementwise/adamw_ref.h"
#include "support/kernel_testing.h"
#include "support/threads.h"

namespace refrain {
namespace {

using kernels::AdamwStep;

AdamwStep settings() {
  return {.step = 1,
          .learning_rate = 1e-2,
          .beta1 = 0.9,
          .beta2 = 0.95,
          .eps = 1e-8,
          .weight_decay = 0.1};
}

TEST(Adamw, FollowsReferenceOverSteps) {
  for (int64_t n : awkward_sizes()) {
    const int64_t misalign = n % 4;
    SCOPED_TRACE(n);
    const Floats grads({3, n}, misalign, 2);
    for (bool clip : {false, true}) {
      AdamwStep s = settings();
      if (clip) {
        s.grad_scale = 0.5;
        s.clip_value = 0.3;
      }
      for_each_target([&] {
        Floats p({n}, misalign, 1), m({n}, misalign), v({n}, misalign);
        m.fill(0);
        v.fill(0);
        ReferenceArray<double> tp(p), tm(m), tv(v);
        for (s.step = 1; s.step <= 3; ++s.step) {
          const auto g =
              grads.span().subspan(static_cast<size_t>((s.step - 1) * n), static_cast<size_t>(n));
          kernels::adamw_step(p.span(), g, m.span(), v.span(), s);
          for (int64_t i = 0; i < n; ++i)
            kernels::adamw_ref(tp[i], static_cast<double>(g[static_cast<size_t>(i)]), tm[i], tv[i],
                               s);
        }
        // m is a sum of terms of both signs, v of one sign; a step is about the learning rate.
        expect_close(m.span(), tm.values(), 8, 0.5);
        expect_close(v.span(), tv.values(), 16, 0);
        expect_close(p.span(), tp.values(), 8, 1);
      });
    }
  }
}

TEST(Adamw, FirstStepIsTheLearningRate) {
  // After one step m / sqrt(v), corrected, is the sign of the gradient, whatever its size.
  for_each_target([&] {
    Floats p({20}, 1), g({20}, 2, 1), m({20}), v({20});
    p.fill(1);
    m.fill(0);
    v.fill(0);
    AdamwStep s = settings();
    s.weight_decay = 0;
    kernels::adamw_step(p.span(), g.span(), m.span(), v.span(), s);
    for (int64_t i = 0; i < 20; ++i) EXPECT_NEAR(p[i], 1 - std::copysign(1e-2, g[i]), 1e-6);
  });
}

TEST(Adamw, DecayIsDecoupled) {
  for_each_target([&] {
    Floats p({20}, 1), g({20}, 2), m({20}), v({20});
    p.fill(2);
    for (Floats* f : {&g, &m, &v}) f->fill(0);
    kernels::adamw_step(p.span(), g.span(), m.span(), v.span(), settings());
    for (int64_t i = 0; i < 20; ++i) EXPECT_NEAR(p[i], 2 - 1e-2 * 0.1 * 2, 1e-6);
  });
}

TEST(Adamw, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t n = 100'003;
  const Floats g({n}, 1, 2);
  expect_law(n, [&](const std::vector<int64_t>& pieces) {
    Floats p({n}, 0, 1), m({n}), v({n});
    m.fill(0.1f);
    v.fill(0.2f);
    size_t first = 0;
    for (int64_t count : pieces) {
      const auto part = [&](const Floats& f) {
        return f.span().subspan(first, static_cast<size_t>(count));
      };
      kernels::adamw_step(part(p), part(g), part(m), part(v), settings());
      first += static_cast<size_t>(count);
    }
    return all_of({&p, &m, &v});
  });
}

TEST(Sgd, FollowsReferenceOverSteps) {
  for (int64_t n : awkward_sizes()) {
    const int64_t misalign = n % 4;
    SCOPED_TRACE(n);
    const Floats grads({3, n}, misalign, 2);
    for (const double momentum : {0.0, 0.9})
      for_each_target([&] {
        const kernels::SgdStep s{.learning_rate = 0.5,
                                 .momentum = momentum,
                                 .weight_decay = 0.1,
                                 .grad_scale = 0.5,
                                 .clip_value = 0.3};
        Floats p({n}, misalign, 1), m({n}, misalign);
        m.fill(0);
        const std::span<float> moments = momentum > 0 ? m.span() : std::span<float>();
        ReferenceArray<double> tp(p), tm(m);
        for (size_t step = 0; step < 3; ++step) {
          const auto g =
              grads.span().subspan(step * static_cast<size_t>(n), static_cast<size_t>(n));
          kernels::sgd_step(p.span(), g, moments, s);
          for (int64_t i = 0; i < n; ++i)
            kernels::sgd_ref(tp[i], static_cast<double>(g[static_cast<size_t>(i)]), tm[i], s);
        }
        // Sums of a few terms of about 1.
        expect_close(p.span(), tp.values(), 8, 1);
        expect_close(m.span(), tm.values(), 8, 1);
      });
  }
}

TEST(Sgd, ThreadsAndCallsDoNotChangeABit) {
  constexpr int64_t n = 100'003;
  const Floats g({n}, 1, 2);
  expect_law(n, [&](const std::vector<int64_t>& pieces) {
    Floats p({n}, 0, 1), m({n});
    m.fill(0.1f);
    size_t first = 0;
    for (int64_t count : pieces) {
      const auto part = [&](const Floats& f) {
        return f.span().subspan(first, static_cast<size_t>(count));
      };
      kernels::sgd_step(part(p), part(g), part(m), {0.1, 0.9, 0.01});
      first += static_cast<size_t>(count);
    }
    return all_of({&p, &m});
  });
}

TEST(SumOfSquares, IsAccurateAndTheSameForAnyThreads) {
  // One grain, a few, and more than are held at a time.
  for (int64_t n : {0, 1, 7, 33, 16384, 16385, 100'003, 4'200'001}) {
    const Floats x({n}, 1);
    long double want = 0;
    for (int64_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>(i % 1001) * 0.01f - 3;
      want += static_cast<long double>(x[i]) * x[i];
    }
    for_each_target([&] {
      set_threads(1);
      const double one = kernels::sum_of_squares(x.span());
      EXPECT_NEAR(one, static_cast<double>(want), 1e-12 * static_cast<double>(want));
      for (int threads : {2, 3}) {
        set_threads(threads);
        EXPECT_EQ(kernels::sum_of_squares(x.span()), one);
      }
      set_threads(0);
    });
  }
}

TEST(SumOfSquares, ShowsWhatIsNotFinite) {
  for_each_target([&] {
    for (int64_t at : {0, 20'000, 39'999}) {
      Floats x({40'000}, 0);
      x.fill(1e30f);
      EXPECT_TRUE(std::isfinite(kernels::sum_of_squares(x.span())));  // in double
      for (float bad :
           {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
        x[at] = bad;
        EXPECT_FALSE(std::isfinite(kernels::sum_of_squares(x.span())));
      }
    }
  });
}

}  // namespace
}  // namespace refrain
