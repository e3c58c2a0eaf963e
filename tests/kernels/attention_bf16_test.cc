#include "refrain/kernels/attention/attention_bf16.h"

#include <vector>

#include "refrain/kernels/attention/attention_pattern.h"
#include "refrain/kernels/attention/attention_ref.h"
#include "refrain/kernels/matmul/bf16.h"
#include "refrain/kernels/matmul/format_bf16_ref.h"
#include "support/attention_case.h"
#include "support/threads.h"

namespace refrain {
namespace {

using Case = AttentionCase;
using kernels::KeyRange;
using kernels::Range;

// f(kernel) for the plain kernel and those of this machine's units, on every instruction set.
template <class F>
void for_each_kernel(F&& f) {
  std::vector<kernels::Microkernel> all = {{"plain", kernels::bf16_block_ref, nullptr, nullptr}};
  for (const auto& kernel : kernels::microkernels()) all.push_back(kernel);
  for (const auto& kernel : all)
    for_each_target([&] {
      SCOPED_TRACE(kernel.name);
      f(kernel);
    });
}

double rounded(double x) {
  return static_cast<double>(static_cast<float>(BFloat16::of(static_cast<float>(x))));
}

const std::vector<Case> kCases = {{1, 1, 1, 1, 2},
                                  {5, 5, 2, 2, 8},
                                  {70, 70, 4, 2, 16},
                                  {3, 130, 2, 1, 32},
                                  {150, 150, 1, 1, 64},
                                  {65, 66, 3, 1, 34},
                                  {300, 310, 2, 2, 6},
                                  {1, 200, 8, 2, 32, 70},
                                  {150, 150, 2, 2, 8, 1},
                                  {260, 300, 4, 2, 16, 64},
                                  {260, 300, 1, 1, 8, 100, 1},
                                  {200, 420, 2, 1, 8, 40, 3},
                                  {420, 420, 2, 2, 64, 70, 16},
                                  {150, 150, 4, 2, 16, 0, 0, 0.3f},
                                  {420, 430, 2, 1, 8, 50, 3, 0.5f}};

// Operands that bfloat16 has, so that P and dS are all that is rounded.
class RoundedAttention : public AttentionCall {
 public:
  RoundedAttention(const kernels::Microkernel& by, const Case& c, uint64_t key)
      : AttentionCall(c, key) {
    kernel = &by;
    for (Floats* x : {&q, &kv, &d_o}) kernels::round_to_bf16(x->tensor());
  }

