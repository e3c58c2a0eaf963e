#include "refrain/kernels/attention/attention.h"

#include <vector>

#include "refrain/kernels/attention/attention_pattern.h"
#include "refrain/kernels/attention/attention_ref.h"
#include "support/attention_case.h"

namespace refrain {
namespace {

using Case = AttentionCase;

TEST(Attention, ForwardIsTheReferences) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 2},
                                           {5, 5, 2, 2, 8},
                                           {70, 70, 4, 2, 16},
                                           {3, 130, 2, 1, 32},
                                           {150, 150, 1, 1, 64},
                                           {65, 66, 3, 1, 12},
                                           {300, 310, 2, 2, 6},
                                           {1, 200, 8, 2, 32, 70},
                                           {150, 150, 2, 2, 8, 1},
                                           {260, 300, 4, 2, 16, 64},
                                           {260, 300, 1, 1, 8, 100, 1},
                                           {200, 420, 2, 1, 8, 40, 3},
                                           {420, 420, 2, 2, 64, 70, 16},
                                           {150, 150, 4, 2, 16, 0, 0, 0.3f},
                                           {420, 430, 2, 1, 8, 50, 3, 0.5f}}) {
      AttentionCall a(c, 7);
      a.forward(0, c.queries);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / (c.heads / c.kv_heads);
        const auto q = a.head<double>(a.q, c.queries, h * c.d);
        const auto k = a.head<double>(a.kv, c.keys, g * c.d);
        const auto v = a.head<double>(a.kv, c.keys, a.width / 2 + g * c.d);
        std::vector<double> o(q.size());
        a.reference().forward(q.data(), k.data(), v.data(), o.data(), a.factor(h));
        for (int64_t i = 0; i < c.queries; ++i)
          for (int64_t j = 0; j < c.d; ++j)
            ASSERT_NEAR(a.o.tensor().row(i)[h * c.d + j], o[static_cast<size_t>(i * c.d + j)],
                        5e-6)  // a few ulp of e^x and of sums of normal numbers
                << "head " << h << " row " << i;
      }
    }
  });
}

TEST(Attention, BackwardIsTheComplexStepOfTheReference) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{1, 1, 1, 1, 2},
                                           {6, 6, 2, 1, 4},
                                           {5, 9, 2, 2, 8},
                                           {70, 70, 1, 1, 4},
                                           {8, 72, 2, 1, 6},
                                           {70, 70, 1, 1, 4, 1},
                                           {60, 100, 2, 2, 4, 7},
                                           {40, 60, 2, 1, 4, 6, 2},
                                           {330, 340, 1, 1, 4, 66, 5},
                                           {70, 75, 2, 2, 4, 0, 0, 0.3f},
                                           {8, 72, 2, 1, 6, 0, 0, 0.3f},
                                           {330, 340, 1, 1, 4, 66, 5, 0.5f}}) {
      AttentionCall a(c, 11);
      a.forward(0, c.queries);
      a.dkv.fill(0.125f);
      a.backward(true);
      const int64_t group = c.heads / c.kv_heads;
      std::vector<double> dkv(static_cast<size_t>(c.keys * a.width), 0.125);
      for (int64_t h = 0; h < c.heads; ++h) {
        const int64_t g = h / group;
        auto q = a.head<Complex>(a.q, c.queries, h * c.d);
        auto k = a.head<Complex>(a.kv, c.keys, g * c.d);
        auto v = a.head<Complex>(a.kv, c.keys, a.width / 2 + g * c.d);
        const auto exact = [&](Complex& x) {
          const Complex keep = x;
          x = Complex(keep.real(), 1e-30);
          const double d = a.loss(h, q, k, v).imag() / 1e-30;
          x = keep;
          return d;
        };
        // A part of the elements of the longer cases: each costs a whole evaluation.
        const size_t stride = c.keys > 20 ? 37 : 1;
        for (size_t i = 0; i < q.size(); i += stride)
          ASSERT_NEAR(a.dq.tensor().row(static_cast<int64_t>(i) /
                                        c.d)[h * c.d + static_cast<int64_t>(i) % c.d],
                      exact(q[i]), 2e-5);
        if (group == 1) {
          for (size_t i = 0; i < k.size(); i += stride) {
            const auto* row = a.dkv.tensor().row(static_cast<int64_t>(i) / c.d);
            const int64_t at = g * c.d + static_cast<int64_t>(i) % c.d;
            ASSERT_NEAR(row[at] - 0.125, exact(k[i]), 2e-5);
            ASSERT_NEAR(row[a.width / 2 + at] - 0.125, exact(v[i]), 2e-5);
          }
        } else {
          for (size_t i = 0; i < k.size(); ++i) {
            const auto at = static_cast<size_t>((static_cast<int64_t>(i) / c.d) * a.width +
                                                g * c.d + static_cast<int64_t>(i) % c.d);
            dkv[at] += exact(k[i]);
            dkv[at + static_cast<size_t>(a.width / 2)] += exact(v[i]);
          }
        }
      }
      for (size_t i = 0; group > 1 && i < dkv.size(); ++i)
        ASSERT_NEAR(a.dkv.tensor().data[i], dkv[i], 4e-5) << "grouped, at " << i;
    }
  });
}

