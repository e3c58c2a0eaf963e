// Attention whose scores are thousands to beyond float32: outputs and gradients against float64, in
// every pattern, on every instruction set and with every kernel for bfloat16.
#include "support/large_scores.h"

#include "refrain/kernels/matmul/format_bf16_ref.h"
#include "support/attention_case.h"

namespace refrain {
namespace {

using Case = AttentionCase;

const std::vector<Case> kCases = {
    {40, 40, 2, 2, 8}, {150, 160, 2, 1, 16}, {90, 100, 1, 1, 8, 20}, {120, 140, 2, 1, 8, 20, 3}};

// What is done after the scores: exponentials and sums of a few ulp, of terms of the size compared
// with. With bfloat16, P, dS, v and dO are rounded, each by up to 2^-9.
constexpr double kFloat32Error = 0x1p-24 * 64, kBf16Error = 4 * 0x1p-9;

// f(kernel, error) for products in float32 and for all that make them in bfloat16.
template <class F>
void for_each_product(F&& f) {
  std::vector<kernels::Microkernel> all = {{"plain", kernels::bf16_block_ref, nullptr, nullptr}};
  for (const auto& kernel : kernels::microkernels()) all.push_back(kernel);
  for_each_target([&] {
    f(nullptr, kFloat32Error);
    for (const auto& kernel : all) {
      SCOPED_TRACE(kernel.name);
      f(&kernel, kBf16Error);
    }
  });
}

std::vector<AttentionInDouble> wanted(const AttentionCall& a) {
  const Case& c = a.c_;
  std::vector<AttentionInDouble> all;
  for (int64_t h = 0; h < c.heads; ++h) {
    const int64_t g = h / (c.heads / c.kv_heads);
    const HeadInDouble head{c.d,
                            double{a.scale()},
                            a.head<double>(a.q, c.queries, h * c.d),
                            a.head<double>(a.kv, c.keys, g * c.d),
                            a.head<double>(a.kv, c.keys, a.width / 2 + g * c.d),
                            a.head<double>(a.d_o, c.queries, h * c.d)};
    all.emplace_back(head, [&](int64_t i, int64_t j) {
      return kernels::attention_sees(c.window, c.stride, c.keys - c.queries + i, j);
    });
  }
  return all;
}

void expect_wanted(const AttentionCall& a, const std::vector<AttentionInDouble>& want,
                   double error) {
  const Case& c = a.c_;
  const int64_t group = c.heads / c.kv_heads;
  for (int64_t h = 0; h < c.heads; ++h) {
    const AttentionInDouble& w = want[static_cast<size_t>(h)];
    const auto of_query = [&](const Floats& x) {
      return [&, h](int64_t i) { return x.tensor().row(i / c.d)[h * c.d + i % c.d]; };
    };
    expect_near("o", w.o, error, of_query(a.o));
    expect_near("dq", w.dq, error, of_query(a.dq));
    if (h % group != 0) continue;
    Sums dk = w.dk, dv = w.dv;
    for (int64_t other = h + 1; other < h + group; ++other)
      for (size_t i = 0; i < dk.value.size(); ++i) {
        const AttentionInDouble& more = want[static_cast<size_t>(other)];
        dk.value[i] += more.dk.value[i], dk.size[i] += more.dk.size[i];
        dv.value[i] += more.dv.value[i], dv.size[i] += more.dv.size[i];
      }
    const auto of_key = [&](int64_t first) {
      return [&, first](int64_t i) {
        return a.dkv.tensor().row(i / c.d)[first + h / group * c.d + i % c.d];
      };
    };
    expect_near("dk", dk, error, of_key(0));
    expect_near("dv", dv, error, of_key(a.width / 2));
  }
}

TEST(LargeScores, OutputsAndGradientsAreThoseOfFloat64) {
  for (const Case& c : kCases)
    for (const ScoreSize& size : kScoreSizes) {
      SCOPED_TRACE(size.name());
      AttentionCall a(c, 17);
      size.fill_q({a.q.span(), c.heads * c.d, c.heads * c.d, c.d});
      size.fill_k({a.kv.span(), a.width, a.width / 2, c.d});
      const auto want = wanted(a);
      for_each_product([&](const kernels::Microkernel* kernel, double error) {
        a.kernel = kernel;
        a.forward(0, c.queries);
        a.dkv.fill(0);
        a.backward(true);
        expect_wanted(a, want, error);
      });
    }
}

// Normal numbers, whose scores are rounded. A row whose highest score in float64 stands out by more
// than that has P of that key alone: its o is that key's v, and it has nothing to say about scores.
TEST(LargeScores, OneKeyHasAllWhereItsScoreStandsOut) {
  for (const Case& c : kCases)
    for (const double size : {1e3, 4e4, 1e7, 1e15, 1e25}) {
      SCOPED_TRACE(size);
      AttentionCall a(c, 23, size);
      for (int64_t i = 0; i < c.keys; ++i)
        for (int64_t j = a.width / 2; j < a.width; ++j)
          a.kv.tensor().row(i)[j] = static_cast<float>(i % 7 - 3 + 0.125 * double(j % 5));
      for_each_product([&](const kernels::Microkernel* kernel, double) {
        a.kernel = kernel;
        a.forward(0, c.queries);
        a.dkv.fill(0);
        a.backward(true);
        for (const Floats* x : {&a.o, &a.dq, &a.dkv})
          for (const float v : x->span()) ASSERT_TRUE(std::isfinite(v));
        // Of a product's terms, and of the operands.
        const double rounding = kernel ? 0x1p-7 : 0x1p-24 * double(c.d + 2);
        int64_t clear = 0;
        for (int64_t h = 0; h < c.heads; ++h)
          for (int64_t i = 0; i < c.queries; ++i) {
            const int64_t t = c.keys - c.queries + i, g = h / (c.heads / c.kv_heads);
            double top = -INFINITY, second = -INFINITY, most = 0;
            int64_t best = -1;
            for (int64_t j = 0; j <= t; ++j) {
              if (!kernels::attention_sees(c.window, c.stride, t, j)) continue;
              double s = 0, terms = 0;
              for (int64_t e = 0; e < c.d; ++e) {
                const double term = double{a.q.tensor().row(i)[h * c.d + e]} *
                                    double{a.kv.tensor().row(j)[g * c.d + e]};
                s += term;
                terms += std::abs(term);
              }
              most = std::max(most, terms);
              second = std::max(second, std::min(s, top));
              if (s > top) best = j;
              top = std::max(top, s);
            }
            // What is less than 2^-125 is 0.
            if (top - second < 2 * rounding * most + 125 / double{a.scale()}) continue;
            ++clear;
            for (int64_t e = 0; e < c.d; ++e) {
              const float v = a.kv.tensor().row(best)[a.width / 2 + g * c.d + e];
              ASSERT_EQ(a.o.tensor().row(i)[h * c.d + e], v) << "row " << i;
              if (!kernel) {
                ASSERT_LE(std::abs(a.dq.tensor().row(i)[h * c.d + e]), 1e-30 * size) << "row " << i;
              }
            }
          }
        EXPECT_GT(clear, c.heads * c.queries / 3);
      });
    }
}

// The largest queries there are, against keys that float32 still multiplies by them.
TEST(LargeScores, QueriesToTheEndOfFloat32) {
  for (const ScoreSize& size :
       {ScoreSize{127, 85, 110, 82}, {127, 0, 107, 0}, {127, -20, 90, -3}}) {
    SCOPED_TRACE(size.name());
    const Case c{60, 60, 1, 1, 16};
    AttentionCall a(c, 29);
    size.fill_q({a.q.span(), c.d, c.d, c.d});
    size.fill_k({a.kv.span(), a.width, a.width / 2, c.d});
    const auto want = wanted(a);
    for_each_product([&](const kernels::Microkernel* kernel, double error) {
      a.kernel = kernel;
      a.forward(0, c.queries);
      expect_near("o", want[0].o, error, [&](int64_t i) { return a.o[i]; });
    });
  }
}

TEST(LargeScores, NoBitDependsOnThreadsOrOnWhichQueriesComeTogether) {
  for_each_product([](const kernels::Microkernel* kernel, double) {
    for (const double size : {3e3, 1e25})
      for (const Case& c : std::vector<Case>{{200, 230, 4, 2, 16}, {300, 330, 2, 1, 8, 50, 2}}) {
        AttentionCall whole(c, 5, size);
        whole.kernel = kernel;
        expect_cuts_change_nothing(whole, 5, {1, 64}, size);
      }
  });
}

}  // namespace
}  // namespace refrain