  int64_t position(int64_t query) const { return c_.keys - c_.queries + query; }
  const float* k(int64_t h, int64_t p) const {
    return kv.tensor().row(p) + h / (c_.heads / c_.kv_heads) * c_.d;
  }
  const float* v(int64_t h, int64_t p) const { return k(h, p) + width / 2; }
  double dot(const float* a, const float* b) const {
    double sum = 0;
    for (int64_t j = 0; j < c_.d; ++j) sum += double{a[j]} * double{b[j]};
    return sum;
  }
  // log2 of the sum of 2^score, from the two numbers that forward left.
  double log_sum(int64_t h, int64_t query) const {
    return double{scale()} / std::log(2.0) * double{softmax.tensor().row(h)[query]} +
           double{softmax.tensor().row(c_.heads + h)[query]};
  }
  // To base 2.
  double score(int64_t h, int64_t query, int64_t p) const {
    return double{scale()} / std::log(2.0) * dot(q.tensor().row(query) + h * c_.d, k(h, p));
  }
};

// The same attention in double, with P rounded as the kernel does it: relative to the highest score
// up to the end of a block of 128 keys of a list.
std::vector<double> reference_forward(const RoundedAttention& a, int64_t h, int64_t query) {
  const Case& c = a.c_;
  const int64_t t = a.position(query);
  double top = -INFINITY, sum = 0;
  std::vector<double> out(static_cast<size_t>(c.d));
  for (const auto kind : {KeyRange::kStrided, KeyRange::kLocal}) {
    const KeyRange list(a.shape(), kind);
    const Range seen = list.seen(t);
    for (int64_t k0 = seen.low / 128 * 128; k0 < seen.high; k0 += 128) {
      const Range block = kernels::intersection(seen, {k0, k0 + 128});
      double now = top;
      for (int64_t i = block.low; i < block.high; ++i)
        now = std::max(now, a.score(h, query, list.position(i)));
      const double keep = std::exp2(top - now);
      top = now;
      sum *= keep;
      for (double& o : out) o *= keep;
      for (int64_t i = block.low; i < block.high; ++i) {
        const int64_t p = list.position(i);
        const double e = std::exp2(a.score(h, query, p) - top);
        const double weight = rounded(e * a.factor(h)(query, p));
        sum += e;
        for (int64_t j = 0; j < c.d; ++j)
          out[static_cast<size_t>(j)] += weight * double{a.v(h, p)[j]};
      }
    }
  }
  for (double& o : out) o /= sum;
  return out;
}

// Numbers of which all lie within `most` of what is wanted, and all but one in a hundred within
// `near`: where float32 and double fall on two sides of a tie, one element of P or dS differs by
// the step of bfloat16.
struct Closeness {
  double near, most;
  int64_t count = 0, apart = 0;
  void compare(double got, double want, double size) {
    ++count;
    const double error = std::abs(got - want);
    ASSERT_LE(error, most * size) << got << ", expected " << want;
    if (error > near * size) ++apart;
  }
  ~Closeness() { EXPECT_LE(apart, 1 + count / 100) << "of " << count; }
};

TEST(AttentionBf16, ForwardIsTheReferenceThatRoundsProbabilities) {
  for_each_kernel([](const kernels::Microkernel& kernel) {
    for (const Case& c : kCases) {
      RoundedAttention a(kernel, c, 7);
      a.forward(0, c.queries);
      Closeness close{5e-6, 0x1p-8};  // as in float32; a step of bfloat16
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t i = 0; i < c.queries; ++i) {
          const std::vector<double> o = reference_forward(a, h, i);
          for (int64_t j = 0; j < c.d; ++j)
            close.compare(double{a.o.tensor().row(i)[h * c.d + j]}, o[static_cast<size_t>(j)], 3);
          double sum = 0;
          const int64_t t = a.position(i);
          for (int64_t p = 0; p <= t; ++p)
            if (kernels::attention_sees(c.window, c.stride, t, p))
              sum += std::exp2(a.score(h, i, p));
          ASSERT_NEAR(a.log_sum(h, i), std::log2(sum), 5e-6 * (1 + std::abs(std::log2(sum))));
        }
    }
  });
}

TEST(AttentionBf16, BackwardIsTheReferenceThatRoundsPAndDs) {
  for_each_kernel([](const kernels::Microkernel& kernel) {
    for (const Case& c : kCases) {
      RoundedAttention a(kernel, c, 11);
      a.forward(0, c.queries);
      a.dkv.fill(0.125f);
      a.backward(true);
      // From o and the sums as forward gave them.
      std::vector<double> dkv(static_cast<size_t>(c.keys * a.width), 0.125),
          dkv_size(dkv.size(), 1);
      Closeness close{2e-6, 0x1p-8};
      const double scale = double{a.scale()};
      for (int64_t h = 0; h < c.heads; ++h)
        for (int64_t i = 0; i < c.queries; ++i) {
          const int64_t t = a.position(i), at = h * c.d;
          const float *q = a.q.tensor().row(i) + at, *d_o = a.d_o.tensor().row(i) + at;
          const double delta = a.dot(a.o.tensor().row(i) + at, d_o);
          std::vector<double> dq(static_cast<size_t>(c.d)), size(dq.size(), 1);
          for (int64_t p = 0; p <= t; ++p) {
            if (!kernels::attention_sees(c.window, c.stride, t, p)) continue;
            const double probability = std::exp2(a.score(h, i, p) - a.log_sum(h, i));
            const double factor = a.factor(h)(i, p), dp = factor * a.dot(d_o, a.v(h, p));
            const double weight = rounded(probability * factor);
            const double ds = rounded(probability * scale * (dp - delta));
            // Of the terms that dS is the difference of.
            const double ds_size = probability * scale * (std::abs(dp) + std::abs(delta));
            for (int64_t j = 0; j < c.d; ++j) {
              const auto column = static_cast<size_t>(j);
              const auto key = static_cast<size_t>(a.k(h, p) + j - a.kv.tensor().data);
              const size_t value = key + static_cast<size_t>(a.width / 2);
              dq[column] += ds * double{a.k(h, p)[j]};
              size[column] += ds_size * std::abs(double{a.k(h, p)[j]});
              dkv[key] += ds * double{q[j]};
              dkv_size[key] += ds_size * std::abs(double{q[j]});
              dkv[value] += weight * double{d_o[j]};
              dkv_size[value] += weight * std::abs(double{d_o[j]});
            }
          }
          for (int64_t j = 0; j < c.d; ++j)
            close.compare(double{a.dq.tensor().row(i)[at + j]}, dq[static_cast<size_t>(j)],
                          size[static_cast<size_t>(j)]);
        }
      for (size_t i = 0; i < dkv.size(); ++i)
        close.compare(double{a.dkv[static_cast<int64_t>(i)]}, dkv[i], dkv_size[i]);
    }
  });
}

// || got - want || / || want ||
double distance(std::span<const float> got, std::span<const float> want) {
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(double{got[i]} - double{want[i]}, 2);
    size += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(error / std::max(size, 1e-30));
}

TEST(AttentionBf16, IsNearFloat32) {
  for_each_kernel([](const kernels::Microkernel& kernel) {
    for (const Case& c : kCases) {
      if (c.keys == 1 || c.window == 1) continue;  // no gradient of q and k but for rounding
      AttentionCall plain(c, 7), a(c, 7);
      a.kernel = &kernel;
      for (AttentionCall* x : {&plain, &a}) {
        x->forward(0, c.queries);
        x->dkv.fill(0);
        x->backward(true);
      }
      // q, k, v, dO, P and dS are rounded by at most 2^-9 each, in all directions; a score, by
      // 2^-8 of its terms' size, which is a few at the most.
      constexpr double kMost = 0x1p-6;
      EXPECT_LE(distance(a.o.span(), plain.o.span()), kMost);
      EXPECT_LE(distance(a.dq.span(), plain.dq.span()), kMost);
      EXPECT_LE(distance(a.dkv.span(), plain.dkv.span()), kMost);
    }
  });
}

TEST(AttentionBf16, NoBitDependsOnThreadsOrOnWhichQueriesComeTogether) {
  for_each_kernel([](const kernels::Microkernel& kernel) {
    for (const Case& c : std::vector<Case>{{200, 230, 4, 2, 34},
                                           {330, 330, 1, 1, 8, 100},
                                           {330, 350, 2, 1, 8, 50, 2},
                                           {200, 230, 2, 1, 16, 0, 0, 0.2f},
                                           {330, 350, 1, 1, 8, 50, 2, 0.2f}}) {
      AttentionCall whole(c, 5);
      whole.kernel = &kernel;
      expect_cuts_change_nothing(whole, 5, {1, 37, 145});
      // The queries from a multiple of 64 on alone: their dQ.
      set_threads(2);
      Case late_case = c;
      late_case.queries = c.keys - 128;
      AttentionCall late(late_case, 5);
      late.kernel = &kernel;
      const auto tail = [&](const Floats& x, const Floats& of) {
        return of.span().last(x.span().size());
      };
      std::ranges::copy(tail(late.q, whole.q), late.q.span().begin());
      std::ranges::copy(tail(late.d_o, whole.d_o), late.d_o.span().begin());
      late.forward(0, late_case.queries);
      late.backward(false);
      EXPECT_TRUE(same_bits(late.o.span(), tail(late.o, whole.o)));
      EXPECT_TRUE(same_bits(late.dq.span(), tail(late.dq, whole.dq)));
    }
    set_threads(0);
  });
}

TEST(AttentionBf16, KeysOutOfReachAreNotTouched) {
  const Case c{400, 400, 1, 1, 8, 64};
  for_each_kernel([&](const kernels::Microkernel& kernel) {
    AttentionCall clean(c, 9), poisoned(c, 9);
    // All that no query of the call sees.
    for (int64_t i = 0; i < (300 - 63) * poisoned.width; ++i)
      poisoned.kv[i] = std::numeric_limits<float>::quiet_NaN();
    for (AttentionCall* a : {&clean, &poisoned}) {
      a->kernel = &kernel;
      a->o.fill(0);
      a->forward(300, 100);
    }
    EXPECT_TRUE(same_bits(clean.o.span(), poisoned.o.span()));
  });
}

TEST(AttentionBf16, WhatIsNotANumberStaysSo) {
  for_each_kernel([&](const kernels::Microkernel& kernel) {
    AttentionCall a({40, 40, 1, 1, 8}, 3);
    a.kernel = &kernel;
    a.q[20 * 8] = std::numeric_limits<float>::quiet_NaN();
    a.forward(0, 40);
    EXPECT_TRUE(std::isnan(a.o[20 * 8]));
    EXPECT_TRUE(std::isfinite(a.o[19 * 8]));
  });
}

TEST(AttentionBf16, LargeScoresStayFinite) {
  for_each_kernel([](const kernels::Microkernel& kernel) {
    AttentionCall a({40, 40, 1, 1, 8}, 3, 60);  // scores of thousands
    a.kernel = &kernel;
    a.forward(0, 40);
    a.backward(false);
    for (float v : a.o.span()) ASSERT_TRUE(std::isfinite(v));
    for (float v : a.dkv.span()) ASSERT_TRUE(std::isfinite(v));
  });
}

}  // namespace
}  // namespace refrain