TEST(Attention, NoBitDependsOnThreadsOrOnWhichQueriesComeTogether) {
  for_each_target([] {
    for (const Case& c : std::vector<Case>{{200, 230, 4, 2, 16},
                                           {700, 700, 1, 1, 8},
                                           {700, 700, 1, 1, 8, 100},
                                           {700, 730, 2, 1, 8, 50, 2},
                                           {200, 230, 4, 2, 16, 0, 0, 0.2f},
                                           {700, 730, 2, 1, 8, 50, 2, 0.2f}}) {
      AttentionCall whole(c, 5);
      expect_cuts_change_nothing(whole, 5, {1, 64});
    }
  });
}

TEST(Attention, ThePatternsListsAreWhatAQuerySees) {
  for (const auto& [window, stride] : {std::pair{0, 0}, {1, 0}, {5, 0}, {3, 1}, {4, 7}, {9, 2}}) {
    const kernels::AttentionShape shape{1, 1, 2, 1, 2, 2, window, stride};
    const kernels::KeyRange far(shape, kernels::KeyRange::kStrided);
    const kernels::KeyRange near(shape, kernels::KeyRange::kLocal);
    for (int64_t t = 0; t < 60; ++t) {
      std::vector<int> visits(60);
      for (const auto* list : {&far, &near}) {
        const kernels::Range seen = list->seen(t);
        for (int64_t i = seen.low; i < seen.high; ++i) {
          ++visits[static_cast<size_t>(list->position(i))];
          EXPECT_GE(t, list->seen_by(i).low);
          EXPECT_LT(t, list->seen_by(i).high);
        }
        if (seen.low > 0) {
          EXPECT_GE(t, list->seen_by(seen.low - 1).high);
        }
        if (list == &near || stride > 0) {
          EXPECT_LT(t, list->seen_by(seen.high).low);
        }
      }
      for (int64_t p = 0; p < 60; ++p)
        EXPECT_EQ(visits[static_cast<size_t>(p)], kernels::attention_sees(window, stride, t, p))
            << "window " << window << ", stride " << stride << ", query " << t << ", key " << p;
    }
  }
}

TEST(Attention, KeysOutOfReachAreNotTouched) {
  const Case c{400, 400, 1, 1, 8, 64};
  AttentionCall clean(c, 9), poisoned(c, 9);
  // Whole blocks that no query of the call sees.
  for (int64_t i = 0; i < 192 * poisoned.width; ++i)
    poisoned.kv[i] = std::numeric_limits<float>::quiet_NaN();
  for (AttentionCall* a : {&clean, &poisoned}) {
    a->o.fill(0);
    a->forward(300, 100);
  }
  EXPECT_TRUE(same_bits(clean.o.span(), poisoned.o.span()));
}

TEST(Attention, LargeScoresStayFinite) {
  AttentionCall a({40, 40, 1, 1, 8}, 3, 60);  // scores of thousands
  a.forward(0, 40);
  a.backward(false);
  for (float v : a.o.span()) ASSERT_TRUE(std::isfinite(v));
  for (float v : a.dkv.span()) ASSERT_TRUE(std::isfinite(v));
}

}  // namespace
}  // namespace refrain
